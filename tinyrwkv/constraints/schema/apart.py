"""Whether two branches have no value in common, for ``oneOf`` and ``not``.

The question is not symmetric: is any text that is written for one branch a valid value of the
other? Less is written than is valid. A branch writes only the properties that it names, for
instance. The answer may be "yes, perhaps" where a closer look would say no.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .formats import format_of
from .reader import Reader, is_free
from .search import Lengths, together
from .shapes import All, Arrays, Branch, Numbers, Objects, Shape, Strings, smaller
from .spelling import SPELLABLE
from .validity import fits, property_of

SCALARS = ("string", "number", "boolean", "null")
"""What is written where anything is allowed."""


def written(branch: Branch) -> Mapping[str, Shape]:
    """Return the shapes that are written for a branch.

    If every type is allowed, these are the types of which something is said; or a string, a
    number, true, false or null if nothing is said at all.
    """
    if len(branch.shapes) < 6:
        return branch.shapes
    spoken = {kind: shape for kind, shape in branch.shapes.items() if not is_free(kind, shape)}
    return spoken or {kind: branch.shapes[kind] for kind in SCALARS}


def written_values(branch: Branch, reader: Reader) -> list[Any] | None:
    """Return the values that are written for a branch; None if it does not list them."""
    if branch.values is None:
        return None
    others = replace(branch, values=None)
    return [value for value in branch.values if fits(value, others, reader, False)]


def never_valid(one: Branch, other: Branch, reader: Reader) -> bool:
    """Tell whether nothing that is written for one branch can be valid for the other."""
    reader.work.spend(10, "schema")
    values = written_values(one, reader)
    if one.is_cut or values == []:
        return True
    if other.is_cut or other.is_narrow:
        return False
    if values is not None:
        return not any(fits(value, other, reader, True) for value in values)
    if other.values is not None:
        return not any(fits(value, one, reader, True) for value in other.values)
    return all(are_apart(kind, shape, other, reader) for kind, shape in written(one).items())


def are_apart(kind: str, shape: Shape, other: Branch, reader: Reader) -> bool:
    """Tell whether no value of a shape that is written is valid for a branch without values."""
    if kind not in other.shapes:
        return True
    judge = _JUDGES.get(kind)
    return judge is not None and judge(shape, other.shapes[kind], reader)


def all_apart(one: All, other: All, reader: Reader) -> bool:
    """Tell whether nothing that is written for some schemas can be valid for others."""
    branches = reader.branches(other)
    return all(
        never_valid(first, second, reader) for first in reader.branches(one) for second in branches
    )


def _strings(one: Strings, other: Strings, reader: Reader) -> bool:
    least = max(one.least, other.least)
    most = smaller(one.most, other.most)
    if most is not None and least > most:
        return True
    patterns = (*one.patterns, *other.patterns, *(format_of(name) for name in one.formats))
    if not patterns:
        return False
    machines = [machine for pattern in patterns for machine in reader.machines(pattern)]
    path = patterns[0].path
    if least or most is not None:
        machines.append(Lengths(least, most))
    return not together(machines, SPELLABLE, reader.work, path).ends


def _numbers(one: Numbers, other: Numbers, reader: Reader) -> bool:
    return _is_below(one, other) or _is_below(other, one)


def _is_below(one: Numbers, other: Numbers) -> bool:
    """Tell whether all numbers of one shape are smaller than those of the other."""
    for high, high_is_in in ((one.high, True), (one.below, False)):
        for low, low_is_in in ((other.low, True), (other.above, False)):
            if high is None or low is None:
                continue
            if high < low or (high == low and not (high_is_in and low_is_in)):
                return True
    return False


def _arrays(one: Arrays, other: Arrays, reader: Reader) -> bool:
    least = max(one.least, other.least)
    most = smaller(one.most, other.most)
    if most is not None and least > most:
        return True
    # After the first ones, all items are alike.
    n_first = max((len(items.first) for items in one.items + other.items), default=0)
    places = range(min(least, n_first + 1))
    return any(all_apart(one.at(i), other.at(i), reader) for i in places)


def _objects(one: Objects, other: Objects, reader: Reader) -> bool:
    most = smaller(one.most, other.most)
    if most is not None and max(one.least, other.least) > most:
        return True
    names = names_of(one)
    for name in dict.fromkeys(one.required + other.required):
        if name not in names and not writes_others(one):
            return True
        if all_apart(property_of(one, name, reader), property_of(other, name, reader), reader):
            return True
    return False


def names_of(shape: Objects) -> list[str]:
    """Return the names of the properties that are written, in their order."""
    named = [name for members in shape.members for name in members.named]
    return list(dict.fromkeys([*named, *shape.required]))


def writes_others(shape: Objects) -> bool:
    """Tell whether properties are written that are not named: if a schema is given for them."""
    has_patterns = any(members.matching for members in shape.members)
    return (
        not has_patterns
        and not shape.names
        and any(
            not members.are_free and members.others[0].schema is not False
            for members in shape.members
            if members.others
        )
    )


_JUDGES: dict[str, Callable[[Any, Any, Reader], bool]] = {
    "string": _strings,
    "number": _numbers,
    "array": _arrays,
    "object": _objects,
}
