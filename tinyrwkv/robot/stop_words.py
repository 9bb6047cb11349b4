"""Words at which a robot stands still before any model reads the text. English only.

Standing still without need costs a moment, and driving on costs more. So these words count wherever
they stand: "don't turn left" makes the robot stand still, and then it thinks about the order.
"""

from __future__ import annotations

import re
from itertools import groupby, pairwise

from .words import plain

STOP_WORDS = frozenset(
    # To stop, in other words.
    "stop halt freeze whoa woah wait pause quit cease desist estop "
    # To take back an order.
    "no nope nah dont cancel abort nevermind "
    # To warn.
    "danger dangerous careful beware emergency mayday sos help enough ouch yikes".split()
)

STOP_PHRASES = (
    # To stop.
    *("hold on", "hold it", "hold up", "hold still", "hold your horses", "hang on", "time out"),
    *("stand still", "stay still", "keep still", "sit still", "be still", "stand by", "stand down"),
    *("cut that out", "cut the power", "kill the", "power off", "power down", "shut down"),
    *("shut off", "turn off", "turn yourself off", "switch off", "switch yourself off", "back off"),
    *("hold your fire", "no more", "not one more", "not another", "kill it"),
    *("stay there", "stay put", "stay where", "stay here"),
    *("red light", "hit the brakes", "knock it off", "cut it out", "give over"),
    # To take back an order.
    *("do not", "don t", "do nt", "n o", "nuh uh", "uh uh", "unh unh"),
    *("not so fast", "not that", "not there", "not yet", "not now", "never mind"),
    *("scratch that", "strike that", "belay that", "forget it", "forget that", "that is wrong"),
    # To warn.
    *("look out", "watch out", "watch it", "watch your", "mind out", "heads up", "get back"),
    *("mind the", "mind your", "mind my", "going to hit", "gonna hit", "about to hit", "will hit"),
    *("youll hit", "going to fall", "gonna fall", "about to fall", "youll fall", "will fall"),
    *("going to crash", "gonna crash", "about to crash", "youll crash"),
)

FORMS = frozenset(
    "stops stopped stopping halting freezing waiting cancelled canceled "
    "brake brakes braking shutdown ow naw".split()
)
"""Forms of stop words that have no slips, because slips of them are other words."""

TYPOS = frozenset(
    "stp sto sop dtop stob stpp srop syop stoip holt w8 stahp "
    "stawp shtop stap stopt whoah woa cansel emergancy".split()  # codespell:ignore stap,shtop
)
"""Slips of the fingers, and of people, that no rule below makes."""

SIGNS = frozenset("🛑✋⛔🚫🤚🖐🚨⚠❌✖⏹⏸🆘🙅🚷🛇⏏")
"""Signs that say stop. Their colours and skins do not matter."""

FILLERS = frozenset(
    # What may stand beside a stop word and adds nothing.
    "robot robbie bot you your please now it its this that there here at once immediately "
    "everything all what are doing do move moving going the a an hey oh ok okay just and away "
    "plz pls 1 11 moment second minute sec instant quick quickly dear god sake for goodness my "
    "order command thing another inch still put where out back".split()
)

OTHER_WORDS = frozenset("dist desit canel".split())
"""What a slip in a stop word makes, and is not to count."""


def _once(word: str) -> str:
    """Return a word with each run of a letter written once: stop for stooopp."""
    return "".join(letter for letter, _ in groupby(word))


def _slips(word: str) -> set[str]:
    """Return a word with two neighbours exchanged, or one letter or the last e missing."""
    exchanged = {
        word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        for place in range(len(word) - 1)
        if len(word) >= 4
    }
    shorter = {word[:place] + word[place + 1 :] for place in range(1, len(word)) if len(word) >= 6}
    mute = {word[:-1]} if word.endswith("e") and len(word) >= 5 else set[str]()
    return {word} | exchanged | shorter | mute


