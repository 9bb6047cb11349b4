"""Scripts for robots, such as ``move(2); goto("kitchen")``: as a constraint, and as calls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..arguments import items, refusal
from ..constraints.constraint import Constraint
from ..constraints.numbers import pattern as number_pattern
from ..constraints.old_names import accept_old_names
from ..errors import ArgumentError, show

MOST = 999_999_999
"""No order needs a larger number."""


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
        expected = "a list of texts without quotes and backslashes"
        fix = "name at least one"
        self.names = tuple(items("scripts", "names", names, expected, fix))
        bad = [name for name in self.names if not _can_be_quoted(name)]
        if bad or not self.names:
            raise refusal("scripts", "names", bad, expected, fix)

    @property
    def pattern(self) -> str:
        """The pattern of the argument."""
        names = "|".join(re.escape(name) for name in self.names)
        return f'"(?:{names})"'


def _can_be_quoted(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r'[^"\\\x00-\x1f]+', name) is not None


@dataclass(frozen=True)
class Words:
    """Any words with single spaces between them, in quotes."""

    pattern: str = "\"[A-Za-z0-9',.?!-]+(?: [A-Za-z0-9',.?!-]+)*\""


Argument = Number | Names | Words
"""The kinds of argument that a call can take."""

NOUNS = Words("\"[a-z0-9'-]+(?: [a-z0-9'-]+)*\"")
"""Nouns with their adjectives, in small letters."""

VERBS: Mapping[str, Argument | None] = {
    "move": Number(-20, 20),  # metres; negative is backward
    "turn": Number(-3600, 3600, decimals=1),  # degrees; positive is to the left
    "wait": Number(0, 86400, decimals=1),  # seconds
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
"""The calls that the bundled model was taught to say, and their arguments."""

UNKNOWN = "unknown()"
"""The whole script for an order that the robot cannot do."""


class Call(NamedTuple):
    """One step of a script."""

    verb: str
    argument: float | str | None = None

    def __str__(self) -> str:
        """Return the call as it stands in a script."""
        if self.argument is None:
            return f"{self.verb}()"
        if isinstance(self.argument, float):
            return f"{self.verb}({self.argument:g})"
        return f'{self.verb}("{self.argument}")'


class Scripts(Constraint):
    r"""Scripts of calls, for ``model.generate(..., constraint=)``.

    A script is ``unknown()`` alone, or calls joined by ``"; "``.

    Parameters
    ----------
    verbs : mapping of str to Number, Names, Words or None, optional
        The argument of each call, or None if it takes none. To use the names of your own world,
        write ``{**VERBS, "goto": Names(places)}``.
    prefix, suffix : str, optional
        What comes before and after a script. The bundled model was taught to write a space before
        it and an empty line after it.

    Raises
    ------
    ArgumentError
        There are no verbs, or one of them is not a name.

    Examples
    --------
    >>> scripts = Scripts({**VERBS, "goto": Names(["kitchen", "user"])})
    >>> scripts.parse('move(-0.5); goto("kitchen")')
    [Call(verb='move', argument=-0.5), Call(verb='goto', argument='kitchen')]
    >>> scripts.parse("photo()")
    [Call(verb='photo', argument=None)]
    >>> scripts.matches(" move(20)\n\n"), scripts.matches(" move(21)\n\n")
    (True, False)
    >>> scripts.matches(' goto("kitchen")\n\n'), scripts.matches(' goto("moon")\n\n')
    (True, False)
    """

    @accept_old_names
    def __init__(
        self,
        verbs: Mapping[str, Argument | None] = VERBS,
        prefix: str = " ",
        suffix: str = "\n\n",
    ) -> None:
        expected = "a mapping of names of calls to a Number, Names, Words or None"
        fix = "give at least one"
        if not isinstance(verbs, Mapping):
            raise refusal("scripts", "verbs", verbs, expected, fix)
        self.verbs = dict(verbs)
        bad = [verb for verb, argument in self.verbs.items() if not _is_call(verb, argument)]
        if bad or not self.verbs:
            raise refusal("scripts", "verbs", bad, expected, fix)
        call = _call_pattern(self.verbs)
        super().__init__(f"unknown\\(\\)|(?:{call})(?:; (?:{call}))*", prefix, suffix)

    def parse(self, script: str) -> list[Call]:
        """Return the calls of a script.

        Parameters
        ----------
        script : str
            With or without prefix and suffix.

        Returns
        -------
        list of Call
            It is empty for ``unknown()``.

        Raises
        ------
        ArgumentError
            The text is not a script of these calls.
        """
        if not isinstance(script, str):
            raise refusal("scripts", "script", script, "a text", "give a str")
        text = script.strip()
        if not self.matches(self.prefix + text + self.suffix):
            found = show(script)
            fix = "check the text"
            expected = "calls joined by '; '"
            sentence = f"{found} is not a script of calls joined by '; '"
            raise ArgumentError("scripts", "script", found, expected, fix, sentence)
        if text == UNKNOWN:
            return []
        return [_call(*parts) for parts in _CALL.findall(text)]

    def with_any_number(self) -> Scripts:
        """Return the same scripts with bounds that no order reaches.

        A grammar with bounds makes a model say another number: 2 for 20. So the model writes any
        number, and the bounds are held against it afterwards.
        """
        verbs = {verb: _unbounded(argument) for verb, argument in self.verbs.items()}
        return Scripts(verbs, self.prefix, self.suffix)


def _unbounded(argument: Argument | None) -> Argument | None:
    if not isinstance(argument, Number):
        return argument
    return replace(argument, low=min(argument.low, -MOST), high=max(argument.high, MOST))


_CALL = re.compile(r'([A-Za-z_]\w*)\((?:"([^"]*)"|([^)"]*))\)(?:; |$)')
"""A call of a script: its verb, then a name without quotes, then a number. Both may be empty."""


def _call(verb: str, name: str, number: str) -> Call:
    if name:
        return Call(verb, name)
    return Call(verb, float(number) if number else None)


def _is_call(verb: object, argument: object) -> bool:
    is_name = isinstance(verb, str) and verb.isascii() and verb.isidentifier()
    return is_name and (argument is None or isinstance(argument, Argument))


def _call_pattern(verbs: Mapping[str, Argument | None]) -> str:
    """Return the pattern of one call.

    Verbs with the same argument stand together, so that the automaton has that argument only once.
    """
    by_argument: dict[str, list[str]] = {}
    for verb, argument in verbs.items():
        by_argument.setdefault(argument.pattern if argument else "", []).append(verb)
    calls = [f"(?:{'|'.join(names)})\\({pattern}\\)" for pattern, names in by_argument.items()]
    return "|".join(calls)
