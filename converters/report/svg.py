"""Small charts as SVG text.

They stand inside a page, take its colours and need nothing from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

WIDTH = 640
COLOURS = 6
"""Classes c0 to c5, which the page gives colours to."""

Points = Sequence[tuple[float, float]]
Axis = Callable[[float], float]
Titles = tuple[str, str]
"""Of the axis across and of the axis upwards."""

LEGEND_ROW = 20
"""From one row of a legend to the next."""

_TOP, _LOW = 26, 186  # of the area of a chart with axes; the title of one axis stands above it
_LEAST = 0.5  # a bar that is less wide everywhere cannot be seen


def bars(title: str, rows: Mapping[str, Mapping[str, float]], show: Callable[[float], str]) -> str:
    """Draw stacked horizontal bars.

    Parameters
    ----------
    title : str
    rows : mapping of str to mapping of str to float
        For each bar its parts, from 0 on. A part that is too small to be seen in any bar is left
        out, and the numbers behind the bars are still the sums of all.
    show : callable
        Writes a number for people.

    Returns
    -------
    str
    """
    most = max((sum(parts.values()) for parts in rows.values()), default=0) or 1
    left, right = 130, WIDTH - 90
    least = _LEAST * most / (right - left)
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    seen = [name for name in names if any(parts.get(name, 0) >= least for parts in rows.values())]
    body = []
    for i, (label, parts) in enumerate(rows.items()):
        y = 8 + 30 * i
        x = float(left)
        body.append(_text(left - 8, y + 15, label, "end"))
        for name in seen:
            value = parts.get(name, 0)
            width = (right - left) * value / most
            tip = f"{label}, {name}: {show(value)}"
            body.append(_rect(x, y, width, 22, names.index(name), tip))
            x += width
        body.append(_text(x + 6, y + 15, show(sum(parts.values()))))
    height = 8 + 30 * len(rows)
    if len(seen) > 1:
        legend, more = _legend({name: names.index(name) for name in seen}, 8, height + 6)
        body.append(legend)
        height += 26 + more
    return _svg(title, height, body)


def columns(
    title: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    top: float = 1.0,
    titles: Titles = ("", ""),
) -> str:
    """Draw upright bars side by side, a group for each label, from 0 to `top`.

    Parameters
    ----------
    title : str
    groups : sequence of str
        Labels of the groups.
    series : mapping of str to sequence of float
        For each colour a value in each group.
    top : float
    titles : (str, str)

    Returns
    -------
    str
    """
    left, high, low = 44, _TOP, _LOW
    span = (WIDTH - left - 10) / max(1, len(groups))
    wide = 0.8 * span / max(1, len(series))
    marks = [top * i / 4 for i in range(5)]
    body = _grid(left, high, low, marks, lambda value: value / top)
    for k, (name, values) in enumerate(series.items()):
        for i, value in enumerate(values):
            share = min(1.0, max(0.0, value / top))
            tall = (low - high) * share
            x = left + span * i + wide * k + 0.1 * span
            tip = f"{name}, {groups[i]}: {value:.3f}"
            body.append(_rect(x, low - tall, wide, tall, k, tip))
    for i, label in enumerate(groups):
        body.append(_text(left + span * (i + 0.5), low + 16, label, "middle"))
    body += _axis_titles(titles, left, WIDTH - 10)
    legend, more = _legend({name: k for k, name in enumerate(series)}, left, low + 42)
    return _svg(title, low + 62 + more, [*body, legend])


def deltas(
    title: str, values: Mapping[str, float], show: Callable[[float], str], axis: str = ""
) -> str:
    """Draw horizontal bars to both sides of 0.

    Parameters
    ----------
    title : str
    values : mapping of str to float
    show : callable
        Writes a number for people.
    axis : str
        What the bars measure; it stands under them.

    Returns
    -------
    str
    """
    left, right = 190, WIDTH - 90
    height = 8 + 30 * len(values)
    most = max((abs(value) for value in values.values()), default=0) or 1
    one_sided = min(values.values(), default=0) >= 0
    zero = left if one_sided else (left + right) / 2
    scale = (right - zero) / most
    body = [f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="4" y2="{height - 4}"/>']
    for i, (label, value) in enumerate(values.items()):
        y = 8 + 30 * i
        end = zero + value * scale
        tip = f"{label}: {show(value)}"
        body.append(_text(left - 60, y + 15, label, "end"))
        body.append(_rect(min(zero, end), y, abs(value) * scale, 22, 0, tip))
        body.append(_text(max(zero, end) + 6, y + 15, show(value)))
    body.append(_text(zero, height + 14, axis, "start" if one_sided else "middle"))
    return _svg(title, height + 20, body)


def curves(
    title: str,
    series: Mapping[str, Points],
    marks: Points = (),
    log_x: bool = False,
    log_y: bool = False,
    width: int = WIDTH,
    titles: Titles = ("", ""),
    in_order: bool = False,
) -> str:
    """Draw lines through points (x, y), and marked points.

    Parameters
    ----------
    title : str
    series : mapping of str to sequence of (float, float)
        The points of each line.
    marks : sequence of (float, float)
        Points that get a dot.
    log_x, log_y : bool
        Whether an axis is logarithmic; it begins at the least positive value then.
    width : int
    titles : (str, str)
    in_order : bool
        Whether the lines have an order. Their colours tell it then, and the legend has only the
        first and the last one. Without a name for a line there is no legend.

    Returns
    -------
    str
        Empty if there is nothing to draw.
    """
    left, right = 52, width - 12
    top, low = _TOP, _LOW
    lines = {name: _drawable(line, log_y) for name, line in series.items()}
    xs = [x for line in lines.values() for x, _ in line]
    ys = [y for line in lines.values() for _, y in line]
    if not xs:
        return ""
    axis_x, axis_y = _axis(xs, log_x), _axis(ys, log_y)

    def across(x: float) -> float:
        return left + (right - left) * axis_x(x)

    def down(y: float) -> float:
        return low - (low - top) * axis_y(y)

    body = _grid(left, top, low, ticks(ys, log_y), axis_y, width)
    for x in ticks(xs, log_x):
        body.append(_text(across(x), low + 16, number_text(x), "middle"))
    hues = _hues(len(lines)) if in_order else None
    for k, (name, line) in enumerate(lines.items()):
        points = [(across(x), down(y)) for x, y in line]
        body.append(_polyline(points, k, name, hues))
    for x, y in marks:
        tip = f"{x:g}: {y:.4g}"
        body.append(_dot(across(x), down(y), tip))
    body += _axis_titles(titles, left, right)
    shown = sorted({0, len(series) - 1}) if in_order else range(len(series))
    names = {k: name for k, name in enumerate(series) if name and k in shown}
    legend, more = _legend_of_lines(names, left, low + 42, width, hues)
    return _svg(title, low + (62 + more if any(series) else 40), [*body, legend], width)


def _hues(count: int) -> list[int]:
    """Return a hue for each line, from blue to orange."""
    return [210 + 180 * k // max(1, count - 1) for k in range(count)]


def _axis_titles(titles: Titles, left: float, right: float) -> list[str]:
    """Return the title of the axis across, under its numbers, and of the other, above it."""
    across, upwards = titles
    found = [_text((left + right) / 2, _LOW + 32, across, "middle")] if across else []
    return [*found, _text(4, 12, upwards)] if upwards else found


def _drawable(line: Points, log_y: bool) -> Points:
    """Return the points that have a place on the axes."""
    return [(x, y) for x, y in line if y > 0 or not log_y]


def _axis(values: Sequence[float], log: bool) -> Axis:
    """Return the function that maps the values to the range from 0 to 1."""
    if log:
        values = [math.log(value) for value in values if value > 0]
    low, high = min(values), max(values)
    span = high - low or 1.0

    def place(value: float) -> float:
        if log:
            value = math.log(value) if value > 0 else low
        return (value - low) / span

    return place


def ticks(values: Sequence[float], log: bool) -> list[float]:
    """Return round numbers within the values.

    A linear axis has two to six of them, at a distance of 1, 2 or 5 times a power of ten. Those of
    a logarithmic axis are powers of ten.
    """
    low, high = min(values), max(values)
    if log:
        first = math.ceil(math.log10(low) - 1e-9)
        last = math.floor(math.log10(high) + 1e-9)
        return [10.0**i for i in range(first, last + 1, max(1, (last - first) // 4))]
    span = high - low
    if span <= max(1e-9 * abs(high), 1e-300):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(times for times in (1, 2, 5, 10) if span <= 5 * times * step)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number_text(value: float) -> str:
    """Return a number as an axis shows it: three digits, or all of a whole number of thousands."""
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def _grid(
    left: int, top: int, low: int, marks: Sequence[float], axis: Axis, width: int = WIDTH
) -> list[str]:
    """Return a line across the chart for each tick, with its number."""
    right = width - 10
    body = []
    for tick in marks:
        y = low - (low - top) * axis(tick)
        body.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(_text(left - 6, y + 4, number_text(tick), "end"))
    return body


def _legend(colours: Mapping[str, int], left: int, top: int) -> tuple[str, int]:
    """Return the code of a legend, and how much its rows after the first one add to its height."""
    places = _places(colours, left, top, WIDTH)
    parts = []
    for (name, colour), (x, y) in zip(colours.items(), places, strict=True):
        parts.append(_rect(x, y, 12, 12, colour, name))
        parts.append(_text(x + 17, y + 11, name))
    return "".join(parts), _height_after_first(places)


def _legend_of_lines(
    names: Mapping[int, str], left: int, top: int, right: int, hues: Sequence[int] | None
) -> tuple[str, int]:
    """Do what `_legend` does for lines, whose names are given by their numbers."""
    places = _places(names.values(), left, top, right)
    parts = []
    for (k, name), (x, y) in zip(names.items(), places, strict=True):
        parts.append(_polyline([(x, y + 6), (x + 14, y + 6)], k, name, hues))
        parts.append(_text(x + 19, y + 11, name))
    return "".join(parts), _height_after_first(places)


def _places(names: Iterable[str], left: int, top: int, right: int) -> list[tuple[int, int]]:
    """Return where each entry of a legend begins; what has no room in a row begins the next one."""
    places = []
    x, y = left, top
    for name in names:
        width = _legend_width(name)
        if x > left and x + width > right:
            x, y = left, y + LEGEND_ROW
        places.append((x, y))
        x += width
    return places


def _height_after_first(places: Sequence[tuple[int, int]]) -> int:
    return places[-1][1] - places[0][1] if places else 0


def _legend_width(name: str) -> int:
    return 30 + round(8.4 * len(name))


def _rect(x: float, y: float, width: float, height: float, colour: int, tip: str) -> str:
    width, height = max(0.0, width), max(0.0, height)
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="c{colour % COLOURS}" {place}>{_tip(tip)}</rect>'


def _polyline(points: Points, colour: int, tip: str, hues: Sequence[int] | None = None) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    look = f'class="line s{colour % COLOURS}"'
    if hues is not None:
        look = f'class="line" style="stroke: hsl({hues[colour]} 55% 52%)"'
    return f'<polyline {look} points="{path}">{_tip(tip)}</polyline>'


def _dot(x: float, y: float, tip: str) -> str:
    return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3">{_tip(tip)}</circle>'


def _tip(text: str) -> str:
    """Return what a browser shows under the pointer."""
    return f"<title>{escape(text)}</title>"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: float, body: Sequence[str], width: int = WIDTH) -> str:
    box = f'viewBox="0 0 {width} {height:.0f}" width="{width}"'
    content = "".join(body)
    return f'<svg {box} role="img" aria-label="{escape(title)}">{content}</svg>'
