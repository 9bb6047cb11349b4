"""Whether a value is valid, for the values of ``enum`` and ``const``.

Where this cannot be known, the caller says which answer is the safe one. It cannot be known in a
schema within itself, if it is too deep to follow; and drafts of JSON Schema disagree on what is
beside ``$ref``, and on whether ``format`` is a rule or a remark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..numbers import exact
from .formats import format_of
from .reader import Reader
from .search import accepts
from .shapes import All, Arrays, Branch, Numbers, Objects, Pattern, Strings, kind_of, same


def is_valid(value: Any, schemas: All, reader: Reader, in_doubt: bool) -> bool:
    """Tell whether a value is valid for all of some schemas.

    Parameters
    ----------
    value : object
        What JSON can write.
    schemas : All
    reader : Reader
    in_doubt : bool
        The answer if it cannot be known.
    """
    branches = reader.branches(schemas)
    if in_doubt:
        return any(fits(value, branch, reader, True) for branch in branches)
    if not any(fits(value, branch, reader, False) for branch in branches):
        return False
    # Of the alternatives of each oneOf, no second one may hold.
    possible = [branch for branch in branches if fits(value, branch, reader, True)]
    return not any(
        rival_choice(one, other) for i, one in enumerate(possible) for other in possible[:i]
    )


def rival_choice(one: Branch, other: Branch) -> str | None:
    """Return the path of a ``oneOf`` of which two branches are different alternatives."""
    chosen = {number: alternative for _, number, alternative in one.choices}
    for path, number, alternative in other.choices:
        if chosen.get(number, alternative) != alternative:
            return path
    return None


def fits(value: Any, branch: Branch, reader: Reader, in_doubt: bool) -> bool:
    """Tell whether a value fits one branch."""
    kind = kind_of(value)
    reader.work.spend(10, "schema")
    if (branch.is_cut or branch.is_narrow) and in_doubt:
        return True
    if branch.is_cut or kind is None or kind not in branch.shapes:
        return False
    if branch.values is not None and not any(same(value, one) for one in branch.values):
        return False
    shape = branch.shapes[kind]
    judge = _JUDGES.get(type(shape))
    if judge is not None and not judge(value, shape, reader, in_doubt):
        return False
    return not any(is_valid(value, one, reader, not in_doubt) for one in branch.excluded)


def _string(value: str, shape: Strings, reader: Reader, in_doubt: bool) -> bool:
    if len(value) < shape.least or (shape.most is not None and len(value) > shape.most):
        return False
    patterns = shape.patterns
    if not in_doubt:
        patterns += tuple(map(format_of, shape.formats))
    return all(has_pattern(value, pattern, reader) for pattern in patterns)


def _number(value: float, shape: Numbers, reader: Reader, in_doubt: bool) -> bool:
    number = exact(value)
    return (
        (shape.low is None or number >= shape.low)
        and (shape.high is None or number <= shape.high)
        and (shape.above is None or number > shape.above)
        and (shape.below is None or number < shape.below)
        and (not shape.whole or number == number.to_integral_value())
        and all(_is_multiple(number, multiple) for multiple in shape.multiples)
    )


def _is_multiple(number: Any, multiple: Any) -> bool:
    # As fractions, because the digits of a quotient may have no end.
    one, other = number.as_integer_ratio(), multiple.as_integer_ratio()
    return bool((one[0] * other[1]) % (one[1] * other[0]) == 0)


def _array(value: Any, shape: Arrays, reader: Reader, in_doubt: bool) -> bool:
    if len(value) < shape.least or (shape.most is not None and len(value) > shape.most):
        return False
    if shape.unique:
        reader.work.spend(len(value) ** 2, shape.unique)
        if any(same(one, other) for i, one in enumerate(value) for other in value[:i]):
            return False
    return all(is_valid(one, shape.at(i), reader, in_doubt) for i, one in enumerate(value))


def _object(value: Mapping[str, Any], shape: Objects, reader: Reader, in_doubt: bool) -> bool:
    if len(value) < shape.least or (shape.most is not None and len(value) > shape.most):
        return False
    if not all(key in value for key in shape.required):
        return False
    return all(
        is_valid(key, shape.names, reader, in_doubt)
        and is_valid(one, property_of(shape, key, reader), reader, in_doubt)
        for key, one in value.items()
    )


def has_pattern(text: str, pattern: Pattern, reader: Reader) -> bool:
    """Tell whether a pattern is found in a text."""
    return all(accepts(machine, text) for machine in reader.machines(pattern))


def property_of(shape: Objects, name: str, reader: Reader) -> All:
    """Return the schemas of a property."""
    schemas: All = ()
    for members in shape.members:
        found = members.named.get(name, ())
        for pattern, more in members.matching:
            if has_pattern(name, pattern, reader):
                found += more
        schemas += found or members.others
    return schemas


_JUDGES: dict[type, Callable[[Any, Any, Reader, bool], bool]] = {
    Strings: _string,
    Numbers: _number,
    Arrays: _array,
    Objects: _object,
}
