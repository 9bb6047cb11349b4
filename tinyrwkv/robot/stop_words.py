"""Words at which a robot stands still before any model reads the text. English only."""

from __future__ import annotations

import re

_STOP_WORDS = "stop|halt|freeze|whoa|emergency"
_FILLERS = "robot|please|now|it|right|there|at|once|immediately|moving"
_STOP = re.compile(rf"\b(?:{_STOP_WORDS})\b", re.IGNORECASE)
_NOTHING_ELSE = re.compile(rf"(?:\b(?:{_STOP_WORDS}|{_FILLERS})\b|[^\w]+)+", re.IGNORECASE)


def says_stop(text: str) -> bool:
    """Tell whether a text has a word at which a robot must stop, whatever else the text says.

    This needs no model.

    Examples
    --------
    >>> says_stop("Stop it, please!"), says_stop("never stop"), says_stop("use the stopper")
    (True, True, False)
    """
    return _STOP.search(text) is not None


def says_only_stop(text: str) -> bool:
    """Tell whether a text that says stop says nothing else.

    Examples
    --------
    >>> says_only_stop("Stop, please!"), says_only_stop("stop and turn around")
    (True, False)
    """
    return says_stop(text) and _NOTHING_ELSE.fullmatch(text) is not None
