"""How characters are written in JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence as List

from ..characters import Ranges, complement, normalise
from ..pattern import Characters, Either, Graph, Node, Repeat, Sequence

PLAIN = complement(normalise([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)]))
"""The characters that stand for themselves in a JSON string."""

ESCAPES = {ord(character): ord(json.dumps(character)[2]) for character in '"\\\b\f\n\r\t'}
"""The letter of each character that has a short escape. The others would need ``\\u``."""

SPELLABLE = normalise([*PLAIN, *((code, code) for code in ESCAPES)])
"""The characters that are written in strings."""


def literal(text: str) -> Node:
    """Return the tree of one text.

    Examples
    --------
    >>> literal("a")
    Sequence(parts=(Characters(ranges=((97, 97),)),))
    """
    return Sequence(tuple(Characters(((ord(one), ord(one)),)) for one in text))


def either(parts: List[Node]) -> Node:
    """Return the tree of several alternatives, or of the only one."""
    return parts[0] if len(parts) == 1 else Either(tuple(parts))


@functools.lru_cache(maxsize=1024)
def spelled(ranges: Ranges) -> Node | None:
    """Return how the characters of a set are written in a string; None if none is."""
    parts: list[Node] = []
    plain = common(PLAIN, ranges)
    if plain:
        parts.append(Characters(plain))
    letters = [
        (letter, letter)
        for code, letter in ESCAPES.items()
        if any(low <= code <= high for low, high in ranges)
    ]
    if letters:
        parts.append(Sequence((Characters(((92, 92),)), Characters(normalise(letters)))))
    return either(parts) if parts else None


def common(some: Ranges, others: Ranges) -> Ranges:
    """Return the characters that both sets have."""
    return normalise(
        (max(one_low, other_low), min(one_high, other_high))
        for one_low, one_high in some
        for other_low, other_high in others
        if max(one_low, other_low) <= min(one_high, other_high)
    )


def spelled_tree(node: Node) -> Node | None:
    """Return how the texts of a tree are written in a string; None if none of them is."""
    if isinstance(node, Characters):
        return spelled(node.ranges)
    if isinstance(node, Repeat):
        part = spelled_tree(node.part)
        if part is None:
            return None if node.least else Sequence(())
        return Repeat(part, node.least, node.most)
    if isinstance(node, Graph):
        raise TypeError("a pattern has no graphs")
    parts = [spelled_tree(part) for part in node.parts]
    kept = tuple(part for part in parts if part is not None)
    if isinstance(node, Either):
        return either(kept) if kept else None
    return Sequence(kept) if len(kept) == len(parts) else None
