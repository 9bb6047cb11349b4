"""Write numbers: without exponents, of at most 15 digits."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence as List
from decimal import Decimal
from fractions import Fraction
from typing import NoReturn

from ..numbers import MOST_DIGITS, units
from ..pattern import Characters, Graph, Node, parse
from ..pattern import Sequence as Parts
from .ecma import Anchor
from .graphs import graph
from .reader import Reader
from .refusals import unsupported
from .search import Search, Step, together
from .shapes import Numbers
from .spelling import PLAIN, either, literal

DECIMALS = 6
"""Digits after the point at most."""

DECIMALS_OF_LARGE = 3
"""Digits after the point at most, of numbers with more than 9 digits before it."""

LARGEST_MULTIPLE = 64
"""What ``multipleOf`` may be at most, in units of its last digit that is not 0."""


def number(shape: Numbers, reader: Reader, path: str) -> Node | None:
    """Return the tree of the numbers of a shape; None if there are none.

    Raises
    ------
    UnsupportedError
        ``multipleOf`` has too many digits.
    """
    decimals, multiple = _multiple(shape, path)
    zeros = 0
    while multiple % 10 == 0:
        multiple //= 10
        zeros += 1
    if multiple > LARGEST_MULTIPLE:
        _refuse_multiple(shape, path)
    if zeros:
        parts = _with_zeros(shape, zeros)
    else:
        parts = [
            part
            for fewer in sorted({decimals, min(decimals, DECIMALS_OF_LARGE), 0}, reverse=True)
            for part in _with_decimals(shape, fewer, decimals)
        ]
    trees: list[Node] = []
    if parts:
        tree = either([_parsed(part) for part in parts])
        multiples = tree if multiple == 1 else _multiples(tree, multiple, decimals, reader, path)
        if multiples is not None:
            trees.append(Parts((multiples, literal("0" * zeros))) if zeros else multiples)
    first, last = _bounds(shape, 1)
    if zeros and first <= 0 <= last:
        trees.append(literal("0"))
    return either(trees) if trees else None


@functools.lru_cache(maxsize=256)
def _parsed(pattern: str) -> Node:
    """Return a pattern as a tree; many schemas have the same ones."""
    return parse(pattern)


def _multiples(tree: Node, multiple: int, decimals: int, reader: Reader, path: str) -> Graph | None:
    """Return the numbers of a tree that are multiples of a number."""
    whole = Parts((Anchor((), "^"), tree, Anchor((), "$")))
    search = Search(whole, reader.work, path)
    found = together([search, Multiples(multiple, decimals)], PLAIN, reader.work, path)
    edges = found.edges.items()
    return graph([(begin, Characters(tuple(of)), end) for (begin, end), of in edges], found.ends)


def _with_zeros(shape: Numbers, zeros: int) -> list[str]:
    """Return the patterns of the whole numbers but 0, without so many zeros at their end."""
    size = 10**zeros
    first, last = _bounds(shape, 1)
    limit = 10 ** (MOST_DIGITS - zeros) - 1
    first = max(-(-first // size), -limit)
    last = min(last // size, limit)
    spans = [(first, min(last, -1)), (max(first, 1), last)]
    return [units(low, high, 0) for low, high in spans if low <= high]


def _with_decimals(shape: Numbers, decimals: int, most: int) -> list[str]:
    """Return the patterns of the numbers with some decimals at most, and with zeros after them.

    The more digits a number has before the point, the fewer it has after it. So it never has more
    than 15, and no two of them are the same float64.
    """
    unit = 10**decimals
    first, last = _bounds(shape, unit)
    ends = 10**MOST_DIGITS - 1
    if decimals == most:
        spans = [(-ends, ends)]
    else:
        coarser = [one for one in (most, DECIMALS_OF_LARGE) if decimals < one <= most]
        begin = 10 ** (MOST_DIGITS - min(coarser)) * unit
        spans = [(-ends, -begin), (begin, ends)]
    clipped = [(max(low, first), min(high, last)) for low, high in spans]
    return [units(low, high, decimals, zeros=True) for low, high in clipped if low <= high]


def _bounds(shape: Numbers, unit: int) -> tuple[int, int]:
    """Return the first and the last number of a shape, in units."""
    limit = 10 ** (MOST_DIGITS + 1)
    firsts = [-limit * unit]
    lasts = [limit * unit]
    if shape.low is not None:
        firsts.append(math.ceil(_clipped(shape.low, limit) * unit))
    if shape.above is not None:
        firsts.append(math.floor(_clipped(shape.above, limit) * unit) + 1)
    if shape.high is not None:
        lasts.append(math.floor(_clipped(shape.high, limit) * unit))
    if shape.below is not None:
        lasts.append(math.ceil(_clipped(shape.below, limit) * unit) - 1)
    return max(firsts), min(lasts)


def _clipped(bound: Decimal, limit: int) -> Fraction:
    return Fraction(min(max(bound, Decimal(-limit)), Decimal(limit)))


def _multiple(shape: Numbers, path: str) -> tuple[int, int]:
    """Return the decimals of the numbers, and what they are multiples of in the last decimal."""
    if shape.whole and not shape.multiples:
        return 0, 1
    if not shape.multiples:
        return DECIMALS, 1
    multiples = [*shape.multiples, *([Decimal(1)] if shape.whole else [])]
    decimals = max(max(-int(one.normalize().as_tuple().exponent), 0) for one in multiples)
    if decimals > DECIMALS or max(multiples) >= 10**MOST_DIGITS:
        _refuse_multiple(shape, path)
    multiple = math.lcm(*(int(Fraction(one) * 10**decimals) for one in multiples))
    while decimals and multiple % 10 == 0:
        decimals -= 1
        multiple //= 10
    return decimals, multiple


def _refuse_multiple(shape: Numbers, path: str) -> NoReturn:
    found = " and ".join(f"{one:.15g}" for one in shape.multiples)
    expected = (
        f"at most {LARGEST_MULTIPLE} units of a decimal place, of at most {DECIMALS} decimals"
    )
    sentence = f"{path}.multipleOf is {found}, but must be {expected}"
    unsupported(f"{path}.multipleOf", found, expected, "leave it out", sentence)


class Multiples:
    """The automaton of the decimal numbers that are multiples of a number.

    Parameters
    ----------
    multiple : int
        The number, in units of the last decimal.
    decimals : int
        Digits after the point at most.
    """

    def __init__(self, multiple: int, decimals: int) -> None:
        self.multiple = multiple
        self.decimals = decimals

    # A state is the remainder of the digits so far, and the number of those after the point plus 1.

    def accepts(self, state: int) -> bool:
        """Tell whether the number is a multiple."""
        remainder, after_point = self._parts(state)
        missing = self.decimals - max(after_point - 1, 0)
        return bool(remainder * 10**missing % self.multiple == 0)

    def steps(self, state: int) -> List[Step]:
        """Return the steps over a minus, a point and the digits."""
        remainder, after_point = self._parts(state)
        steps = [(ord("-"), ord("-"), state)]
        if not after_point and self.decimals:
            steps.append((ord("."), ord("."), self._state(remainder, 1)))
        if after_point <= self.decimals:
            for digit in range(10):
                following = (10 * remainder + digit) % self.multiple
                target = self._state(following, after_point + bool(after_point))
                steps.append((ord("0") + digit, ord("0") + digit, target))
        return steps

    def _parts(self, state: int) -> tuple[int, int]:
        return state % self.multiple, state // self.multiple

    def _state(self, remainder: int, after_point: int) -> int:
        return after_point * self.multiple + remainder
