"""From a schema to its branches: the types, the combinations and the references."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import unquote

from ...errors import show
from ..pattern import Node
from .keywords import BY_TYPE, SHAPES, child
from .refusals import Work, too_large, unsupported, wrong
from .search import Machine, Search, Without
from .shapes import FREE, All, Any_, Branch, Numbers, Pattern, Shape, Subschema

DEEPEST = 32
"""Schemas inside of schemas at most."""

MOST_BRANCHES = 1_000
"""Alternatives of one schema at most, after those of all its parts were combined."""

MOST_RECURSION = 3
"""How often a reference is followed again inside of what it led to; less if that is too large."""

ANNOTATIONS = frozenset(
    [
        *("$schema", "$id", "id", "$comment", "$anchor", "$vocabulary", "$defs", "definitions"),
        *("title", "description", "default", "example", "examples", "deprecated"),
        *("readOnly", "writeOnly", "nullable", "discriminator", "xml", "externalDocs"),
    ]
)
"""Keywords that change nothing."""

COMBINATIONS = ("$ref", "allOf", "anyOf", "oneOf", "not", "enum", "const", "type")

_KNOWN = ANNOTATIONS.union(COMBINATIONS, *BY_TYPE.values())

_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")


class Reader:
    """Understands the parts of one schema.

    Parameters
    ----------
    root : object
        The whole schema, in which references are looked up.
    recursion : int, optional
        How often a reference is followed again inside of what it led to.

    Attributes
    ----------
    work : Work
    was_cut : bool
        A schema within itself was not followed any further.
    """

    def __init__(self, root: Any, recursion: int = MOST_RECURSION) -> None:
        self.root = root
        self.recursion = recursion
        self.work = Work()
        self.was_cut = False
        self._choices = 0  # each oneOf that was read has a number
        self._branches: dict[Any, list[Branch]] = {}
        self._searches: dict[int, tuple[Node, Search]] = {}

    def machines(self, pattern: Pattern) -> list[Machine]:
        """Return the automata that must all accept a string with a pattern."""
        without = [Without(self._search(tree, pattern.path)) for tree in pattern.without]
        return [self._search(pattern.tree, pattern.path), *without]

    def _search(self, tree: Node, path: str) -> Search:
        """Return the automaton of a tree, the same one each time."""
        if id(tree) not in self._searches:
            self._searches[id(tree)] = (tree, Search(tree, self.work, path))
        return self._searches[id(tree)][1]

    def branches(self, schemas: All) -> list[Branch]:
        """Return the ways to be valid for all of some schemas."""
        key = tuple([(id(one.schema), one.path, one.refs) for one in schemas])
        if key not in self._branches:
            found = [Branch(FREE)]
            for one in schemas:
                found = self._both(found, self._read(one), one.path)
            self._branches[key] = found
        return self._branches[key]

    def _both(self, some: list[Branch], others: list[Branch], path: str) -> list[Branch]:
        if len(some) * len(others) > MOST_BRANCHES:
            too_large(path, f"more than {MOST_BRANCHES:,} combinations of alternatives")
        for one in some:
            for other in others:
                self.work.spend(10 + len(one.values or ()) * len(other.values or ()), path)
        both = [one.both(other) for one in some for other in others]
        return [branch for branch in both if branch.shapes and branch.values != ()]

    def _read(self, of: Subschema) -> list[Branch]:
        schema = of.schema
        self.work.spend(100, of.path)
        if isinstance(schema, bool):
            return [Branch(FREE)] if schema else []
        if not isinstance(schema, Mapping):
            wrong(of.path, show(schema), "an object such as {'type': 'string'}")
        if of.depth > DEEPEST:
            if len(set(of.refs)) < len(of.refs):
                return self._cut()
            levels = f"more than {DEEPEST} levels"
            wrong(of.path, levels, "fewer", f"the schema has {levels}: {of.path}")
        self._check_keywords(of)
        if schema is not self.root and _has_id(schema):
            of = replace(of, foreign=True)
        found = [self._own(of)]
        for part in self._alternatives(of):
            found = self._both(found, part, of.path)
        return found

    def _cut(self) -> list[Branch]:
        self.was_cut = True
        return [Branch(FREE, is_cut=True)]

    def _alternatives(self, of: Subschema) -> list[list[Branch]]:
        """Return, for each thing that must hold besides, the branches of which one must."""
        parts = []
        schema = of.schema
        if "$ref" in schema:
            followed = self._follow(of)
            if schema.keys() - ANNOTATIONS != {"$ref"}:  # which draft 7 ignores
                followed = [replace(branch, is_narrow=True) for branch in followed]
            parts.append(followed)
        parts += self._listed(of, "allOf")
        if "anyOf" in schema:
            parts.append([branch for some in self._listed(of, "anyOf") for branch in some])
        if "oneOf" in schema:
            self._choices += 1
            parts.append(
                [
                    replace(branch, choices=((of.path, self._choices, i), *branch.choices))
                    for i, some in enumerate(self._listed(of, "oneOf"))
                    for branch in some
                ]
            )
        return parts

    def _listed(self, of: Subschema, key: str) -> list[list[Branch]]:
        """Return the branches of each schema in a list of schemas."""
        if key not in of.schema:
            return []
        listed = of.schema[key]
        if not isinstance(listed, list) or not listed:
            wrong(f"{of.path}.{key}", show(listed), "a list of one or more schemas")
        return [self._read(child(of, one, f".{key}[{i}]")) for i, one in enumerate(listed)]

    def _own(self, of: Subschema) -> Branch:
        """Return the branch that the keywords of a schema itself make."""
        schema = of.schema
        shapes: dict[str, Shape] = dict(FREE)
        for name, make in SHAPES.items():
            if not schema.keys().isdisjoint(BY_TYPE[name]):
                shapes[name] = make(of)
        types = self._types(of)
        if types is not None:
            if "integer" in types and "number" not in types:
                shapes["number"] = shapes["number"].both(Numbers(whole=True))  # type: ignore
                types = [*types, "number"]
            shapes = {name: shape for name, shape in shapes.items() if name in types}
        excluded = ((child(of, schema["not"], ".not"),),) if "not" in schema else ()
        branch = Branch(shapes, excluded=excluded)
        for values in self._constants(of):
            branch = branch.both(Branch(FREE, values))
        return branch

    def _constants(self, of: Subschema) -> list[tuple[Any, ...]]:
        """Return the values that ``const`` and ``enum`` list."""
        found = {}
        if "const" in of.schema:
            found["const"] = (of.schema["const"],)
        if "enum" in of.schema:
            if not isinstance(of.schema["enum"], list):
                wrong(f"{of.path}.enum", show(of.schema["enum"]), "a list")
            found["enum"] = tuple(of.schema["enum"])
        for key, values in found.items():
            for value in values:
                self.work.spend(len(json_text(value, f"{of.path}.{key}")), of.path)
        return list(found.values())

    def _types(self, of: Subschema) -> list[str] | None:
        """Return the types that a schema allows; None if it does not say."""
        if "type" not in of.schema:
            return None
        types = of.schema["type"]
        types = [types] if isinstance(types, str) else types
        if not isinstance(types, list) or not all(
            isinstance(name, str) and name in _TYPES for name in types
        ):
            wrong(f"{of.path}.type", show(of.schema["type"]), f"one of {', '.join(_TYPES)}")
        return types

    def _check_keywords(self, of: Subschema) -> None:
        for key in of.schema:
            is_extension = isinstance(key, str) and key.startswith("x-")
            if key not in _KNOWN and not is_extension:
                fix = "leave it out, or use the keywords that docs/constraints.md lists"
                found = f"keyword {show(key)}"
                sentence = f"{of.path} has the {found}, which is not understood"
                unsupported(of.path, found, "one that is understood", fix, sentence)

    def _follow(self, of: Subschema) -> list[Branch]:
        """Return the branches of the schema that a reference leads to."""
        ref = of.schema["$ref"]
        path = f"{of.path}.$ref"
        if not isinstance(ref, str):
            wrong(path, show(ref), "a text such as '#/$defs/name'")
        if of.foreign or not (ref == "#" or ref.startswith("#/")):
            _not_here(path, ref)
        if of.refs.count(ref) > self.recursion:
            return self._cut()
        schema = self.root
        target = "schema"
        foreign = False
        for part in unquote(ref[1:]).split("/")[1:]:
            key: Any = part.replace("~1", "/").replace("~0", "~")
            if isinstance(schema, list) and key.isascii() and key.isdigit() and len(key) < 9:
                key = int(key)
            try:
                schema = schema[key]
            except (KeyError, IndexError, TypeError):
                sentence = f"{path} is {show(ref)}, but the schema has no such part"
                wrong(path, show(ref), "a part of the schema", sentence)
            target += f"[{key}]" if isinstance(key, int) else f".{key}"
            foreign |= _has_id(schema)
        refs = (*of.refs, ref)
        return self._read(Subschema(schema, target, of.depth + 1, refs, foreign))


def _has_id(schema: Any) -> bool:
    keys = ("$id", "id")
    return isinstance(schema, Mapping) and any(isinstance(schema.get(key), str) for key in keys)


def _not_here(path: str, ref: str) -> NoReturn:
    expected = "a place in the schema itself, such as '#/$defs/name'"
    sentence = f"{path} is {show(ref)}, but can only be {expected}"
    unsupported(path, show(ref), expected, "put the schema there", sentence)


def json_text(value: Any, path: str) -> str:
    """Return a value as JSON.

    Raises
    ------
    ArgumentError
        JSON or UTF-8 cannot write it, or it is too deep.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        sentence = f"{path} has a value that JSON cannot write: {error}"
        wrong(path, f"{error}", "a value that JSON can write", sentence)
    inner = [value]
    for _ in range(DEEPEST if isinstance(value, (list, tuple, dict)) else 1):
        inner = [
            one
            for outer in inner
            if isinstance(outer, (list, tuple, dict))
            for one in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if inner:
        levels = f"a value of more than {DEEPEST} levels"
        wrong(path, levels, "fewer", f"{path} has {levels}")
    return text


def is_free(kind: str, shape: Shape) -> bool:
    """Tell whether nothing is said of the values of a type."""
    return shape == FREE[kind] or isinstance(shape, Any_)
