"""Scripts for robots, ``move(2); goto("kitchen")``: what may be in them, as a constraint, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..constraints.constraint import Regex
from ..constraints.numbers import pattern as number_pattern
from ..errors import ArgumentError


@dataclass(frozen=True)
class Number:
    """A decimal number from `low` to `high`.

    Parameters
    ----------
    low, high : float
    decimals : int, optional
        Digits after the point at most.
    """

    low: float
    high: float
    decimals: int = 2

    @property
    def pattern(self) -> str:
        """The pattern of the argument."""
        return number_pattern(self.low, self.high, self.decimals)


class Names:
    """One of these names, in quotes.

    Parameters
    ----------
    names : iterable of str
        Without quotes, backslashes and control characters.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = (
            tuple(names) if isinstance(names, Iterable) and not isinstance(names, str) else (names,)
        )
        bad = [
            name
            for name in self.names
            if not isinstance(name, str) or re.search(r'["\\\x00-\x1f]', name) or not name
        ]
        if bad or not self.names:
            found = f"{(bad or self.names)!r}"[:80]
            raise ArgumentError(
                "scripts",
                "names",
                found,
                "texts without quotes and backslashes",
                "name at least one",
            )

    @property
    def pattern(self) -> str:
        """The pattern of the argument."""
        return f'"(?:{"|".join(map(re.escape, self.names))})"'


@dataclass(frozen=True)
class Words:
    """Any words with single blanks between them, in quotes."""

    pattern: str = "\"[A-Za-z0-9',.?!-]+(?: [A-Za-z0-9',.?!-]+)*\""


NOUNS = Words("\"[a-z0-9'-]+(?: [a-z0-9'-]+)*\"")
"""Nouns with their adjectives, in small letters."""

VERBS: Mapping[str, Number | Names | Words | None] = {
    "move": Number(-20, 20),  # metres; negative is backward
    "turn": Number(-720, 720, decimals=1),  # degrees; positive is to the left
    "wait": Number(0, 3600, decimals=1),  # seconds
    "goto": NOUNS,
    "pick": NOUNS,
    "place": NOUNS,
    "release": None,
    "gripper": Names(("open", "close")),
    "follow": NOUNS,
    "look": Names(("left", "right", "up", "down", "ahead", "behind")),
    "say": Words(),
    "report": Names(("battery", "status", "position", "temperature", "distance")),
    "speed": Names(("slow", "normal", "fast")),
    "photo": None,
    "stop": None,
    "dock": None,
}
"""What the bundled model was taught to say, and its arguments."""

UNKNOWN = "unknown()"
"""The whole script of a command that has none."""


class Call(NamedTuple):
    """One step of a script."""

    verb: str
    argument: float | str | None = None

    def __str__(self) -> str:
        """Return the call as it stands in a script."""
        if self.argument is None:
            return f"{self.verb}()"
        return (
            f"{self.verb}({self.argument:g})"
            if isinstance(self.argument, float)
            else f'{self.verb}("{self.argument}")'
        )


class Scripts(Regex):
    r"""Scripts of calls, for ``model.generate(..., constraint=)``.

    A script is ``unknown()`` alone, or calls joined by ``"; "``.

    Parameters
    ----------
    verbs : mapping of str to Number, Names, Words or None, optional
        What each call takes, None for nothing. `VERBS` with a world's own names: ``VERBS | {"goto": Names(places)}``.
    lead, tail : str, optional
        What comes before and after a script: the bundled model was taught to write a blank and an empty line.

    Raises
    ------
    ArgumentError
        There are no verbs, or one is no name.

    Examples
    --------
    >>> scripts = Scripts({**VERBS, "goto": Names(["kitchen", "user"])})
    >>> scripts.parse('move(-0.5); goto("kitchen"); photo()')
    [Call(verb='move', argument=-0.5), Call(verb='goto', argument='kitchen'), Call(verb='photo', argument=None)]
    >>> scripts.matches(" move(20)\n\n"), scripts.matches(" move(21)\n\n"), scripts.matches(' goto("moon")\n\n')
    (True, False, False)
    """

    def __init__(
        self,
        verbs: Mapping[str, Number | Names | Words | None] = VERBS,
        lead: str = " ",
        tail: str = "\n\n",
    ) -> None:
        bad = [
            verb
            for verb in verbs
            if not (isinstance(verb, str) and verb.isascii() and verb.isidentifier())
        ]
        if bad or not verbs:
            raise ArgumentError(
                "scripts", "verbs", f"{bad!r}"[:80], "names of calls", "give at least one"
            )
        self.verbs = dict(verbs)
        alike: dict[
            str, list[str]
        ] = {}  # verbs that take the same: the automaton has that once, and learns it once
        for verb, argument in verbs.items():
            alike.setdefault(argument.pattern if argument else "", []).append(verb)
        calls = "|".join(
            f"(?:{'|'.join(names)})\\({argument}\\)" for argument, names in alike.items()
        )
        super().__init__(f"unknown\\(\\)|(?:{calls})(?:; (?:{calls}))*", lead, tail)

    def parse(self, script: str) -> list[Call]:
        """Return the calls of a script, with or without lead and tail; none for ``unknown()``.

        Raises
        ------
        ArgumentError
            The text is no such script.
        """
        text = script.strip()
        if not self.matches(self.lead + text + self.tail):
            raise ArgumentError(
                "scripts", "script", f"{script!r}"[:80], "calls joined by '; '", "check the text"
            )
        if text == UNKNOWN:
            return []
        found = re.findall(r'([A-Za-z_]\w*)\((?:"([^"]*)"|([^)"]*))\)(?:; |$)', text)
        return [
            Call(verb, name or (float(number) if number else None))  # no name is empty
            for verb, name, number in found
        ]
