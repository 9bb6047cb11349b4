"""What a schema allows, by the type of the value.

A schema is a list of branches: a value is valid if it fits one of them. ``anyOf`` makes a branch of
each alternative, ``allOf`` makes one branch of two. A branch has a shape for each type that it
allows. All keywords of JSON Schema speak of one type, and leave values of other types alone. So a
branch without a word about strings has the shape of any string.

The parts of arrays and objects are schemas too: lists of `Subschema`, of which all must hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from ..pattern import Node


@dataclass(frozen=True)
class Subschema:
    """A schema somewhere in a schema.

    Attributes
    ----------
    schema : object
    path : str
        Its place, for messages.
    depth : int
        The number of schemas around it.
    refs : tuple of str
        The references that led here.
    foreign : bool
        It lies in a schema with an ``$id`` of its own, where references mean something else.
    """

    schema: Any
    path: str
    depth: int = 0
    refs: tuple[str, ...] = ()
    foreign: bool = False


All = tuple[Subschema, ...]
"""Schemas of which all must hold; without any, every value is valid."""


@dataclass(frozen=True)
class Pattern:
    """A pattern that must be found in a string, and others that must not."""

    tree: Node
    path: str
    without: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Strings:
    """Strings of some lengths that have all patterns and formats."""

    least: int = 0
    most: int | None = None
    patterns: tuple[Pattern, ...] = ()
    formats: tuple[str, ...] = ()

    def both(self, other: Strings) -> Strings:
        """Return the strings that fit both."""
        return Strings(
            max(self.least, other.least),
            smaller(self.most, other.most),
            self.patterns + other.patterns,
            self.formats + other.formats,
        )


@dataclass(frozen=True)
class Numbers:
    """Numbers between bounds that are a multiple of each of some numbers.

    Attributes
    ----------
    low, high : Decimal or None
        Bounds that are included.
    above, below : Decimal or None
        Bounds that are not.
    multiples : tuple of Decimal
    whole : bool
        Without a fraction.
    """

    low: Decimal | None = None
    high: Decimal | None = None
    above: Decimal | None = None
    below: Decimal | None = None
    multiples: tuple[Decimal, ...] = ()
    whole: bool = False

    def both(self, other: Numbers) -> Numbers:
        """Return the numbers that fit both."""
        return Numbers(
            larger(self.low, other.low),
            smaller(self.high, other.high),
            larger(self.above, other.above),
            smaller(self.below, other.below),
            self.multiples + other.multiples,
            self.whole or other.whole,
        )


@dataclass(frozen=True)
class Items:
    """What one schema says of the items of an array: of the first ones, then of all others."""

    first: tuple[All, ...] = ()
    others: All = ()

    def at(self, place: int) -> All:
        """Return the schemas of the item at a place."""
        return self.first[place] if place < len(self.first) else self.others


@dataclass(frozen=True)
class Arrays:
    """Arrays of some lengths whose items fit."""

    least: int = 0
    most: int | None = None
    items: tuple[Items, ...] = ()
    unique: str = ""  # the path of the keyword that asks for it

    def both(self, other: Arrays) -> Arrays:
        """Return the arrays that fit both."""
        return Arrays(
            max(self.least, other.least),
            smaller(self.most, other.most),
            self.items + other.items,
            self.unique or other.unique,
        )

    def at(self, place: int) -> All:
        """Return the schemas of the item at a place."""
        return sum((items.at(place) for items in self.items), ())


@dataclass(frozen=True)
class Members:
    """What one schema says of the properties of an object.

    Attributes
    ----------
    named : dict of str to All
    matching : tuple of (Pattern, All)
        For properties in whose names the pattern is found.
    others : All
        For the properties that are neither.
    are_free : bool
        Nothing is said of those others.
    """

    named: Mapping[str, All] = field(default_factory=dict)
    matching: tuple[tuple[Pattern, All], ...] = ()
    others: All = ()
    are_free: bool = True


@dataclass(frozen=True)
class Objects:
    """Objects with some number of properties that fit."""

    least: int = 0
    most: int | None = None
    members: tuple[Members, ...] = ()
    required: tuple[str, ...] = ()
    names: All = ()  # what the names must be

    def both(self, other: Objects) -> Objects:
        """Return the objects that fit both."""
        return Objects(
            max(self.least, other.least),
            smaller(self.most, other.most),
            self.members + other.members,
            tuple(dict.fromkeys(self.required + other.required)),
            self.names + other.names,
        )


@dataclass(frozen=True)
class Any_:
    """Any value of a type that has no keywords: true or false, or null."""

    def both(self, other: Any_) -> Any_:
        """Return itself."""
        return self


Shape = Strings | Numbers | Arrays | Objects | Any_

FREE: dict[str, Shape] = {
    "object": Objects(),
    "array": Arrays(),
    "string": Strings(),
    "number": Numbers(),
    "boolean": Any_(),
    "null": Any_(),
}
"""Any value, by its type. A whole number is a number."""


@dataclass(frozen=True)
class Branch:
    """One way for a value to be valid.

    Attributes
    ----------
    shapes : dict of str to Shape
        For each type that is allowed.
    values : tuple or None
        Of ``enum`` or ``const``: no others are valid.
    choices : tuple of (str, int, int)
        For each ``oneOf``: its path, its number, and which of its alternatives this is.
    excluded : tuple of All
        The schemas of ``not``.
    is_cut : bool
        A schema within itself was not followed any further: nothing is written, anything may fit.
    is_narrow : bool
        Drafts of JSON Schema disagree on it. This is what they have in common.
    """

    shapes: Mapping[str, Shape]
    values: tuple[Any, ...] | None = None
    choices: tuple[tuple[str, int, int], ...] = ()
    excluded: tuple[All, ...] = ()
    is_cut: bool = False
    is_narrow: bool = False

    def both(self, other: Branch) -> Branch:
        """Return the values that fit both; values are not yet compared with shapes."""
        shapes = {
            kind: shape.both(other.shapes[kind])  # type: ignore[arg-type]
            for kind, shape in self.shapes.items()
            if kind in other.shapes
        }
        values = self.values if other.values is None else other.values
        if self.values is not None and other.values is not None:
            values = tuple(
                one for one in self.values if any(same(one, two) for two in other.values)
            )
        return replace(
            self,
            shapes=shapes,
            values=values,
            choices=self.choices + other.choices,
            excluded=self.excluded + other.excluded,
            is_cut=self.is_cut or other.is_cut,
            is_narrow=self.is_narrow or other.is_narrow,
        )


def smaller(one: Any, other: Any) -> Any:
    """Return the smaller of two bounds; None is no bound."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def larger(one: Any, other: Any) -> Any:
    """Return the larger of two bounds; None is no bound."""
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def kind_of(value: Any) -> str | None:
    """Return the type of a value, as JSON Schema calls it; None if JSON has no such value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    for kinds, name in (((int, float), "number"), (str, "string"), ((list, tuple), "array")):
        if isinstance(value, kinds):
            return name
    return "object" if isinstance(value, Mapping) else None


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal as JSON: 1 is 1.0, but not true."""
    if kind_of(one) != kind_of(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)
