"""Stop words: in whatever spelling they come, the robot stands still before it thinks."""

from __future__ import annotations

import pytest

from tinyrwkv.robot.guard import says_only_stop, says_stop
from tinyrwkv.robot.stop_words import STOP_PHRASES, STOP_WORDS

SPELLINGS = [
    *("STOP!!!", "stooop", "s t o p", "s-t-o-p", "S.T.O.P.", "s_t_o_p", "s\nt\no\np"),
    *("st op", "stopstop", "nonono", "st0p", "5top", "$top", "stp", "sotp", "dtop", "st\u200bop"),
    *("\uff33\uff34\uff2f\uff30", "\u0455\u0442\u043e\u0440", "st\u00f6p", "\U0001d42c\U0001d42d"),
    *("\U0001f6d1", "\u270b\U0001f3fd", "\u26d4\ufe0f", "no!!", "don\u2019t", "DONT", "do not"),
    *("stopit", "plzstop", "becareful", "holdon", "hang onn", "loook ouut", "don t"),
    *("don\u00b4t", "do nt", "emergancy", "brakes", "shut down", "going to hit"),
    *("abotr", "canecl", "emergncy", "FREEEEZE", "w a i t", "look out!", "watch out", "hold on"),
]
SPELLINGS[SPELLINGS.index("\U0001d42c\U0001d42d")] = "\U0001d42c\U0001d42d\U0001d428\U0001d429"


@pytest.mark.parametrize("text", [*SPELLINGS, *sorted(STOP_WORDS), *sorted(STOP_PHRASES)])
def test_a_stop_word_counts_however_it_is_written(text):
    assert says_stop(text) and says_only_stop(text)
    assert says_stop(f"please go on, {text}, and turn left")


@pytest.mark.parametrize(
    "text", ["stop and turn left", "don't turn left", "wait 5 seconds", "no, right"]
)
def test_what_else_is_said_is_thought_about(text):
    assert says_stop(text) and not says_only_stop(text)


@pytest.mark.parametrize("text", ["don't stop", "never stop", "do not freeze"])
def test_a_stop_that_is_not_to_be_is_thought_about(text):
    assert says_stop(text) and not says_only_stop(text)


@pytest.mark.parametrize(
    "text",
    [
        *("bring me the red cup", "go to the shop", "the nonstop flight", "use the stopper"),
        *("I know", "take a photo of the snow", "Anna's top drawer", "a note on the post"),
        *("free the dancer", "hop on the spot", "put it on top", "the canal", "turn right now"),
        *(
            "1 2 3 4",
            "",
            "what a nice hat",
            "salt",
            "the ranger",
            "the stopper",
            "hold a light",
            "I hate cancer",
            "follow me",
        ),
    ],
)
def test_ordinary_words_do_not_stop_the_robot(text):
    assert not says_stop(text) and not says_only_stop(text)


def test_a_long_text_takes_time_in_proportion():
    assert not says_stop("a b " * 50_000) and says_stop("a b " * 50_000 + "stop")
