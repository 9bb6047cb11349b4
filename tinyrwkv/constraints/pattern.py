r"""Regular expressions as trees.

What is understood has the meaning that ``re.fullmatch`` with ``re.ASCII`` gives it in Python:

=============================================  ====================================================
``a``  ``\.``  ``\n \t \r \f \v \a``           a character
``\x41``  ``\u20ac``  ``\U0001f642``           a character by its code
``.``                                          any character but a newline
``[a-z_]``  ``[^"]``                           one of a set, one of all others
``\d \w \s``  ``\D \W \S``                     ASCII digits, letters, blanks; all others
``xy``  ``x|y``  ``(x)``  ``(?:x)``            both, either, a group; ``(?P<name>x)`` too
``x*``  ``x+``  ``x?``  ``x{2}``  ``x{2,5}``   repeated; ``x*?`` and the like mean the same here
``^`` first and ``$`` last                     nothing: the whole text must match anyway
=============================================  ====================================================

Refused: backreferences, lookahead and lookbehind, word borders, flags, possessive repetition.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import NoReturn

from ..errors import ArgumentError, UnsupportedError
from .characters import LAST, SURROGATES, Ranges, complement, normalise

LONGEST = 200_000
"""Characters of a pattern at most."""

DEEPEST = 50
"""Groups inside of groups at most."""

MOST_REPEATS = 1_000
"""Largest number in braces."""


@dataclass(frozen=True)
class Characters:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True)
class Sequence:
    """Its parts one after the other. Without parts it is the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """One of its parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """A part, `least` to `most` times. There is no limit if `most` is None."""

    part: Node
    least: int
    most: int | None


@dataclass(frozen=True)
class Graph:
    """Parts that lead from one state to another, from state 0 to one of the ends.

    Every state can be reached, and leads to an end.
    """

    n_states: int
    edges: tuple[tuple[int, Node, int], ...]
    ends: tuple[int, ...]


Node = Characters | Sequence | Either | Repeat | Graph

_DIGITS = normalise([(0x30, 0x39)])
_WORDS = normalise([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_BLANKS = normalise([(0x09, 0x0D), (0x20, 0x20)])
_SETS = {"d": _DIGITS, "w": _WORDS, "s": _BLANKS} | {
    name: complement(ranges) for name, ranges in (("D", _DIGITS), ("W", _WORDS), ("S", _BLANKS))
}
_BRACES = re.compile(r"\{([0-9]*)(,?)([0-9]*)\}")
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_CODES = {"x": 2, "u": 4, "U": 8}  # digits
_ANY = complement(((0x0A, 0x0A),))


def parse(pattern: str) -> Node:
    r"""Return a pattern as a tree.

    Parameters
    ----------
    pattern : str

    Returns
    -------
    Node

    Raises
    ------
    ArgumentError
        It is not a regular expression, matches no text, is too long or too deep, or repeats
        something too often.
    UnsupportedError
        It uses something that no automaton can do, or that this one does not do.

    Examples
    --------
    >>> parse("a?")
    Repeat(part=Characters(ranges=((97, 97),)), least=0, most=1)
    """
    if not isinstance(pattern, str):
        found = type(pattern).__name__
        sentence = f"the pattern is of type {found}, but must be text"
        raise ArgumentError("Regex", "pattern", found, "text", "give a str", sentence)
    if len(pattern) > LONGEST:
        found = f"{len(pattern):,} characters"
        expected = f"at most {LONGEST:,}"
        sentence = f"the pattern has {found}, but may have {expected}"
        raise ArgumentError("Regex", "pattern", found, expected, "shorten it", sentence)
    return Parser(pattern).run()


class Parser:
    """Reads a pattern from left to right.

    Parameters
    ----------
    pattern : str
    name : str, optional
        What messages call the pattern.

    Attributes
    ----------
    any : Ranges
        What a dot means.
    sets : dict of str to Ranges
        What a letter after a backslash means, if that is a set.
    controls : dict of str to str
        What a letter after a backslash means, if that is one character.
    names : re.Pattern
        How a group gets a name.
    """

    any = _ANY
    sets = _SETS
    controls = _CONTROLS
    names = re.compile(r"P<[A-Za-z_]\w*>")

    def __init__(self, pattern: str, name: str = "pattern") -> None:
        self.pattern = pattern
        self.name = name
        self.at = 0

    def run(self) -> Node:
        """Return the tree of the whole pattern."""
        node = self.either(0)
        if self.at < len(self.pattern):
            self.unopened()
        return node

    def unopened(self) -> NoReturn:
        """Refuse a )."""
        problem = "this ) closes nothing"
        self.wrong("a ) that closes nothing", "an opening ( before it", problem)

    def peek(self, text: str) -> bool:
        """Tell whether a text comes next."""
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        """Read a text if it comes next; tell whether it did."""
        found = self.peek(text)
        self.at += len(text) if found else 0
        return found

    def next(self, expected: str) -> str:
        """Read a character."""
        if self.at == len(self.pattern):
            self.wrong("its end", expected, f"the pattern ends here, but needs {expected}")
        self.at += 1
        return self.pattern[self.at - 1]

    def wrong(self, found: str, expected: str, problem: str) -> NoReturn:
        """Refuse what is not a regular expression."""
        place = self.place()
        fix = f"correct {self.near()}"
        raise ArgumentError("Regex", place, found, expected, fix, f"{place}: {problem}")

    def cannot(self, found: str) -> NoReturn:
        """Refuse what is one, but not here."""
        place = self.place()
        expected = "what docs/constraints.md lists"
        fix = f"write {self.near()} another way"
        sentence = f"{place}: {found} is not supported (see docs/constraints.md)"
        raise UnsupportedError("Regex", place, found, expected, fix, sentence)

    def place(self) -> str:
        """Return the present place, for messages."""
        return f"{self.name}, character {self.at:,}"

    def near(self) -> str:
        """Return the part of the pattern around the present place."""
        return f"{self.pattern[max(self.at - 10, 0) : self.at + 10]!a}"

    def either(self, depth: int) -> Node:
        """Read alternatives; `depth` is the number of groups around them."""
        if depth > DEEPEST:
            problem = f"groups are nested more than {DEEPEST} deep"
            self.wrong(f"groups more than {DEEPEST} deep", "fewer", problem)
        parts = [self.sequence(depth)]
        while self.take("|"):
            parts.append(self.sequence(depth))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def sequence(self, depth: int) -> Node:
        """Read what stands between two bars."""
        parts: list[Node] = []
        if depth == 0:
            self.take("^")
        while self.at < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            if depth == 0 and self.take("$"):
                if self.at < len(self.pattern) and not self.peek("|"):
                    self.cannot("a $ before the end")
                break
            parts.append(self.repeated(depth))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def repeated(self, depth: int) -> Node:
        """Read a part, and how often it is repeated."""
        node = self.single(depth)
        bounds = self.bounds()
        if bounds is None:
            return node
        self.take("?")  # shortest first: the same texts
        if self.peek("+"):
            self.cannot("possessive repetition")
        if self.peek("*") or self.peek("?") or self.bounds() is not None:
            problem = "one repetition follows another; put a group around the first"
            self.wrong("one repetition directly after another", "a group around the first", problem)
        return Repeat(node, *bounds)

    def bounds(self) -> tuple[int, int | None] | None:
        """Read how often something is repeated; None if nothing says so."""
        if self.pattern[self.at : self.at + 1] not in ("*", "+", "?", "{"):
            return None
        if self.take("*"):
            return 0, None
        if self.take("+"):
            return 1, None
        if self.take("?"):
            return 0, 1
        return self.braces()

    def braces(self) -> tuple[int, int | None] | None:
        """Read ``{2}``, ``{2,}``, ``{,5}`` or ``{2,5}``; other braces are characters."""
        found = _BRACES.match(self.pattern, self.at)
        if found is None or found[0] == "{}":
            return None
        low, comma, high = found.groups()
        least = self.repeats(low) if low else 0
        most: int | None = None  # no limit
        if high:
            most = self.repeats(high)
        elif not comma:
            most = least
        self.at = found.end()
        if most is not None and most < least:
            braces = f"{{{least},{most}}}"
            expected = "the smaller number first"
            self.wrong(braces, expected, f"{braces} begins with the larger number")
        return least, most

    def repeats(self, digits: str) -> int:
        """Return a number of repetitions."""
        # Python refuses to convert thousands of digits.
        if len(digits) > 9 or int(digits) > MOST_REPEATS:
            found = f"more than {MOST_REPEATS:,} repetitions"
            problem = f"there are {found}; * is for any number"
            self.wrong(found, "fewer, or * for any number", problem)
        return int(digits)

    def single(self, depth: int) -> Node:
        """Read a character, a set or a group."""
        if self.bounds() is not None:
            problem = "there is nothing before it to repeat"
            self.wrong("nothing to repeat", "something before it", problem)
        character = self.next("a character")
        if character == "(":
            return self.group(depth)
        if character == "[":
            return Characters(self.set())
        if character == ".":
            return Characters(self.any)
        if character == "\\":
            return Characters(self.escape())
        if character in "^$":
            return self.anchor(character)
        return self.one(ord(character))

    def anchor(self, character: str) -> Node:
        """Return what a ``^`` means that is not first, or a ``$`` that is not last."""
        self.cannot(f"a {character} in the middle")

    def group(self, depth: int) -> Node:
        """Read a group whose ( has been read."""
        if self.take("?"):
            name = self.names.match(self.pattern, self.at)
            if name is not None:
                self.at = name.end()
            elif not self.take(":"):
                self.cannot(f"the group (?{self.pattern[self.at : self.at + 1]}")
        node = self.either(depth + 1)
        if not self.take(")"):
            self.wrong("a ( that nothing closes", "a ) after it", "a ( is never closed")
        return node

    def one(self, code: int) -> Characters:
        """Return one character."""
        if SURROGATES[0] <= code <= SURROGATES[1]:
            self.wrong("a surrogate", "a character", "a surrogate is not a character")
        return Characters(((code, code),))

    def escape(self) -> Ranges:
        """Return what the characters after a backslash mean."""
        name = self.next("a character after \\")
        if name in self.sets:
            return self.sets[name]
        if name in self.controls:
            return self.one(ord(self.controls[name])).ranges
        if name in _CODES:
            return self.one(self.code(name)).ranges
        if name in "123456789":
            self.cannot("a backreference")
        if name.isascii() and name.isalnum():
            self.cannot(f"\\{name}")
        return self.one(ord(name)).ranges

    def code(self, name: str) -> int:
        """Return the code point whose hexadecimal digits follow."""
        count = _CODES[name]
        digits = self.pattern[self.at : self.at + count]
        is_hex = len(digits) == count and set(digits) <= set(string.hexdigits)
        if not is_hex or int(digits, 16) > LAST:
            expected = f"{count} hexadecimal digits of a character"
            self.wrong(f"\\{name}{digits}", expected, f"\\{name} needs {expected}")
        self.at += count
        return int(digits, 16)

    def set(self) -> Ranges:
        """Return the characters of a set whose [ has been read."""
        negated = self.take("^")
        ranges = [*self.range()]  # a ] that comes first is a character
        while not self.peek("]"):
            ranges += self.range()
        self.at += 1
        characters = normalise(ranges)
        if negated:
            characters = complement(characters)
        if not characters:
            expected = "at least one, or no text matches"
            self.wrong("a set without characters", expected, "no character is in this set")
        return characters

    def range(self) -> Ranges:
        r"""Return a part of a set: a character, a class such as \d, or a range of characters."""
        low = self.member()
        if not _is_single(low) or not self.peek("-") or self.peek("-]"):
            return low
        self.at += 1
        high = self.member()
        if not _is_single(high) or high < low:
            expected = "from one character up to another"
            self.wrong("a range that goes nowhere", expected, f"a range must go {expected}")
        return ((low[0][0], high[0][1]),)

    def member(self) -> Ranges:
        """Return a character of a set, or a class."""
        character = self.next("a ] that closes the set")
        return self.escape() if character == "\\" else self.one(ord(character)).ranges


def _is_single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
