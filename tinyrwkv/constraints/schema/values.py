"""Write the values of a schema: the tree of their texts."""

from __future__ import annotations

from typing import Any

from ..pattern import Either, Node
from .apart import never_valid, written, written_values
from .arrays import array
from .digits import number
from .objects import object_
from .reader import Reader, json_text
from .refusals import unsupported, wrong
from .shapes import All, Branch, Shape, Subschema
from .spelling import either, literal
from .strings import string
from .validity import rival_choice


def tree_of(schema: Any, reader: Reader) -> Node:
    """Return the tree of the texts that a schema describes.

    Parameters
    ----------
    schema : object
    reader : Reader

    Raises
    ------
    ArgumentError
        It is not a schema, no value is valid for it, or it is too large.
    UnsupportedError
        It has something that is not supported.
    """
    writer = _Writer(reader)
    tree = writer.write((Subschema(schema, "schema"),))
    if tree is None:
        path = writer.empty or "schema"
        found = "no value that can be written"
        wrong(path, found, "at least one", f"no value is valid for {path}")
    return tree


class _Writer:
    """Writes the parts of one schema.

    Attributes
    ----------
    empty : str
        The first part for which no value is valid.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.empty = ""

    def write(self, schemas: All) -> Node | None:
        """Return the tree of the values that are valid for all of some schemas."""
        path = schemas[0].path if schemas else "schema"
        branches = self.reader.branches(schemas)
        nodes: list[Node] = []
        if self._exclude_each_other(branches):
            nodes = [node for branch in branches for node in self._branch(branch, path)]
        if not nodes:
            self.empty = self.empty or path
            return None
        return either(nodes)

    def _exclude_each_other(self, branches: list[Branch]) -> bool:
        """Tell whether of the alternatives of each ``oneOf`` only one can hold.

        If two may hold, the schema is refused. False is for an alternative that is the schema
        itself again, and is not followed any further: nothing is written then.
        """
        chosen = [branch for branch in branches if branch.choices]
        for one in chosen:
            for other in chosen:
                path = rival_choice(one, other)
                if path is None or never_valid(one, other, self.reader):
                    continue
                if other.is_cut:
                    return False
                path = f"{path}.oneOf"
                found = "alternatives that may hold at once"
                expected = "alternatives that exclude each other"
                fix = "use anyOf, or give each a property with another const"
                unsupported(path, found, expected, fix, f"{path} has {found}")
        return True

    def _branch(self, branch: Branch, path: str) -> list[Node]:
        """Return the trees of one branch: of its values, or of each type."""
        self.reader.work.spend(10, path)
        if branch.is_cut:
            return []
        values = written_values(branch, self.reader)
        if values is not None:
            return [literal(json_text(value, path)) for value in values]
        excluded = [other for schemas in branch.excluded for other in self.reader.branches(schemas)]
        nodes = [
            self._shape(kind, shape, path)
            for kind, shape in written(branch).items()
            if all(self._excludes_none(kind, shape, other) for other in excluded)
        ]
        return [node for node in nodes if node is not None]

    def _excludes_none(self, kind: str, shape: Shape, other: Branch) -> bool:
        """Tell whether ``not`` leaves all values of a shape."""
        one = Branch({kind: shape})
        return never_valid(one, other, self.reader)

    def _shape(self, kind: str, shape: Any, path: str) -> Node | None:
        if kind == "boolean":
            return Either((literal("true"), literal("false")))
        if kind == "null":
            return literal("null")
        if kind == "number":
            return number(shape, self.reader, path)
        if kind == "string":
            return string(shape, self.reader, path)
        make = array if kind == "array" else object_
        return make(shape, self.reader, path, self.write)
