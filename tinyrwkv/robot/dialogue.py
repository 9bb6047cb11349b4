"""What a few words mean before any model reads them: yes, and that something has time.

English only, like the model. Words that may also begin an order are not among them: "right" and
"go ahead" are no yes.
"""

from __future__ import annotations

import re
import unicodedata

YES = frozenset(
    {
        "y",
        "yes",
        "yes please",
        "yes do it",
        "yes do that",
        "yes that is right",
        "yes that's right",
        "yeah",
        "yep",
        "yup",
        "sure",
        "ok",
        "okay",
        "ok do it",
        "do it",
        "please do",
        "correct",
        "that is correct",
        "that's correct",
        "exactly",
        "affirmative",
    }
)
"""Whole texts that say yes to a question, in small letters and without punctuation."""

_POLITE = r"(?:(?:and|ok|okay|please|robot|now|so)\b[\s,]*)*"
_LATER = r"after that|after this|afterwards?|when you(?: are|'re| have) (?:done|finished)|next|then"
_BEGINS = re.compile(rf"\s*{_POLITE}(?:{_LATER})\b(?!\s+to\b)[\s,:]*", re.IGNORECASE)
_ENDS = re.compile(rf"[\s,]+(?:{_LATER})[\s.!]*$", re.IGNORECASE)


def says_yes(text: str) -> bool:
    """Tell whether a whole text says yes, and cannot be an order.

    Examples
    --------
    >>> says_yes("Yes, please!"), says_yes("right"), says_yes("yes, turn right")
    (True, False, False)
    """
    words = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)?", words)) in YES


def split_later(text: str) -> tuple[bool, str]:
    """Tell whether an order is for after what the robot does now; return it without these words.

    Only the beginning and the end count: "turn left and then stop there" is one new order.

    Examples
    --------
    >>> split_later("And then turn left."), split_later("turn left after that")
    ((True, 'turn left.'), (True, 'turn left'))
    >>> split_later("turn left and then move"), split_later("next to the table")
    ((False, 'turn left and then move'), (False, 'next to the table'))
    """
    begins = _BEGINS.match(text)
    if begins:
        return True, text[begins.end() :]
    ends = _ENDS.search(text)
    if ends and ends.start() > 0:
        return True, text[: ends.start()]
    return False, text
