"""Draw which room imports which: ``python docs/pictures/architecture.py``.

This writes architecture.svg beside it. A folder of a package is a room. A file directly in the
package is a room too. With ``--check`` nothing is written: the exit status is 1 where the
committed drawing is not what the imports make.
"""

from __future__ import annotations

import ast
import itertools
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / ".ci"))

from imports import LOAD, PACKAGES, TYPES, Module, closure, imports, modules
from layers import Drawing, Edge, Size, directed, is_bend, laid_out, reduced, uses_of

DRAWN = Path(__file__).with_name("architecture.svg")
COMMAND = "python docs/pictures/architecture.py"

CORE = "tinyrwkv.model"
"""What this needs is the core; the other rooms may be left out."""

# The rooms


def room_of(module: Module) -> str:
    """Return the room of a module, such as ``tinyrwkv.engine`` for ``tinyrwkv.engine.pool``."""
    parts = module.name.split(".")
    return ".".join([*parts[:2], "__init__"][:2])


class Room(NamedTuple):
    """A room: its label and what it is for."""

    label: str
    purpose: str


def rooms(found: dict[str, Module]) -> dict[str, Room]:
    """Return the rooms by name; what each is for is the first line of its docstring."""
    members: dict[str, list[Module]] = {}
    for module in found.values():
        members.setdefault(room_of(module), []).append(module)
    made = {}
    for name, listed in members.items():
        head = next((one for one in listed if one.name == name), listed[0])
        is_folder = head.is_package and not name.endswith(".__init__")
        text = ast.get_docstring(ast.parse(head.path.read_text("utf-8"))) or ""
        label = name.partition(".")[2] + ("/" if is_folder else ".py")
        made[name] = Room(label, text.partition("\n")[0].replace("`", ""))
    return made


def room_imports(found: dict[str, Module]) -> dict[Edge, int]:
    """Return how many imports lead from room to room; the strongest of them gives the kind."""
    counts: Counter[tuple[str, str]] = Counter()
    strongest: dict[tuple[str, str], int] = {}
    for user, used, kind in imports(found):
        pair = room_of(found[user]), room_of(found[used])
        if pair[0] != pair[1]:
            counts[pair] += 1
            strongest[pair] = min(kind, strongest.get(pair, TYPES))
    return {Edge(*pair, strongest[pair]): count for pair, count in sorted(counts.items())}


# The drawing

BOX = Size(box=158, bend=10, gap=12)
HEIGHT, BETWEEN, MARGIN, TITLE = 70, 40, 24, 34
LETTERS, LINES = 24, 3  # of what a room is for
WIDE = 5

STYLE = """
text { font: 11px Arial, Helvetica, sans-serif; fill: #333; }
.name { font-size: 14px; font-weight: bold; fill: #111; }
.title { font-size: 17px; font-weight: bold; fill: #111; }
.paper { fill: #fff; }
.panel { fill: #f4f6f8; stroke: #c8d0d8; }
.core { fill: #d6e8fa; stroke: #2f6fab; stroke-width: 1.4; }
.apart { fill: #fff; stroke: #77838f; stroke-width: 1.4; stroke-dasharray: 5 3; }
.arrow { fill: none; stroke: #4a5662; stroke-width: 1.4; }
.late { stroke-dasharray: 5 4; }
.up { stroke: #b3541e; }
.head { fill: #4a5662; }
.head-up { fill: #b3541e; }
@media (prefers-color-scheme: dark) {
text { fill: #c9d1d9; }
.name, .title { fill: #f0f6fc; }
.paper { fill: #0f1318; }
.panel { fill: #171c23; stroke: #38424d; }
.core { fill: #17395c; stroke: #6cb0f5; }
.apart { fill: #0f1318; stroke: #8b98a5; }
.arrow { stroke: #a9b4bf; }
.up { stroke: #f0975a; }
.head { fill: #a9b4bf; }
.head-up { fill: #f0975a; }
}
"""

MARKER = (
    '<marker id="{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
    ' orient="auto"><path class="{0}" d="M0 0 8 4 0 8z"/></marker>'
)


def text(x: float, y: float, words: str, style: str = "") -> str:
    """Return one line of text."""
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:g}" y="{y:g}"{kind}>{escape(words)}</text>'


