"""What a script does against what an order asks for: no more, and no less."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from . import nouns
from .check_names import SAID, words_of
from .check_numbers import fits
from .phrases import BLANK
from .quantities import BARE, REPEAT, quantities
from .scripts import Call
from .vocabulary import (
    ABOUT_ITSELF,
    AGAIN,
    ARGUMENTS,
    ARTICLES,
    EVIDENCE,
    JOINERS,
    ONTO,
    PUTTING,
    SPEEDS,
    STAYING,
    TRIGGERS,
)
from .words import PAUSES

_NONE = frozenset[str]()


def asked_for(words: list[str], wished: list[str], calls: Sequence[Call]) -> list[str]:
    """Object to calls of which the order has no word."""
    without_words = set[str]()
    if any(call.verb == "pick" for call in calls):
        without_words.add("release")
    if not STAYING.isdisjoint(words):
        without_words.add("stop")  # "do not move" asks for it
    negated = {word for word, left in zip(words, wished, strict=True) if word != left}
    reasons = []
    for call in calls:
        verb = EVIDENCE.get(call.verb) if call.verb not in without_words else None
        argument = ARGUMENTS.get(call.verb, {}).get(str(call.argument))
        if call.verb == "report" and call.argument in ("position", "status"):
            argument = (
                argument if argument is None or not ABOUT_ITSELF.isdisjoint(wished) else _NONE
            )
        if argument is not None and not negated.isdisjoint(_opposite(call)):
            argument = None  # "not so fast" is slow
        unheard = any(
            needed is not None and needed.isdisjoint(wished) for needed in (verb, argument)
        )
        unsaid = call.verb == "say" and SAID not in wished
        if unheard or unsaid:
            reasons.append(f"the order does not ask for {call}")
    return reasons


def _opposite(call: Call) -> frozenset[str]:
    """Return the words of the other speed."""
    others = {"slow": "fast", "fast": "slow"}
    if call.verb != "speed" or call.argument not in others:
        return frozenset()
    return SPEEDS[others[str(call.argument)]]


def all_done(rest: list[str], calls: Sequence[Call]) -> list[str]:
    """Object if the order asks for something that no call does."""
    verbs = {call.verb for call in calls}
    reasons = []
    for word in rest:
        wanted = TRIGGERS.get(word)
        if wanted is not None and wanted.isdisjoint(verbs):
            reasons.append(f'the script leaves out "{word}"')
    if _parts(rest) > len(calls):
        reasons.append("the order has more parts than the script")
    return reasons


def _parts(rest: list[str]) -> int:
    """Return how many parts an order has at least: one more than "then" stands in it."""
    parts = 1
    started = False
    for before, word in pairwise(["", *rest]):
        if started and word in JOINERS and before not in ARTICLES | JOINERS | {"to"}:
            parts += 1
        started = started or word not in PAUSES | JOINERS | {BLANK, "and", "ok", "okay", "now"}
    return parts


def repeated(rest: list[str], calls: Sequence[Call]) -> list[str]:
    """Object if a script does something twice in a row, and the order does not say so."""
    twice = [call for call, after in pairwise(calls) if call == after]
    counted = any(one.kind in (REPEAT, BARE) for one in quantities(rest))
    if counted or not AGAIN.isdisjoint(rest):
        return []
    said = quantities(rest)
    return [
        f"the order does not ask for {call} twice"
        for call in twice
        if sum(fits(call, one) for one in said) < 2
    ]


def put_down(wished: list[str], calls: Sequence[Call]) -> list[str]:
    """Object if something is to be put in or on a thing, and the script drives there instead."""
    for call, after in pairwise(calls):
        if call.verb != "goto" or after.verb != "release" or call.argument == "user":
            continue
        for start, _ in nouns.find_all(words_of(call), wished):
            clause = [word for word in wished[max(0, start - 8) : start] if word not in ARTICLES]
            if clause[-1:] and clause[-1] in ONTO and not PUTTING.isdisjoint(clause):
                return [f"the order is to put it {clause[-1]} the {call.argument}"]
    return []
