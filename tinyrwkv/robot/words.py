"""The words of an order, however they were typed: what stop words and the guard read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

PAUSES = frozenset(",;:.!?()[]\n-")
"""Tokens that are not words: they end a clause."""

LOOK_ALIKES = str.maketrans(
    # Cyrillic, Greek, Armenian and small capitals that look like the Latin letters below them.
    "абвеѐёкмнорстухѕіїјԁһԛԝгпли"
    + "αβεικνορτυχωγση"
    + "օոսհ"
    + "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ"
    + "ıłøđ",
    "abbeeekmhopctyxsiijdhqwrnlu"
    + "abeikvoptuxwyon"
    + "onuh"
    + "abcdefghijklmnoprstuvwyz"
    + "ilod",
)

LETTER_SIGNS = {
    # Letters in circles and squares that Unicode does not count as letters.
    code + place: chr(ord("a") + place)
    for code in (0x1F150, 0x1F170, 0x1F1E6)
    for place in range(26)
}

_FRACTION_SIGNS = re.compile("([¼½¾⅐-⅞])")
_TOKEN = re.compile(
    r"\d+ ?/ ?\d+|\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+|[^\W\d_]+|[,;:.!?()\[\]\n-]"
)

_SIGNS = (
    # What stands for words. The order counts.
    (re.compile(r"(?<![\d'])\"([^\"]*)\""), r" \1 "),
    (re.compile(r"(\d)\s*(?:''|[\"\u2033\u201d])"), r"\1 inches "),
    (re.compile(r"(\d)\s*[\u2032'](?=\s|\d|$)"), r"\1 feet "),
    (re.compile("°"), " degrees "),
    (re.compile(r"(?<![\w.)])[-\u2212](?=\s?[.\d])"), " minus "),
    (re.compile(r"(?<=[^\W\d_])['\u2019\u02bc`\u00b4](?=[^\W\d_])"), ""),  # don't, robot's
    (re.compile(r"\b(counter|anti)[- ]clock"), r"\1clock"),
    (re.compile(r"(?<=\w)-(?=\w)"), " "),  # x-ray, forty-five
    (re.compile("[\u2013\u2014\u2026]"), " - "),
)


def plain(text: str) -> str:
    r"""Return a text in small letters: no accents, nothing invisible, one form of each letter.

    Examples
    --------
    >>> plain("S\u200bTOP"), plain("st\u043ep"), plain("2½")
    ('stop', 'stop', '2 1/2')
    """
    text = _FRACTION_SIGNS.sub(r" \1", text)
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2044", "/")
    letters = unicodedata.normalize("NFD", text.translate(LETTER_SIGNS))
    shown = (one for one in letters if unicodedata.category(one) not in ("Cf", "Mn", "Me"))
    return "".join(shown).translate(LOOK_ALIKES).strip()


def slips(targets: Iterable[str]) -> dict[str, str]:
    """Return usual typing mistakes in words, and the words.

    Two letters are exchanged, one is doubled, or one is missing in a word of six letters or more.
    """
    found = dict[str, str]()
    for word in targets:
        for place in range(1, len(word)):
            swapped = word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :]
            doubled = word[:place] + word[place - 1 :]
            missing = word[:place] + word[place + 1 :]
            for slip in (swapped, doubled, missing if len(word) > 5 else swapped):
                found.setdefault(slip, word)
    return found


def tokens(text: str) -> list[str]:
    """Return the words, numbers and pauses of a text.

    Examples
    --------
    >>> tokens("Don't go 45cm, turn -5° (x-ray)")
    ['dont', 'go', '45', 'cm', ',', 'turn', 'minus', '5', 'degrees', '(', 'x', 'ray', ')']
    """
    text = plain(text)
    for sign, word in _SIGNS:
        text = sign.sub(word, text)
    return _TOKEN.findall(text)
