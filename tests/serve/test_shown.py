"""What is shown of a text that comes in pieces."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tinyrwkv.serve.shown import LEAST_LOGPROB, Entries, Entry, Trimmer, finite

texts = st.lists(st.text(" \n\tab\u00a0é", max_size=4), max_size=12)


@given(texts)
def test_the_ends_are_trimmed_however_the_text_is_cut(pieces: list[str]) -> None:
    trimmer = Trimmer(True)
    assert "".join(map(trimmer.push, pieces)) == "".join(pieces).strip()


@given(texts)
def test_nothing_is_trimmed_unless_asked_for(pieces: list[str]) -> None:
    assert list(map(Trimmer(False).push, pieces)) == pieces


@given(st.lists(st.text("aé€", min_size=1, max_size=3), max_size=10), st.data())
def test_tokens_are_told_with_the_text_that_they_begin_in(tokens, data) -> None:
    whole = "".join(tokens)
    entries, released, shown = Entries(), [], 0
    for number, token in enumerate(tokens):
        come = len("".join(tokens[: number + 1]))
        show = data.draw(st.integers(shown, come))
        released += entries.push(Entry(token.encode(), -1.0, []), whole[shown:show])
        shown = show
        begins = [len("".join(tokens[:place])) for place in range(number + 1)]
        assert len(released) == sum(begin < shown for begin in begins)
    assert [entry.data.decode() for entry in released] == tokens[: len(released)]


def test_logprobs_are_numbers_that_json_has() -> None:
    assert finite(-math.inf) == finite(-1e9) == finite(math.nan) == LEAST_LOGPROB
    assert finite(-1.5) == -1.5