_SPELLINGS = {slip for word in STOP_WORDS for slip in _slips(_once(word))} - OTHER_WORDS | {
    _once(word) for word in FORMS | TYPOS
}
_ONCE_FILLERS = frozenset(map(_once, FILLERS))
_LONG = "|".join(sorted(_once(word) for word in STOP_WORDS if len(word) > 3))
_TEARABLE = {word for word in STOP_WORDS if len(word) > 3} - {"dont", "help"}
_WORD = re.compile(r"[^\W_]+(?:['\u2018\u2019\u02bc`\u00b4][^\W_]+)*")
_SPACED = re.compile(r"(?<!\w)(?:[^\W_][\W_]{1,5}){2,}[^\W_](?!\w)")
_ONCE_PHRASES = [" ".join(map(_once, phrase.split())) for phrase in STOP_PHRASES]
_PHRASE = re.compile(rf"\b(?:{'|'.join(_ONCE_PHRASES)})\b")
_GLUED_PHRASES = {_once(phrase.replace(" ", "")) for phrase in STOP_PHRASES} - {"no"}
_BESIDE = "please|plz|pls|robot|hey|ok|okay|just|now|be|it|there|right|oh|and|you"
_GLUED = re.compile(rf"(?:{_BESIDE})*(?:{_LONG})(?:{_BESIDE})*")
"""A stop word with another word and no space between: pleasestop, stopit."""
_GO_ON = re.compile(rf"\b(?:dont|do not|never|not) (?:{'|'.join(STOP_WORDS)})\b")
"""Not to stop is to be thought about."""
_RIGHT_NOW = re.compile(r"\bright (?:now|there|here|away|this)\b")
_REPEATED = re.compile(rf"(?:no|{_LONG})+")
_LOOK_LIKE_LETTERS = str.maketrans("013457$@", "oieastsa")


def says_stop(text: str) -> bool:
    r"""Tell whether a text has a word at which a robot must stop, whatever else the text says.

    This needs no model. Capitals, repeated letters, spaces between letters, letters that only look
    alike, invisible characters, usual slips of the fingers and signs such as a raised hand count.

    Examples
    --------
    >>> says_stop("Stop it, please!"), says_stop("never stop"), says_stop("use the stopper")
    (True, True, False)
    >>> says_stop("s t o p"), says_stop("STOOOP"), says_stop("watch out"), says_stop("\u270b")
    (True, True, True, True)
    """
    shown = plain(text)
    words = _words(shown)
    return (
        not SIGNS.isdisjoint(shown)
        or any(_is_stop(word) for word in words)
        or _PHRASE.search(" ".join(map(_once, words))) is not None
        or bool(_torn(words))
    )


def says_only_stop(text: str) -> bool:
    """Tell whether a text that says stop says nothing else.

    Examples
    --------
    >>> says_only_stop("Stop, please!"), says_only_stop("stop and turn around")
    (True, False)
    """
    spaced = " ".join(_words(plain(text)))
    if not says_stop(text) or _GO_ON.search(spaced):
        return False
    words = _RIGHT_NOW.sub(" ", spaced).split()
    torn = set(map(_once, _torn(words)))
    left = _PHRASE.sub(" ", " ".join(map(_once, words))).split()
    return all(word in _ONCE_FILLERS or word in torn or _is_stop(word) for word in left)


def _words(shown: str) -> list[str]:
    """Return the words of a text in small letters; letters with spaces between are one word."""
    shown = _SPACED.sub(_joined, shown)
    shown = re.sub(r"[$@](?=[^\W_])", lambda sign: sign[0].translate(_LOOK_LIKE_LETTERS), shown)
    return [re.sub(r"\W", "", word) for word in _WORD.findall(shown)]


def _joined(letters: re.Match[str]) -> str:
    return re.sub(f"({_LONG})", r" \1 ", re.sub(r"[\W_]", "", letters[0]))


def _torn(words: list[str]) -> set[str]:
    """Return the parts of stop words that have a space within."""
    pairs = list(pairwise(words))
    return {part for pair in pairs if "".join(pair) in _TEARABLE for part in pair}


def _is_stop(word: str) -> bool:
    if word.isdigit():
        return False
    once = {_once(re.sub(r"\d", "", word)), _once(word), _once(word.translate(_LOOK_LIKE_LETTERS))}
    return (
        not _SPELLINGS.isdisjoint(once)
        or not _GLUED_PHRASES.isdisjoint(once)
        or any(_REPEATED.fullmatch(one) or _GLUED.fullmatch(one) for one in once)
    )
