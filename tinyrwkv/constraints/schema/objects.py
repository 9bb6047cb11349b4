"""Write objects: their properties in the order of the schema."""

from __future__ import annotations

from collections.abc import Callable

from ..pattern import Node, Sequence
from .apart import names_of, writes_others
from .lists import Counts, Part, some_of
from .reader import Reader, json_text
from .search import Others
from .shapes import All, Objects
from .spelling import literal
from .strings import texts
from .validity import is_valid, property_of

Write = Callable[[All], "Node | None"]
"""Returns the tree of the values that are valid for all of some schemas."""


def object_(shape: Objects, reader: Reader, path: str, write: Write) -> Node | None:
    """Return the tree of the objects of a shape; None if there are none."""
    names = names_of(shape)
    parts = []
    for name in names:
        node = None
        if is_valid(name, shape.names, reader, False):
            node = write(property_of(shape, name, reader))
        if node is not None:
            key = literal(f"{json_text(name, path)}: ")
            reader.work.spend(len(name), path)
            parts.append(Part(Sequence((key, node)), name in shape.required))
        elif name in shape.required:
            return None
    others = _others(shape, names, reader, path, write) if writes_others(shape) else None
    inside = some_of(parts, others, Counts(shape.least, shape.most), reader.work, path)
    return None if inside is None else Sequence((literal("{"), inside, literal("}")))


def _others(
    shape: Objects, names: list[str], reader: Reader, path: str, write: Write
) -> Node | None:
    """Return a property whose name is none of those."""
    value = write(sum((members.others for members in shape.members), ()))
    name = texts([Others(names)], reader, path)
    if value is None or name is None:
        return None
    return Sequence((literal('"'), name, literal('": '), value))
