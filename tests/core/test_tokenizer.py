"""The tokenizer: greedy, lossless, robust against hostile tables; the decoder of streamed UTF-8."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

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


@given(vocabularies, st.lists(few, max_size=20).map(bytes))
@example(single_bytes() | {300: b"ab", 301: b"abaaaa"}, b"abaaa")
def test_sure_tokens_are_those_of_all_longer_texts(tokens: dict[int, bytes], text: bytes) -> None:
    """An entry that reaches over the end of the text is the only reason to change a token."""
    made = tokenizer(tokens)
    longer = {text + entry[end:] for entry in tokens.values() for end in range(len(entry))}
    common = made.encode(text)
    for one in map(made.encode, longer):
        while one[: len(common)] != common:
            common.pop()
    assert made.encode_sure(text) == common


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
        with pytest.raises(ArgumentError, match="text must be Unicode text or bytes, not a"):
            tokenizer().encode(wrong)  # type: ignore[arg-type]


def test_ids_without_text() -> None:
    made = tokenizer()
    assert made.token_bytes(0) == made.token_bytes(399) == b""
    assert made.decode([0, 300, 399, np.int32(ord("!") + 1)]) == "the!"
    assert (made.vocab_size, len(made)) == (400, len(TOKENS))


@pytest.mark.parametrize("token", [-1, 400, 1 << 70, 1.5, "a", None, True])
def test_ids_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(ArgumentError, match="0 to 399"):
        tokenizer().decode([token])


def test_arrays_of_a_read_only_map_are_not_copied() -> None:
    data, *others = pack(TOKENS)
    behind = [np.frombuffer(data, np.uint8).copy(), *others]
    views = [array.view() for array in behind]
    for view in views:
        view.flags.writeable = False
    made = Tokenizer(*views, 400)
    assert made.encode(b" them") == [302] and made.token_bytes(302) == b" them"
    # Who changes the arrays behind the map changes the tokenizer: it has no copies of them.
    data, starts, ids = behind
    entry, other = (int(np.flatnonzero(ids == token)[0]) for token in (302, 300))
    data[starts[entry] + 4] = ord("n")
    assert made.token_bytes(302) == b" then"
    starts[entry + 1] -= 1
    assert made.token_bytes(302) == b" the"
    ids[other] = 399
    assert made.encode(b"the") == [399]


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


class Table:
    """The arguments of a tokenizer, to be damaged."""

    def __init__(self) -> None:
        packed, self.starts, self.ids = pack(TOKENS)
        self.data = np.frombuffer(packed, np.uint8).copy()
        self.vocab_size = 400

    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.data, self.starts, self.ids, self.vocab_size, file="bad.trwkv")


def of_another_type(table: Table) -> None:
    table.starts = table.starts.astype(np.int64)


def of_two_dimensions(table: Table) -> None:
    table.ids = table.ids[None]


def empty(table: Table) -> None:
    table.data, table.starts, table.ids = table.data[:0], table.starts[:1], table.ids[:0]


def fewer_ids(table: Table) -> None:
    table.ids = table.ids[:-1]


def begins_later(table: Table) -> None:
    table.data = np.append(np.uint8(0), table.data)
    table.starts += 1


def begins_before(table: Table) -> None:
    table.starts[0] = -1


def ends_early(table: Table) -> None:
    table.starts[-1] -= 1


def ends_late(table: Table) -> None:
    table.starts[-1] += 1


def back_and_forth(table: Table) -> None:
    table.starts[[5, 6]] = table.starts[[6, 5]]


def far_outside(table: Table) -> None:
    table.starts[5] = 2**31 - 1


def around_the_integers(table: Table) -> None:
    table.starts[5] = 2**31 - 1
    table.starts[6] = -(2**31) + 1000


def an_empty_entry(table: Table) -> None:
    table.starts[5] = table.starts[6]


def id_0(table: Table) -> None:
    table.ids[7] = 0


def a_negative_id(table: Table) -> None:
    table.ids[7] = -1


def an_id_too_large(table: Table) -> None:
    table.ids[7] = 400


def an_id_twice(table: Table) -> None:
    table.ids[7] = table.ids[8]


def unsorted_first_bytes(table: Table) -> None:
    table.data[[5, 6]] = table.data[[6, 5]]


def a_huge_vocabulary(table: Table) -> None:
    table.vocab_size = MOST_IDS + 1


def no_vocabulary(table: Table) -> None:
    table.vocab_size = 0


DAMAGES = (
    *(of_another_type, of_two_dimensions, empty, fewer_ids),
    *(begins_later, begins_before, ends_early, ends_late),
    *(back_and_forth, far_outside, around_the_integers, an_empty_entry),
    *(id_0, a_negative_id, an_id_too_large, an_id_twice),
    *(unsorted_first_bytes, a_huge_vocabulary, no_vocabulary),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_table_is_refused(damage: Callable[[Table], None]) -> None:
    table = Table()
    table.tokenizer()
    damage(table)
    with pytest.raises(FormatError, match=r"^bad\.trwkv: tensor 'tokenizer\."):
        table.tokenizer()


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
    table = Table()
    array = (table.data, table.starts, table.ids)[which].view(np.uint8)
    position %= max(1, array.size - len(noise))
    array[position : position + len(noise)] = np.frombuffer(noise, np.uint8)[
        : array.size - position
    ]
    try:
        made = table.tokenizer()
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