def rectangle(x: float, y: float, width: float, height: float, style: str) -> str:
    """Return a rectangle with round corners."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect class="{style}" {place} rx="6"/>'


def box(x: float, y: float, room: Room, style: str) -> Iterator[str]:
    """Yield the box of a room whose upper left corner is at x, y."""
    yield rectangle(x, y, BOX.box, HEIGHT, style)
    yield text(x + 8, y + 18, room.label, "name")
    lines = textwrap.wrap(room.purpose.rstrip("."), LETTERS, max_lines=LINES, placeholder=" ...")
    for number, line in enumerate(lines):
        yield text(x + 8, y + 34 + 14 * number, line)


class Panel(NamedTuple):
    """The drawing of one package, and the place of its first box."""

    drawing: Drawing
    left: float
    top: float

    @property
    def width(self) -> float:
        """How wide all boxes and bends together are."""
        return max(self.drawing.x.values()) + BOX.box

    @property
    def height(self) -> float:
        """How high all layers together are."""
        return len(self.drawing.layers) * (HEIGHT + BETWEEN) - BETWEEN

    def middle(self, node: str) -> float:
        """Return the x of a node's middle."""
        return self.left + BOX.box / 2 + self.drawing.x[node]

    def upper_edge(self, node: str) -> float:
        """Return the y of the upper edge of a node."""
        level = next(y for y, layer in enumerate(self.drawing.layers) if node in layer)
        return self.top + level * (HEIGHT + BETWEEN)

    def port(self, node: str, edge: Edge, below: bool) -> float:
        """Return the x at which an arrow meets a box: those of one side stand side by side."""
        beside = {}
        for other, chain in self.drawing.chains.items():
            if node == chain[0 if below else -1]:
                beside[other] = self.drawing.x[chain[1 if below else -2]]
        order = sorted(beside, key=lambda other: (beside[other], other))
        share = (order.index(edge) + 1) / (len(order) + 1)
        return self.middle(node) + BOX.box * 0.8 * (share - 0.5)

    def curve(self, edge: Edge) -> str:
        """Return the path of an arrow from the user to what it uses."""
        chain = self.drawing.chains[edge]
        points = [(self.port(chain[0], edge, True), self.upper_edge(chain[0]) + HEIGHT)]
        for node in chain[1:-1]:
            y = self.upper_edge(node)
            points += [(self.middle(node), y), (self.middle(node), y + HEIGHT)]
        points.append((self.port(chain[-1], edge, False), self.upper_edge(chain[-1])))
        if edge.user != chain[0]:
            points.reverse()
        path = [f"M{points[0][0]:.1f} {points[0][1]:g}"]
        for (x, y), (next_x, next_y) in itertools.pairwise(points):
            half = (y + next_y) / 2
            path.append(f"C{x:.1f} {half:g} {next_x:.1f} {half:g} {next_x:.1f} {next_y:g}")
        return " ".join(path)


def panel_of(package: str, edges: dict[Edge, int], names: list[str]) -> tuple[Drawing, set[Edge]]:
    """Return the drawing of a package, and which of its arrows go up."""
    own = [edge for edge in edges if within(edge.user, package)]
    own = [edge for edge in own if within(edge.used, package)]
    down, against = directed({edge: edges[edge] for edge in own})
    mine = [name for name in names if within(name, package)]
    return laid_out(mine, reduced(down), against, BOX, WIDE), set(against)


def within(room: str, package: str) -> bool:
    """Tell whether a room is one of a package."""
    return room.partition(".")[0] == package


def draw_panel(panel: Panel, up: set[Edge], made: dict[str, Room], core: set[str]) -> Iterator[str]:
    """Yield the arrows and boxes of a package."""
    for edge in sorted(panel.drawing.chains):
        styles = ["arrow", *["late"] * (edge.kind > LOAD), *["up"] * (edge in up)]
        head = "head-up" if edge in up else "head"
        style = " ".join(styles)
        yield f'<path class="{style}" marker-end="url(#{head})" d="{panel.curve(edge)}"/>'
    for layer in panel.drawing.layers:
        for node in layer:
            if not is_bend(node):
                style = "core" if node in core else "apart"
                x = panel.middle(node) - BOX.box / 2
                yield from box(x, panel.upper_edge(node), made[node], style)


