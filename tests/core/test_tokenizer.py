"""The tokenizer: greedy, lossless, robust against hostile tables; the decoder of streamed UTF-8."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers.vocabularies import pack, single_bytes
from tinyrwkv.errors import ArgumentError, FormatError
from tinyrwkv.tokenizer import LONGEST, MOST_IDS, StreamDecoder, Tokenizer

WORDS = [
    b"the",
    b" the",
    b" them",
    b" then",
    b"\n\n",
    b"User:",
    b"caf\xc3\xa9",
    b"\xc3\xa9",
    b"\x00\x00",
    b"\xff\xff",
]
TOKENS = single_bytes() | {300 + i: word for i, word in enumerate(WORDS)}

# Few different bytes, so that entries share prefixes; the extremes 0 and 255 too.
few = st.sampled_from([0, 1, 97, 98, 255])
strings = st.lists(few, max_size=6).map(bytes)
vocabularies = st.sets(strings.filter(lambda entry: len(entry) > 1), max_size=30).map(
    lambda entries: (
        single_bytes()
        | {300 + 2 * i: entry for i, entry in enumerate(sorted(entries, reverse=True))}
    )
)


def tokenizer(tokens: dict[int, bytes] = TOKENS, vocab_size: int = 400) -> Tokenizer:
    return Tokenizer(*pack(tokens), vocab_size, "a.trwkv")


def naive(tokens: dict[int, bytes], text: bytes) -> list[int]:
    """Greedy longest match, word for word."""
    by_bytes = {entry: token for token, entry in tokens.items()}
    ids = []
    while text:
        length = max(n for n in range(1, len(text) + 1) if text[:n] in by_bytes)
        ids.append(by_bytes[text[:length]])
        text = text[length:]
    return ids


@given(vocabularies, st.lists(few, max_size=60).map(bytes))
@example(single_bytes(), b"")
@example(single_bytes() | {300: b"ab", 301: b"abaaaa", 302: b"abaaab"}, b"abaaa\xff")
def test_encode_is_greedy(tokens: dict[int, bytes], text: bytes) -> None:
    assert tokenizer(tokens).encode(text) == naive(tokens, text)


def test_encode_of_each_entry_is_its_id() -> None:
    made = tokenizer()
    for token, entry in TOKENS.items():
        assert made.encode(entry) == [token]
        assert made.token_bytes(token) == entry


@given(st.binary(max_size=200))
def test_round_trip_of_bytes(text: bytes) -> None:
    made = tokenizer()
    assert made.decode_bytes(made.encode(text)) == text
    assert made.decode(made.encode(text)) == text.decode("utf-8", "replace")


@given(st.text(max_size=100))
def test_round_trip_of_text(text: str) -> None:
    made = tokenizer()
    assert made.decode(made.encode(text)) == text
    assert made.encode(text) == made.encode(text.encode())


def test_entry_as_long_as_allowed() -> None:
    long = b"a" * LONGEST
    made = tokenizer(single_bytes() | {300: long})
    assert made.encode(b"b" + long + b"a") == [ord("b") + 1, 300, ord("a") + 1]
    with pytest.raises(FormatError, match="at most 1,024"):
        tokenizer(single_bytes() | {300: long + b"a"})


def test_surrogates() -> None:
    made = tokenizer()
    assert (
        made.decode_bytes(made.encode(b"caf\xe9".decode("utf-8", "surrogateescape"))) == b"caf\xe9"
    )
    with pytest.raises(ArgumentError, match="lone surrogate at character 1"):
        made.encode("a\ud800")


def test_encode_refuses_other_kinds() -> None:
    for wrong in (None, 5, ["a"]):
        with pytest.raises(ArgumentError, match="text: found a"):
            tokenizer().encode(wrong)  # type: ignore[arg-type]


def test_ids_without_text() -> None:
    made = tokenizer()
    assert made.token_bytes(0) == made.token_bytes(399) == b""
    assert made.decode([0, 300, 399, np.int32(ord("!") + 1)]) == "the!"
    assert (made.vocab_size, len(made)) == (400, len(TOKENS))


@pytest.mark.parametrize("token", [-1, 400, 1 << 70, 1.5, "a", None])
def test_ids_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(ArgumentError, match="0 to 399"):
        tokenizer().decode([token])


def test_arrays_of_a_read_only_map_are_not_copied() -> None:
    data, starts, ids = pack(TOKENS)
    starts.flags.writeable = ids.flags.writeable = False
    made = Tokenizer(np.frombuffer(data, np.uint8), starts, ids, 400)
    assert np.shares_memory(np.asarray(made._starts), starts)
    assert made.encode(b" them") == [302]


def test_memory_of_a_large_vocabulary() -> None:
    random = np.random.default_rng(1)
    entries = {
        bytes(row[: 2 + i % 5])
        for i, row in enumerate(random.integers(97, 123, (60_000, 6), np.uint8))
    }
    packed = pack(single_bytes() | {300 + i: entry for i, entry in enumerate(sorted(entries))})
    tracemalloc.start()
    made = Tokenizer(*packed, 65_536)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made) > 40_000
    assert kept < 1.0e6 and peak < 6e6  # an object per entry would be 4 MB at least


def refused(change: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    packed, starts, ids = pack(TOKENS)
    data, size = np.frombuffer(packed, np.uint8).copy(), 400
    if change == "dtype":
        starts = starts.astype(np.int64)
    elif change == "two dimensions":
        ids = ids[None]
    elif change == "empty":
        data, starts, ids = data[:0], starts[:1], ids[:0]
    elif change == "fewer ids":
        ids = ids[:-1]
    elif change == "begins later":
        data, starts = np.append(np.uint8(0), data), starts + np.int32(1)
    elif change == "begins before":
        starts[0] = -1
    elif change == "ends early":
        starts[-1] -= 1
    elif change == "ends late":
        starts[-1] += 1
    elif change == "back and forth":
        starts[[5, 6]] = starts[[6, 5]]
    elif change == "far outside":
        starts[5] = 2**31 - 1
    elif change == "an empty entry":
        starts[5] = starts[6]
    elif change == "id 0":
        ids[7] = 0
    elif change == "negative id":
        ids[7] = -1
    elif change == "id too large":
        ids[7] = 400
    elif change == "id twice":
        ids[7] = ids[8]
    elif change == "unsorted first bytes":
        data[[5, 6]] = data[[6, 5]]
    elif change == "huge vocabulary":
        size = MOST_IDS + 1
    elif change == "no vocabulary":
        size = 0
    return data, starts, ids, size


CHANGES = (
    "dtype|two dimensions|empty|fewer ids|begins later|begins before|ends early|ends late|back and forth|far outside|"
    "an empty entry|id 0|negative id|id too large|id twice|unsorted first bytes|huge vocabulary|no vocabulary"
).split("|")


@pytest.mark.parametrize("change", CHANGES)
def test_damaged_table_is_refused(change: str) -> None:
    Tokenizer(*refused("nothing"))
    with pytest.raises(FormatError, match=r"^bad\.trwkv: tensor 'tokenizer\."):
        Tokenizer(*refused(change), file="bad.trwkv")


@pytest.mark.parametrize("missing", [1, 100, 256])
def test_missing_single_byte_is_refused(missing: int) -> None:
    with pytest.raises(FormatError, match="each of the 256"):
        tokenizer({token: entry for token, entry in TOKENS.items() if token != missing})


@given(st.lists(strings.filter(len), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_only_sorted_different_entries_are_accepted(extra: list[bytes], random: object) -> None:
    """Whatever order the entries come in: accepted means sorted, and sorted means accepted."""
    entries = [bytes([byte]) for byte in range(256)] + extra
    random.shuffle(extra)  # type: ignore[attr-defined]
    for order in (
        sorted(entries),
        sorted(set(entries)),
        extra + sorted(entries),
        swap(sorted(set(entries)), random),
    ):
        starts = np.cumsum([0] + [len(entry) for entry in order]).astype(np.int32)
        ids = np.arange(1, len(order) + 1, dtype=np.int32)
        try:
            Tokenizer(b"".join(order), starts, ids, 1000)
            accepted = True
        except FormatError:
            accepted = False
        assert accepted == (order == sorted(set(order)))


def swap(order: list[bytes], random: object) -> list[bytes]:
    k = random.randrange(len(order) - 1)  # type: ignore[attr-defined]
    return [*order[:k], order[k + 1], order[k], *order[k + 2 :]]


@settings(max_examples=300)
@given(st.binary(max_size=300), st.integers(0, 2), st.integers(0, 2**31 - 1))
def test_hostile_bytes_never_crash(noise: bytes, which: int, position: int) -> None:
    data, starts, ids, size = refused("nothing")
    array = (data, starts, ids)[which].view(np.uint8)
    position %= max(1, array.size - len(noise))
    array[position : position + len(noise)] = np.frombuffer(noise, np.uint8)[
        : array.size - position
    ]
    try:
        made = Tokenizer(data, starts, ids, size)
    except FormatError:
        return
    assert made.decode_bytes(made.encode(noise)) == noise


utf8_pieces = st.one_of(st.text(max_size=8).map(str.encode), st.binary(max_size=4))


@settings(max_examples=500)
@given(st.lists(utf8_pieces, max_size=8).map(b"".join), st.data())
def test_stream_decoder_at_any_split(whole: bytes, draw: st.DataObject) -> None:
    cuts = draw.draw(st.lists(st.integers(0, len(whole)), max_size=8).map(sorted))
    decoder = StreamDecoder()
    for _ in range(2):  # after flush it is as new
        text = "".join(
            decoder.push(whole[a:b]) for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)
        )
        assert text + decoder.flush() == whole.decode("utf-8", "replace")


def test_stream_decoder_byte_by_byte_gives_whole_characters() -> None:
    decoder = StreamDecoder()
    pieces = [decoder.push(bytes([byte])) for byte in "aé€🤖".encode()]
    assert pieces == ["a", "", "é", "", "", "€", "", "", "", "🤖"]
    assert decoder.flush() == ""


def test_stream_decoder_of_every_lead_and_second_byte() -> None:
    for first in range(256):
        for second in range(256):
            whole = bytes([first, second, 0x80, 0x41])
            decoder = StreamDecoder()
            text = "".join(decoder.push(bytes([byte])) for byte in whole) + decoder.flush()
            assert text == whole.decode("utf-8", "replace")
