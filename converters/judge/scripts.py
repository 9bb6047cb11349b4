"""Answers that are scripts for a robot: which misses would act, and which do nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tinyrwkv.robot.scripts import UNKNOWN, VERBS

from .metrics import Matches

_VERB = re.compile(r"([A-Za-z_]\w*)\(")
_CALL = rf'{_VERB.pattern}(?:"[^"\n]*"|[^()"\n]*)\)'
_SCRIPT = re.compile(rf"{_CALL}(?:; {_CALL})*")
_WORDS = re.compile(r'"[^"]*"')


def is_script(answer: str) -> bool:
    """Tell whether an answer is made of calls, whatever their names and numbers.

    Examples
    --------
    >>> is_script('move(5000); goto("moon")'), is_script("I like to move."), is_script("move(2")
    (True, False, False)
    """
    return _SCRIPT.fullmatch(answer) is not None


def are_of_the_grammar(answers: Iterable[str]) -> bool:
    """Tell whether all answers are scripts of calls that the built-in grammar has.

    Their numbers may be beyond its bounds.

    Examples
    --------
    >>> are_of_the_grammar(["move(5000)", "unknown()"]), are_of_the_grammar(["fly(2)"])
    (True, False)
    """
    known = {*VERBS, UNKNOWN.removesuffix("()")}
    return all(
        is_script(answer) and set(_VERB.findall(_WORDS.sub("", answer))) <= known
        for answer in answers
    )


def count_misses(matches: Matches) -> dict[str, float]:
    """Return what the answers that are not right would do, as shares of all answers.

    Parameters
    ----------
    matches : Matches

    Returns
    -------
    dict
        ``wrong_actions``: a script that is neither right nor ``unknown()``. ``unknown``:
        ``unknown()`` where an action was right. ``no_script``: anything else; a robot would do
        nothing.
    """
    counts = {"wrong_actions": 0, "unknown": 0, "no_script": 0}
    for entry in matches.wrong:
        counts[kind_of_miss(entry["answer"])] += 1
    return {kind: count / matches.documents for kind, count in counts.items()}


def kind_of_miss(answer: str) -> str:
    """Return the key of `count_misses` for an answer that is not right.

    Examples
    --------
    >>> kind_of_miss("move(2)"), kind_of_miss("unknown()"), kind_of_miss("Hello!")
    ('wrong_actions', 'unknown', 'no_script')
    """
    if answer == UNKNOWN:
        return "unknown"
    return "wrong_actions" if is_script(answer) else "no_script"
