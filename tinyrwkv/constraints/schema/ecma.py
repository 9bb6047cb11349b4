r"""The regular expressions of ``pattern`` and ``patternProperties``: those of ECMA-262.

They differ from those of `tinyrwkv.constraints.pattern`, which are Python's:

- ``^`` and ``$`` may stand anywhere.
- A dot matches no ``\n``, ``\r``, U+2028 and U+2029.
- ``\s`` matches all blanks of Unicode.
- ``\cA`` and ``\0`` are control characters, ``\b`` in a set is a backspace, and ``\a`` is nothing.
- ``\u{1f642}`` and pairs such as ``\ud83d\ude42`` are one character.
- ``[]`` matches nothing, and ``[^]`` any character.
- ``{,5}`` are four characters.

References
----------
ECMA-262, 15th edition, section 22.2: RegExp (Regular Expression) Objects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..characters import LAST, SURROGATES, Ranges, complement, normalise
from ..pattern import Characters, Either, Graph, Node, Parser, Repeat, Sequence

_BLANKS = normalise(
    [
        *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
        *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)),
        (0xFEFF, 0xFEFF),
    ]
)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_BRACES = re.compile(r"\{[0-9]+(,[0-9]*)?\}")
_CODE_IN_BRACES = re.compile(r"\{([0-9A-Fa-f]{1,6})\}")
_LOW_HALF = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Anchor(Sequence):
    """The empty text, but only at the beginning (``^``) or at the end (``$``) of a whole text."""

    sign: str = "^"


class EcmaParser(Parser):
    """Reads a pattern as ECMA-262 with the flag ``u`` does, and some forms that only Python has."""

    any = complement(normalise([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]))
    sets = Parser.sets | {"s": _BLANKS, "S": complement(_BLANKS)}
    controls = _CONTROLS
    names = re.compile(r"P?<[A-Za-z_$][\w$]*>")

    def __init__(self, pattern: str, name: str) -> None:
        super().__init__(pattern, name)
        self.without: list[Node] = []

    def run(self) -> Node:
        """Return the tree of the whole pattern, without the look-aheads at its beginning.

        ``^(?!x)`` forbids that the text begins with x. So each is a pattern of its own, in
        `without`, that must not be found.
        """
        first = Anchor((), "^")
        begins = self.take("^")
        while begins and self.take("(?!"):
            self.without.append(Sequence((first, self.either(1))))
            if not self.take(")"):
                self.wrong("a ( that nothing closes", "a ) after it", "a ( is never closed")
        if not self.without:
            self.at = 0
            return super().run()
        node = self.sequence(0)
        if self.peek("|"):
            self.cannot("an alternative beside a look-ahead")
        if self.at < len(self.pattern):
            self.unopened()
        return Sequence((first, node))

    def sequence(self, depth: int) -> Node:
        """Read what stands between two bars; here an anchor is a part like any other."""
        parts: list[Node] = []
        while self.at < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            parts.append(self.repeated(depth))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def anchor(self, character: str) -> Node:
        """Return what ``^`` or ``$`` means."""
        return Anchor((), character)

    def braces(self) -> tuple[int, int | None] | None:
        """Read ``{2}``, ``{2,}`` or ``{2,5}``; other braces are characters."""
        return super().braces() if _BRACES.match(self.pattern, self.at) else None

    def escape(self) -> Ranges:
        """Return what the characters after a backslash mean."""
        if self.take("c"):
            letter = self.next("a letter after \\c")
            if not (letter.isascii() and letter.isalpha()):
                self.wrong(f"\\c{letter}", "a letter after \\c", "\\c needs a letter")
            return self.one(ord(letter) % 32).ranges
        if re.compile("0[0-9]").match(self.pattern, self.at):
            self.cannot("an octal number")
        return super().escape()

    def code(self, name: str) -> int:
        """Return the code point whose hexadecimal digits follow."""
        if name == "U":
            self.cannot("\\U")
        braces = _CODE_IN_BRACES.match(self.pattern, self.at) if name == "u" else None
        if braces is not None:
            self.at = braces.end()
            code = int(braces[1], 16)
            if code > LAST:
                expected = "the code of a character"
                self.wrong(f"\\u{braces[0]}", expected, f"\\u{braces[0]} is not {expected}")
            return code
        code = super().code(name)
        half = _LOW_HALF.match(self.pattern, self.at)
        if SURROGATES[0] <= code < 0xDC00 and half is not None:
            self.at = half.end()
            code = 0x10000 + ((code - 0xD800) << 10) + (int(half[1], 16) - 0xDC00)
        return code

    def set(self) -> Ranges:
        """Return the characters of a set whose [ has been read; there may be none."""
        negated = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.peek("]"):
            ranges += self.range()
        self.at += 1
        characters = normalise(ranges)
        return complement(characters) if negated else characters

    def member(self) -> Ranges:
        """Return a part of a set."""
        return self.one(0x08).ranges if self.take("\\b") else super().member()


def parse(pattern: str, name: str) -> tuple[Node, list[Node]]:
    r"""Return a pattern as a tree.

    Parameters
    ----------
    pattern : str
    name : str
        What messages call it: its path in the schema.

    Returns
    -------
    Node
        The pattern, with an `Anchor` wherever it has one.
    list of Node
        Patterns that must not be found: the look-aheads at the beginning.

    Raises
    ------
    ArgumentError
        It is not a regular expression, or too deep.
    UnsupportedError
        It uses something that no automaton can do, or that this one does not do.

    Examples
    --------
    >>> parse("^a", "schema.pattern")
    (Sequence(parts=(Anchor(parts=(), sign='^'), Characters(ranges=((97, 97),)))), [])
    """
    parser = EcmaParser(pattern, name)
    return parser.run(), parser.without


def in_whole_texts(tree: Node) -> Node | None:
    """Return a tree without anchors of the texts in which `tree` is found.

    Parameters
    ----------
    tree : Node

    Returns
    -------
    Node or None
        None if an anchor stands elsewhere than at the ends of the outermost alternatives.
    """
    anything = Repeat(Characters(complement(())), 0, None)
    whole: list[Node] = []
    for one in tree.parts if isinstance(tree, Either) else (tree,):
        parts: list[Node] = [one]
        if isinstance(one, Sequence) and not isinstance(one, Anchor):
            parts = list(one.parts)
        starts = bool(parts) and _is_anchor(parts[0], "^")
        parts = parts[1:] if starts else [anything, *parts]
        ends = bool(parts) and _is_anchor(parts[-1], "$")
        parts = parts[:-1] if ends else [*parts, anything]
        if any(map(_has_anchor, parts)):
            return None
        whole.append(Sequence(tuple(parts)))
    return whole[0] if len(whole) == 1 else Either(tuple(whole))


def _is_anchor(node: Node, sign: str) -> bool:
    return isinstance(node, Anchor) and node.sign == sign


def _has_anchor(node: Node) -> bool:
    if isinstance(node, (Anchor, Characters)):
        return isinstance(node, Anchor)
    if isinstance(node, Repeat):
        return _has_anchor(node.part)
    return not isinstance(node, Graph) and any(map(_has_anchor, node.parts))
