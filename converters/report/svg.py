"""Small charts as SVG text, to stand inside a page: they take its colours and need nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH = 640
COLOURS = 6
"""Classes c0 to c5, which the page gives colours to."""


def bars(title: str, rows: Mapping[str, Mapping[str, float]], show: Callable[[float], str]) -> str:
    """Draw stacked horizontal bars.

    Parameters
    ----------
    title : str
    rows : mapping of str to mapping of str to float
        For each bar its parts, from 0 on.
    show : callable
        Writes a number for people.

    Returns
    -------
    str
    """
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    most = max((sum(parts.values()) for parts in rows.values()), default=0) or 1
    left, right = 130, 90
    body = []
    for i, (label, parts) in enumerate(rows.items()):
        y, x = 8 + 30 * i, float(left)
        body.append(_text(left - 8, y + 15, label, "end"))
        for name, value in parts.items():
            width = (WIDTH - left - right) * value / most
            tip = f"{label}, {name}: {show(value)}"
            body.append(_rect(x, y, width, 22, names.index(name), tip))
            x += width
        body.append(_text(x + 6, y + 15, show(sum(parts.values()))))
    height = 8 + 30 * len(rows)
    if len(names) > 1:
        body.append(_legend(names, left, height + 6))
        height += 26
    return _svg(title, height, body)


def columns(
    title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], top: float = 1.0
) -> str:
    """Draw upright bars side by side, a group for each label, from 0 to `top`."""
    left, low, height = 44, 170, 220
    span = (WIDTH - left - 10) / max(1, len(groups))
    wide = 0.8 * span / max(1, len(series))
    body = [*_grid(left, 10, low, [top * i / 4 for i in range(5)], lambda v: v / top)]
    for k, (name, values) in enumerate(series.items()):
        for i, value in enumerate(values):
            tall = (low - 10) * min(1.0, max(0.0, value / top))
            tip = f"{name}, {groups[i]}: {value:.3f}"
            body.append(
                _rect(left + span * i + wide * k + 0.1 * span, low - tall, wide, tall, k, tip)
            )
    body += [
        _text(left + span * (i + 0.5), low + 16, label, "middle") for i, label in enumerate(groups)
    ]
    body.append(_legend(list(series), left, low + 26))
    return _svg(title, height, body)


def deltas(title: str, values: Mapping[str, float], show: Callable[[float], str]) -> str:
    """Draw horizontal bars to both sides of 0."""
    left, right = 190, 90
    most = max((abs(value) for value in values.values()), default=0) or 1
    zero = left + (WIDTH - left - right) * (0.0 if min(values.values(), default=0) >= 0 else 0.5)
    scale = (WIDTH - right - zero) / most
    body = [
        f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="4" y2="{4 + 30 * len(values)}"/>'
    ]
    for i, (label, value) in enumerate(values.items()):
        y = 8 + 30 * i
        body.append(_text(left - 60, y + 15, label, "end"))
        body.append(
            _rect(
                min(zero, zero + value * scale),
                y,
                abs(value) * scale,
                22,
                0,
                f"{label}: {show(value)}",
            )
        )
        body.append(_text(max(zero, zero + value * scale) + 6, y + 15, show(value)))
    return _svg(title, 8 + 30 * len(values), body)


def curves(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    marks: Sequence[tuple[float, float]] = (),
    log_x: bool = False,
    log_y: bool = False,
    width: int = WIDTH,
    legend: bool = True,
) -> str:
    """Draw lines through points (x, y), and marked points; logarithmic axes begin at the least positive value."""
    left, right, top, low = 52, 12, 10, 170
    points = [point for line in series.values() for point in line if not (log_y and point[1] <= 0)]
    if not points:
        return ""
    place_x = _axis([x for x, _ in points], log_x)
    place_y = _axis([y for _, y in points], log_y)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (width - left - right) * place_x(x), low - (low - top) * place_y(y)

    body = _grid(left, top, low, _ticks([y for _, y in points], log_y), place_y, width)
    for x in _ticks([x for x, _ in points], log_x):
        body.append(_text(at(x, points[0][1])[0], low + 16, _number(x), "middle"))
    for k, (name, line) in enumerate(series.items()):
        path = " ".join(
            "{:.1f},{:.1f}".format(*at(x, y)) for x, y in line if not (log_y and y <= 0)
        )
        body.append(
            f'<polyline class="line s{k % COLOURS}" points="{path}"><title>{escape(name)}</title></polyline>'
        )
    for x, y in marks:
        px, py = at(x, y)
        body.append(
            f'<circle class="mark" cx="{px:.1f}" cy="{py:.1f}" r="3"><title>{x:g}: {y:.4g}</title></circle>'
        )
    if legend:
        body.append(_legend(list(series), left, low + 26))
    return _svg(title, low + (46 if legend else 24), body, width)


def _axis(values: Sequence[float], log: bool) -> Callable[[float], float]:
    """Return the map from values to 0 to 1."""
    if log:
        values = [math.log(value) for value in values if value > 0]
    low, high = min(values), max(values)
    span = high - low or 1.0

    def place(value: float) -> float:
        if log:
            value = math.log(value) if value > 0 else low
        return (value - low) / span

    return place


def _ticks(values: Sequence[float], log: bool) -> list[float]:
    """Return round numbers within the values: of a linear axis 1, 2 or 5 times a power of ten apart, two to six."""
    low, high = min(values), max(values)
    if not log:
        span = high - low
        if span <= max(1e-9 * abs(high), 1e-300):
            return [low]
        step = 10.0 ** math.floor(math.log10(span / 4))
        step *= next(times for times in (1, 2, 5, 10) if span <= 5 * times * step)
        return [
            i * step
            for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        ]
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**i for i in range(first, last + 1, max(1, (last - first) // 4))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def _grid(
    left: int,
    top: int,
    low: int,
    ticks: Sequence[float],
    place: Callable[[float], float],
    width: int = WIDTH,
) -> list[str]:
    body = []
    for tick in ticks:
        y = low - (low - top) * place(tick)
        body.append(f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(_text(left - 6, y + 4, _number(tick), "end"))
    return body


def _legend(names: Sequence[str], x: float, y: float) -> str:
    parts = []
    for k, name in enumerate(names):
        parts.append(_rect(x, y, 12, 12, k, name) + _text(x + 17, y + 11, name))
        x += 36 + 8 * len(name)
    return "".join(parts)


def _rect(x: float, y: float, width: float, height: float, colour: int, tip: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}"'
    return f'<rect class="c{colour % COLOURS}" {place}><title>{escape(tip)}</title></rect>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: float, body: Sequence[str], width: int = WIDTH) -> str:
    head = f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" role="img" aria-label="{escape(title)}">'
    return head + "".join(body) + "</svg>"
