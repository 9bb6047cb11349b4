"""Vocabularies: parsed without running anything, checked for what would break the tokenizer."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.write.vocab import WORLD, find_world, read_vocab
from tests.helpers.checkpoint_files import write
from tinyrwkv.errors import ArgumentError, FormatError

BYTES = [bytes([b]) for b in range(256)]


def line(number, token):
    try:
        literal = repr(token.decode("utf-8"))
    except UnicodeDecodeError:
        literal = repr(token)
    return f"{number} {literal} {len(token)}\n"


def text(tokens, first=1):
    return "".join(line(i, token) for i, token in enumerate(tokens, first)).encode()


def read(tmp_path, data, vocab_size=300):
    return read_vocab(write(tmp_path / "vocab.txt", data), vocab_size)


def entries(vocabulary):
    data, (starts, ids) = vocabulary.bytes.tobytes(), (vocabulary.starts, vocabulary.ids)
    return {data[starts[k] : starts[k + 1]]: int(ids[k]) for k in range(len(ids))}


def test_packing(tmp_path):
    tokens = [
        *BYTES,
        b"ab",
        "né".encode(),
        b"\xff\xfe",
        b'it\'s "it"',
        b"\\n",
        "\u2028\x85".encode(),
        b"a b 3",
    ]
    vocabulary = read(tmp_path, text(tokens))
    assert entries(vocabulary) == {token: i for i, token in enumerate(tokens, 1)}
    assert [x.dtype for x in vocabulary] == [np.uint8, np.int32, np.int32]
    assert list(entries(vocabulary)) == sorted(tokens)
    assert vocabulary.starts[0] == 0
    assert vocabulary.starts[-1] == len(vocabulary.bytes) == sum(map(len, tokens))


@pytest.mark.parametrize(
    "change", [lambda d: d, lambda d: d[:-1], lambda d: d.replace(b"\n", b"\r\n")]
)
def test_ends_of_lines(tmp_path, change):
    assert len(read(tmp_path, change(text(BYTES))).ids) == 256
    assert len(read(tmp_path, b"\xef\xbb\xbf" + change(text(BYTES))).ids) == 256


def test_order_and_gaps_of_ids_are_free(tmp_path):
    lines = text(BYTES, 40).splitlines(keepends=True)
    assert entries(read(tmp_path, b"".join(reversed(lines)))) == {
        token: i for i, token in enumerate(BYTES, 40)
    }


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (b"257 'ab' 3\n", "line 257 has a token of 2 bytes, but gives its length as 3"),
        (b"257 '' 0\n", "line 257 has an empty token"),
        (b"257 'a' 1\n", "line 257 has the token b'a' for the second time"),
        (b"7 'ab' 2\n", "line 257 has id 7 for the second time"),
        (b"0 'ab' 2\n", "line 257 has id 0, but the model has the ids 1 to 299"),
        (b"300 'ab' 2\n", "line 257 has id 300, but the model has the ids 1 to 299"),
        (b"-1 'ab' 2\n", "not <id> <Python literal> <length in bytes>"),
        (b"257 ab 2\n", "line 257"),
        (b"257 'ab'\n", "line 257"),
        (b"257 'ab' 2 3\n", "line 257"),
        (b"257 f'ab' 2\n", "line 257"),
        (b"257 'a' 'b' 2\n", "line 257"),
        (b"257 ['ab'] 2\n", "line 257"),
        (b"257 __import__('os').getcwd() 2\n", "line 257"),
        (b"257 '\\ud800' 3\n", "line 257"),
        (b"257 '\\x' 1\n", "line 257"),
        (b"257 b'\xc3\xa9' 2\n", "line 257"),
        (b"257 '\xff' 1\n", "line 257"),
        (b"\n257 'ab' 2\n", "line 257"),
        (b"257 '" + b"a" * 9000 + b"' 9000\n", "line 257 has 9011 bytes; at most 8192 can be read"),
        (b"257 " + b"(" * 5000 + b"\n", "line 257"),
        (b"9999999999 'ab' 2\n", "line 257"),
    ],
)
def test_lines_that_are_refused(tmp_path, extra, found):
    with pytest.raises(FormatError) as error:
        read(tmp_path, text(BYTES) + extra)
    assert found in str(error.value)
    assert "vocabulary file that belongs to the model" in str(error.value)


def test_vocabularies_that_do_not_fit_the_model(tmp_path):
    with pytest.raises(
        FormatError, match="no token for the byte 0x00, so some text has no encoding"
    ):
        read(tmp_path, text(BYTES[1:]))
    with pytest.raises(FormatError, match="no token for the byte 0xfe and 1 others"):
        read(tmp_path, text(BYTES[:-2]))
    with pytest.raises(FormatError, match="ids up to 256, but the model has 65536 rows"):
        read(tmp_path, text(BYTES), 65536)
    with pytest.raises(FormatError, match="no token for the byte"):
        read(tmp_path, b"")
    with pytest.raises(FormatError, match="no such file"):
        read_vocab(tmp_path / "missing.txt", 300)


def test_what_the_tokenizer_would_refuse_is_refused_here(tmp_path):
    assert len(entries(read(tmp_path, text([*BYTES, b"a" * 1024])))) == 257
    with pytest.raises(FormatError, match=r"line 257 has a token of 1025 bytes.* at most 1024"):
        read(tmp_path, text([*BYTES, b"a" * 1025]))
    with pytest.raises(FormatError, match=r"a model of 1048577 ids.* at most 1048576"):
        read(tmp_path, text(BYTES), (1 << 20) + 1)


def test_the_first_bad_line_ends_the_work(tmp_path):
    tracemalloc.start()
    with pytest.raises(FormatError, match="line 1 is b''"):
        read(tmp_path, b"\n" * 4_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_a_page_instead_of_a_vocabulary(tmp_path):
    with pytest.raises(FormatError, match="line 1 is b'<!DOCTYPE html>', not <id>"):
        read(tmp_path, b"<!DOCTYPE html>\n<html>")


@given(st.sets(st.binary(min_size=2, max_size=9), max_size=30))
def test_any_tokens_come_back(tmp_path_factory, tokens):
    whole = [*BYTES, *tokens]
    path = tmp_path_factory.mktemp("vocab")
    assert entries(read(path, text(whole))) == {token: i for i, token in enumerate(whole, 1)}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 255))
def test_any_change_gives_a_result_or_an_error(tmp_path_factory, place, value):
    data = bytearray(text(BYTES))
    data[place % len(data)] = value
    try:
        read(tmp_path_factory.mktemp("vocab"), bytes(data))
    except FormatError as error:
        assert "vocab.txt: " in str(error)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make `rwkv` a package that cannot be imported, with a vocabulary."""
    folder = tmp_path / "installed" / "rwkv"
    folder.mkdir(parents=True)
    write(folder / "__init__.py", b"raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return write(folder / WORLD, text(BYTES))


def test_the_world_vocabulary_is_found_beside_the_checkpoint_first(tmp_path, package):
    beside = tmp_path / "models"
    beside.mkdir()
    assert find_world(beside / "a.pth") == package
    vocabulary = write(beside / WORLD, text(BYTES))
    assert find_world(beside / "a.pth") == vocabulary


def test_where_the_world_vocabulary_is_not_the_error_says_where_it_comes_from(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("converters.write.vocab.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArgumentError) as error:
        find_world(tmp_path / "a.pth")
    for part in (
        WORLD,
        str(tmp_path),
        "an installed rwkv package",
        "ChatRWKV",
        "pip install --no-deps rwkv",
    ):
        assert part in str(error.value)


def test_a_package_without_the_vocabulary_is_no_error_of_its_own(tmp_path, package):
    os.remove(package)
    with pytest.raises(ArgumentError, match="installed"):
        find_world(tmp_path / "a.pth")