def legend(y: float, has_late: bool, has_up: bool) -> Iterator[str]:
    """Yield the explanation of boxes and arrows."""
    x = MARGIN + 12.0
    signs = [("core", "the core"), ("apart", "the core never imports it")]
    for style, words in signs:
        yield rectangle(x, y - 10, 22, 13, style)
        yield text(x + 28, y, words)
        x += 46 + 6 * len(words)
    arrows = [("arrow", "head", "imports")]
    arrows += [("arrow late", "head", "only in a function, or for types")] * has_late
    arrows += [("arrow up", "head-up", "against the direction of the others")] * has_up
    for style, head, words in arrows:
        yield f'<path class="{style}" marker-end="url(#{head})" d="M{x:g} {y - 4:g} h26"/>'
        yield text(x + 32, y, words)
        x += 50 + 6 * len(words)


def described(made: dict[str, Room], edges: dict[Edge, int]) -> str:
    """Return all imports between rooms as text, those too that the drawing leaves out."""
    words = ("", " (in a function)", " (for types)")
    lines = []
    for name in made:
        used = [edge for edge in edges if edge.user == name]
        listed = ", ".join(edge.used + words[edge.kind] for edge in used)
        lines.append(f"{name} imports {listed or 'nothing of the project'}.")
    return "\n".join(lines)


def core_rooms(edges: dict[Edge, int]) -> set[str]:
    """Return the rooms that a model cannot do without."""
    return {CORE, *closure(uses_of(edge for edge in edges if edge.kind != TYPES), CORE)}


def picture(root: Path) -> str:
    """Return the drawing of the packages below a folder."""
    found = modules(root)
    made, edges = rooms(found), room_imports(found)
    core = core_rooms(edges)
    kinds, parts, y, width = set(), [], MARGIN + 20.0, 0.0
    for package in PACKAGES:
        drawing, up = panel_of(package, edges, sorted(made))
        panel = Panel(drawing, MARGIN + 14, y + TITLE + 14)
        kinds |= {(edge.kind > LOAD, edge in up) for edge in drawing.chains}
        parts.append((package, panel, up))
        width = max(width, panel.width + 28)
        y = panel.top + panel.height + 14 + BETWEEN
    lines = [rectangle(0, 0, width + 2 * MARGIN, y - BETWEEN + MARGIN, "paper")]
    lines += legend(MARGIN + 4, any(late for late, _ in kinds), any(up for _, up in kinds))
    for number, (package, panel, up) in enumerate(parts):
        top = panel.top - TITLE - 14
        lines.append(rectangle(MARGIN, top, width, panel.height + TITLE + 28, "panel"))
        lines.append(text(MARGIN + 14, top + 26, f"{package}/", "title"))
        centred = panel._replace(left=panel.left + (width - 28 - panel.width) / 2)
        lines += draw_panel(centred, up, made, core)
        if number + 1 < len(parts):
            lines += bridge(edges, package, panel.top + panel.height + 14, width)
    return framed(width + 2 * MARGIN, y - BETWEEN + MARGIN, described(made, edges), lines)


def bridge(edges: dict[Edge, int], package: str, y: float, width: float) -> Iterator[str]:
    """Yield one arrow for all imports from a package into the one below it, and their names."""
    crossing = [edge for edge in edges if within(edge.user, package) != within(edge.used, package)]
    used = sorted({edge.used.partition(".")[2] for edge in crossing if within(edge.user, package)})
    middle = MARGIN + 60
    if used:
        yield f'<path class="arrow" marker-end="url(#head)" d="M{middle:g} {y:g}v{BETWEEN}"/>'
        lines = textwrap.wrap("imports " + ", ".join(used), int((width - 80) / 6))
        for number, line in enumerate(lines):
            yield text(middle + 12, y + 19 + 14 * number, line)


def framed(width: float, height: float, description: str, lines: list[str]) -> str:
    """Return the whole file."""
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" height="{height:g}" role="img">',
        "<title>Which room imports which</title>",
        f"<desc>{escape(description)}</desc>",
        f"<style>{STYLE}</style>",
        f"<defs>{MARKER.format('head')}{MARKER.format('head-up')}</defs>",
    ]
    return "\n".join([*head, *lines, "</svg>"]) + "\n"


def main(arguments: list[str]) -> int:
    """Write the drawing, or compare it with what is there."""
    made = picture(ROOT)
    if arguments not in ([], ["--check"]):
        print(f"usage: {COMMAND} [--check]", file=sys.stderr)
        return 2
    if not arguments:
        DRAWN.write_text(made, "utf-8")
        return 0
    committed = DRAWN.read_text("utf-8") if DRAWN.exists() else ""
    if committed == made:
        return 0
    name = DRAWN.relative_to(ROOT).as_posix()
    print(f"{name} does not show the imports as they are now: run {COMMAND}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
