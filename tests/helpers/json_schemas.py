"""A validator of JSON Schema and a writer of random texts, both apart from what they judge.

`is_valid` takes one keyword after the other, as the standard words them. `texts` walks at random
through the automaton of a constraint, so that every text that is allowed may come out.
"""

from __future__ import annotations

import datetime
import ipaddress
import random
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from tinyrwkv.constraints.constraint import Constraint

TYPES = {
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def is_a(value: Any, kind: str) -> bool:
    if kind == "integer":
        return is_a(value, "number") and value == int(value)
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or type(one) not in (int, float):
        if type(one) is not type(other):
            return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def is_valid(value: Any, schema: Any, root: Any = None) -> bool:
    """Judge a value by a schema of draft 7 or 2020-12."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    rules = {**GENERAL, **next(some for kind, some in BY_TYPE.items() if is_a(value, kind))}
    return all(
        rules[key](value, argument, schema, root)
        for key, argument in schema.items()
        if key in rules
    )


def _ref(value: Any, ref: str, schema: Any, root: Any) -> bool:
    target = root
    for part in ref.split("/")[1:]:
        target = target[int(part) if isinstance(target, list) else part]
    return is_valid(value, target, root)


def _type(value: Any, kinds: Any, schema: Any, root: Any) -> bool:
    return any(is_a(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))


GENERAL = {
    "$ref": _ref,
    "type": _type,
    "const": lambda value, one, schema, root: same(value, one),
    "enum": lambda value, some, schema, root: any(same(value, one) for one in some),
    "not": lambda value, one, schema, root: not is_valid(value, one, root),
    "allOf": lambda value, some, schema, root: all(is_valid(value, one, root) for one in some),
    "anyOf": lambda value, some, schema, root: any(is_valid(value, one, root) for one in some),
    "oneOf": lambda value, some, schema, root: sum(is_valid(value, one, root) for one in some) == 1,
}


def _iso(text: str) -> str:
    """Write a time as Python 3.10 reads it: six digits of a second, and +00:00 for Z."""
    in_full = re.sub(r"\.(\d+)", lambda found: "." + found[1].ljust(6, "0")[:6], text)
    return in_full.replace("Z", "+00:00")


def _format(value: str, name: str, schema: Any, root: Any) -> bool:
    readers = {
        "date": datetime.date.fromisoformat,
        "time": lambda text: datetime.time.fromisoformat(_iso(text)),
        "date-time": lambda text: datetime.datetime.fromisoformat(_iso(text)),
        "uuid": uuid.UUID,
        "ipv4": ipaddress.IPv4Address,
        "ipv6": ipaddress.IPv6Address,
    }
    try:
        readers[name](value)
    except ValueError:
        return False
    return True


STRINGS = {
    "minLength": lambda value, least, schema, root: len(value) >= least,
    "maxLength": lambda value, most, schema, root: len(value) <= most,
    "pattern": lambda value, pattern, schema, root: (
        re.search(pattern.replace("$", r"\Z"), value, re.ASCII) is not None
    ),
    "format": _format,
}

NUMBERS = {
    "minimum": lambda value, bound, schema, root: value >= bound,
    "maximum": lambda value, bound, schema, root: value <= bound,
    "exclusiveMinimum": lambda value, bound, schema, root: value > bound,
    "exclusiveMaximum": lambda value, bound, schema, root: value < bound,
    "multipleOf": lambda value, one, schema, root: Fraction(repr(value)) % Fraction(repr(one)) == 0,
}


def _items(value: list[Any], items: Any, schema: Any, root: Any) -> bool:
    if isinstance(items, list):
        return _prefix_items(value, items, schema, root)
    first = len(schema.get("prefixItems", []))
    return all(is_valid(one, items, root) for one in value[first:])


def _prefix_items(value: list[Any], items: list[Any], schema: Any, root: Any) -> bool:
    return all(is_valid(one, item, root) for one, item in zip(value, items, strict=False))


def _additional_items(value: list[Any], items: Any, schema: Any, root: Any) -> bool:
    first = schema.get("items")
    if not isinstance(first, list):
        return True
    return all(is_valid(one, items, root) for one in value[len(first) :])


ARRAYS = {
    "items": _items,
    "prefixItems": _prefix_items,
    "additionalItems": _additional_items,
    "minItems": lambda value, least, schema, root: len(value) >= least,
    "maxItems": lambda value, most, schema, root: len(value) <= most,
    "uniqueItems": lambda value, unique, schema, root: (
        not unique or not any(same(one, two) for i, one in enumerate(value) for two in value[:i])
    ),
}


def _matching(name: str, schema: Any) -> list[Any]:
    patterns = schema.get("patternProperties", {})
    return [one for pattern, one in patterns.items() if re.search(pattern, name)]


OBJECTS = {
    "properties": lambda value, named, schema, root: all(
        is_valid(one, named[key], root) for key, one in value.items() if key in named
    ),
    "patternProperties": lambda value, some, schema, root: all(
        is_valid(one, rule, root) for key, one in value.items() for rule in _matching(key, schema)
    ),
    "additionalProperties": lambda value, others, schema, root: all(
        is_valid(one, others, root)
        for key, one in value.items()
        if key not in schema.get("properties", {}) and not _matching(key, schema)
    ),
    "propertyNames": lambda value, names, schema, root: all(
        is_valid(key, names, root) for key in value
    ),
    "required": lambda value, names, schema, root: all(name in value for name in names),
    "minProperties": lambda value, least, schema, root: len(value) >= least,
    "maxProperties": lambda value, most, schema, root: len(value) <= most,
}

BY_TYPE: dict[str, dict[str, Any]] = {
    "string": STRINGS,
    "number": NUMBERS,
    "array": ARRAYS,
    "object": OBJECTS,
    "boolean": {},
    "null": {},
}


def texts(constraint: Constraint, seed: int, count: int) -> Iterator[bytes]:
    """Yield random texts that the automaton of a constraint spells."""
    nfa = constraint.nfa
    distances = _distances(nfa)
    rng = random.Random(seed)
    for _ in range(count):
        patience = rng.choice([5, 30, 100])  # steps, before the shortest way to the end
        state = nfa.start
        text = bytearray()
        while state != nfa.end:
            ways = [*nfa.moves[state], *((0, -1, target) for target in nfa.jumps[state])]
            if patience <= 0:
                nearest = min(distances[target] for _, _, target in ways)
                ways = [way for way in ways if distances[way[2]] == nearest]
            low, high, state = rng.choice(ways)
            if low <= high:
                text.append(rng.randint(low, high))
            patience -= 1
        yield bytes(text)


def _distances(nfa: Any) -> dict[int, int]:
    """Return how many steps each state is from the end."""
    before = defaultdict(list)
    for state, (moves, jumps) in enumerate(zip(nfa.moves, nfa.jumps, strict=True)):
        for target in [*(move[2] for move in moves), *jumps]:
            before[target].append(state)
    distances = {nfa.end: 0}
    waiting = [nfa.end]
    for state in waiting:  # grows meanwhile
        for earlier in before[state]:
            if earlier not in distances:
                distances[earlier] = distances[state] + 1
                waiting.append(earlier)
    return distances
