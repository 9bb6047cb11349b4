"""Lay out a graph in layers: users above, what they use below, and few arrows between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from imports import closure

SWEEPS = 16
"""How often the order of each layer and the places in it are improved."""


class Edge(NamedTuple):
    """An arrow from `user` to `used`; a smaller `kind` is a stronger one."""

    user: str
    used: str
    kind: int = 0


def uses_of(edges: Iterable[Edge]) -> dict[str, set[str]]:
    """Return what each node uses."""
    uses: dict[str, set[str]] = {}
    for edge in edges:
        uses.setdefault(edge.user, set()).add(edge.used)
    return uses


def directed(weights: Mapping[Edge, int]) -> tuple[list[Edge], list[Edge]]:
    """Split arrows into those that go one way, and the few that would close a circle.

    The strongest and heaviest arrows set the direction.

    Examples
    --------
    >>> directed({Edge("a", "b"): 1, Edge("b", "a"): 5})
    ([Edge(user='b', used='a', kind=0)], [Edge(user='a', used='b', kind=0)])
    """
    down: list[Edge] = []
    against: list[Edge] = []
    for edge in sorted(weights, key=lambda edge: (edge.kind, -weights[edge], edge)):
        closes = edge.user in closure(uses_of(down), edge.used)
        (against if closes else down).append(edge)
    return down, against


def reduced(edges: Iterable[Edge]) -> list[Edge]:
    """Leave out each arrow that follows from others which are as strong (the transitive reduction).

    Examples
    --------
    >>> [edge.used for edge in reduced([Edge("a", "b"), Edge("b", "c"), Edge("a", "c")])]
    ['b', 'c']
    """
    edges = sorted(edges)
    kept = []
    for edge in edges:
        uses = uses_of(other for other in edges if other.kind <= edge.kind)
        between = uses[edge.user] - {edge.used}
        if not any(edge.used in closure(uses, node) for node in between):
            kept.append(edge)
    return kept


def layers_of(nodes: Iterable[str], edges: Iterable[Edge], wide: int) -> list[list[str]]:
    """Return the layers from the lowest to the highest, each of `wide` nodes at most.

    Examples
    --------
    >>> layers_of("abc", [Edge("a", "b"), Edge("b", "c")], 2)
    [['c'], ['b'], ['a']]
    """
    uses = uses_of(edges)
    used_by = uses_of(Edge(edge.used, edge.user) for edge in edges)
    waiting = sorted(nodes, key=lambda node: (-_height(used_by, node), node))
    layers: list[list[str]] = []
    placed: set[str] = set()
    while waiting:
        ready = [node for node in waiting if uses.get(node, set()) <= placed]
        layers.append(ready[:wide])
        placed |= set(layers[-1])
        waiting = [node for node in waiting if node not in placed]
    for node in [node for layer in reversed(layers) for node in layer]:
        _lift(layers, node, uses.get(node, set()), used_by.get(node, set()), wide)
    return [sorted(layer) for layer in layers if layer]


def _height(used_by: Mapping[str, set[str]], node: str) -> int:
    return 1 + max((_height(used_by, user) for user in used_by.get(node, ())), default=0)


def _lift(layers: list[list[str]], node: str, uses: set[str], users: set[str], wide: int) -> None:
    """Move a node close to its users, if it has more of them than things that it uses."""
    if len(users) <= len(uses):
        return
    here = next(at for at, layer in enumerate(layers) if node in layer)
    lowest_user = min(at for at, layer in enumerate(layers) if users & set(layer))
    for level in range(lowest_user - 1, here, -1):
        if len(layers[level]) < wide:
            layers[here].remove(node)
            layers[level].append(node)
            return


@dataclass
class Drawing:
    """Nodes and arrows with their places; y counts layers from the top.

    Attributes
    ----------
    layers : list of list of str
        From the highest to the lowest; a name that begins with a colon is a bend of an arrow.
    x : dict of str to float
        The middle of each node and bend.
    chains : dict of Edge to list of str
        What each arrow passes, from its upper end to its lower one.
    """

    layers: list[list[str]]
    x: dict[str, float] = field(default_factory=dict)
    chains: dict[Edge, list[str]] = field(default_factory=dict)


def laid_out(
    nodes: Iterable[str],
    down: list[Edge],
    against: list[Edge],
    size: Size,
    wide: int,
) -> Drawing:
    """Place nodes in layers, with arrows of `down` going down and those of `against` going up."""
    drawing = Drawing(layers_of(nodes, down, wide)[::-1])
    level = {node: y for y, layer in enumerate(drawing.layers) for node in layer}
    for edge in [*down, *against]:
        first, last = sorted((edge.user, edge.used), key=lambda node: (level[node], node))
        bends = []
        for y in range(level[first] + 1, level[last]):
            bends.append(f":{edge.user} {edge.used} {y}")
            drawing.layers[y].append(bends[-1])
        drawing.chains[edge] = [first, *bends, last]
    _sort_layers(drawing)
    _place(drawing, size)
    return drawing


def is_bend(node: str) -> bool:
    """Tell whether this is where an arrow passes a layer."""
    return node.startswith(":")


def _neighbours(drawing: Drawing) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {node: [] for layer in drawing.layers for node in layer}
    for chain in drawing.chains.values():
        for upper, lower in itertools.pairwise(chain):
            found[upper].append(lower)
            found[lower].append(upper)
    return found


def _sort_layers(drawing: Drawing) -> None:
    """Order each layer by its neighbours, and keep the order with the fewest crossings."""
    neighbours = _neighbours(drawing)
    best = [list(layer) for layer in drawing.layers]
    for sweep in range(SWEEPS):
        order = range(len(drawing.layers))
        for y in order if sweep % 2 == 0 else reversed(order):
            rank = _ranks(drawing.layers)
            middle = {node: _mean(rank, neighbours[node], rank[node]) for node in drawing.layers[y]}
            drawing.layers[y].sort(key=lambda node: (middle[node], node))
        if _crossings(drawing, drawing.layers) < _crossings(drawing, best):
            best = [list(layer) for layer in drawing.layers]
    drawing.layers = best


def _ranks(layers: list[list[str]]) -> dict[str, float]:
    """Return the place of each node in its layer, from 0 to 1."""
    return {node: (at + 0.5) / len(layer) for layer in layers for at, node in enumerate(layer)}


def _mean(values: Mapping[str, float], nodes: list[str], otherwise: float) -> float:
    return math.fsum(values[node] for node in nodes) / len(nodes) if nodes else otherwise


def _crossings(drawing: Drawing, layers: list[list[str]]) -> int:
    rank = _ranks(layers)
    level = {node: y for y, layer in enumerate(layers) for node in layer}
    parts: dict[int, list[tuple[float, float]]] = {}
    for chain in drawing.chains.values():
        for upper, lower in itertools.pairwise(chain):
            parts.setdefault(level[upper], []).append((rank[upper], rank[lower]))
    count = 0
    for listed in parts.values():
        for (upper, lower), (other_upper, other_lower) in itertools.combinations(listed, 2):
            count += (upper - other_upper) * (lower - other_lower) < 0
    return count


class Size(NamedTuple):
    """How wide boxes and bends are, and how far apart."""

    box: float
    bend: float
    gap: float

    def apart(self, left: str, right: str) -> float:
        """Return the least distance between the middles of two neighbours of a layer."""
        widths = [self.bend if is_bend(node) else self.box for node in (left, right)]
        return sum(widths) / 2 + self.gap


def _place(drawing: Drawing, size: Size) -> None:
    """Give each node a place near the middle of its neighbours, without overlaps."""
    neighbours = _neighbours(drawing)
    for layer in drawing.layers:
        drawing.x |= _spread(layer, [0.0] * len(layer), size)
    for sweep in range(4 * SWEEPS):
        for layer in drawing.layers if sweep % 2 else drawing.layers[::-1]:
            wanted = [_mean(drawing.x, neighbours[node], drawing.x[node]) for node in layer]
            drawing.x |= _spread(layer, wanted, size)
    left = min(drawing.x.values())
    drawing.x = {node: round(x - left, 1) for node, x in drawing.x.items()}


def _spread(layer: list[str], wanted: list[float], size: Size) -> dict[str, float]:
    """Return places in this order, as near to the wanted ones as the widths allow."""
    offsets = [0.0]
    for left, right in itertools.pairwise(layer):
        offsets.append(offsets[-1] + size.apart(left, right))
    # Less their offsets, the places must not decrease: neighbours that would are put on their mean.
    groups: list[list[float]] = []
    for place, offset in zip(wanted, offsets, strict=True):
        groups.append([place - offset])
        while len(groups) > 1 and _average(groups[-2]) > _average(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    even = [_average(group) for group in groups for _ in group]
    return dict(zip(layer, [a + b for a, b in zip(even, offsets, strict=True)], strict=True))


def _average(values: list[float]) -> float:
    return math.fsum(values) / len(values)
