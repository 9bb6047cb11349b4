"""The safetensors reader: its own rules, and what hostile headers get."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.read import source
from tests.helpers.checkpoint_files import (
    flipped,
    read_plain,
    read_raw,
    safetensors,
    survives,
    with_header,
    write,
)
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import stored
from tinyrwkv.errors import FormatError, TinyRWKVError, UnsupportedError

RNG = np.random.default_rng(0)
TINY = raw_checkpoint("v5.2", n_layer=1, n_embd=32, vocab_size=40)
TINY_BYTES = safetensors(TINY)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def refusal(tmp_path, data, kind=TinyRWKVError):
    path = write(tmp_path / "a.safetensors", data)
    with pytest.raises(kind) as error:
        read_plain(path)
    return str(error.value)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("block", [1 << 19, 10])
def test_reads_every_type(tmp_path, monkeypatch, dtype, block):
    monkeypatch.setattr(source, "BLOCK", block)
    arrays = {"a": normal(5, 7), "b": normal(1, 1, 9), "scalar": np.array(-0.5, np.float32)}
    read = read_plain(write(tmp_path / "a", safetensors(arrays, dtype, {"format": "pt"})))
    assert list(read) == list(arrays)
    for name, x in arrays.items():
        raw = np.frombuffer(stored(x, dtype), {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}[dtype])
        expected = (
            (raw.astype("<u4") << 16).view("<f4") if dtype == "bf16" else raw.astype(np.float32)
        )
        np.testing.assert_array_equal(read[name], expected.reshape(x.shape))


def test_order_in_the_header_is_free(tmp_path):
    header = {
        "late": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        "early": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    read = read_plain(write(tmp_path / "a", with_header(header, struct.pack("<3f", 1, 2, 3))))
    assert {name: x.tolist() for name, x in read.items()} == {"late": [2, 3], "early": [1]}


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ({}, "no tensors"),
        ({"__metadata__": {"a": "b"}}, "no tensors"),
        ({"a": entry("F64", (1,))}, "dtype 'F64', which is not one of F32, F16, BF16"),
        ({"a": entry("I8", (8,))}, "dtype 'I8'"),
        ({"a": entry(["F32"])}, "dtype"),
        ({"a": entry(shape=(3,))}, "bytes 0 to 8"),
        ({"a": entry(offsets=(0, 12))}, "bytes 0 to 12|does not give tensor 'a'"),
        ({"a": entry(offsets=(4, 12))}, "begins at byte 4 of|bytes 4 to 12"),
        ({"a": entry(offsets=(8, 0))}, "bytes 8 to 0"),
        ({"a": entry(shape=(1 << 62, 1 << 62))}, "does not give tensor 'a'"),
        ({"a": entry(shape=(-1,))}, "does not give tensor 'a'"),
        ({"a": entry(shape=(0, 2), offsets=(0, 0))}, "does not give tensor 'a'"),
        ({"a": entry(shape=(2.0,))}, "does not give tensor 'a'"),
        ({"a": entry(shape=(True,), offsets=(0, 4))}, "does not give tensor 'a'"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "does not give tensor 'a'"),
        ({"a": [1]}, "does not give tensor 'a'"),
        ({"a": entry(), "b": entry()}, "begins at byte 0 of the data, not at 8"),
        ({"a": entry(shape=(1,), offsets=(0, 4))}, "bytes, but its header describes"),
    ],
)
def test_headers_that_are_refused(tmp_path, header, found):
    path = write(tmp_path / "a", with_header(header, bytes(8)))
    with pytest.raises(TinyRWKVError, match=found):
        read_plain(path)


def test_json_that_is_refused(tmp_path):
    def raw(text, length=None):
        return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)

    assert "bad JSON" in refusal(tmp_path, raw(b"{" * 50), FormatError)
    assert "bad JSON" in refusal(tmp_path, raw(b'{"a":' * 20000), FormatError)
    assert "bad JSON" in refusal(tmp_path, raw(b'{"a":1,"a":2}'), FormatError)
    assert "bad JSON" in refusal(tmp_path, raw(b'{"\xff":1}'), FormatError)
    assert "more than 64 bits" in refusal(tmp_path, raw(b'{"a":' + b"9" * 5000 + b"}"), FormatError)
    assert "the first bytes" in refusal(tmp_path, raw(b"{}", 1 << 62), FormatError)
    long = json.dumps({"a": "b" * (9 << 20)}).encode()
    assert "at most 8388608" in refusal(tmp_path, raw(long), FormatError)


def test_a_header_may_go_to_each_limit_and_no_further(tmp_path):
    def with_dimensions(count):
        return with_header({"a": entry(shape=(2,) + (1,) * (count - 1))}, bytes(8))

    assert read_plain(write(tmp_path / "a", with_dimensions(8)))["a"].ndim == 8
    assert "does not give tensor 'a'" in refusal(tmp_path, with_dimensions(9), FormatError)
    text = json.dumps({"a": entry()}).encode().ljust(8 << 20)
    long = struct.pack("<Q", len(text)) + text + bytes(8)
    assert list(read_plain(write(tmp_path / "a", long))) == ["a"]
    longer = struct.pack("<Q", len(text) + 1) + text + b" " + bytes(8)
    assert "has 8388609 bytes; at most 8388608" in refusal(tmp_path, longer, FormatError)


def test_every_cut_is_refused(tmp_path):
    path = str(tmp_path / "a")
    for size in [
        *range(0, 100, 3),
        *range(100, len(TINY_BYTES), len(TINY_BYTES) // 60),
        len(TINY_BYTES) - 1,
    ]:
        assert survives(path, TINY_BYTES[:size]), size
    assert survives(path, TINY_BYTES + b"\0")
    assert not survives(path, TINY_BYTES)


@given(
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3),
    head=st.booleans(),
)
def test_any_flip_gives_a_result_or_an_error(tmp_path_factory, flips, head):
    length = 8 + int.from_bytes(TINY_BYTES[:8], "little")
    data = (
        flipped(TINY_BYTES[:length], flips) + TINY_BYTES[length:]
        if head
        else flipped(TINY_BYTES, flips)
    )
    survives(str(tmp_path_factory.mktemp("st") / "a"), data)


def test_a_type_is_refused_by_name(tmp_path):
    data = with_header({"a": entry("F8_E4M3", (8,))}, bytes(8))
    assert "tensor 'a' has dtype 'F8_E4M3'" in refusal(tmp_path, data, UnsupportedError)


def test_a_whole_checkpoint(tmp_path):
    config, raw = read_raw(write(tmp_path / "a", TINY_BYTES))
    assert (config["arch"], config["n_head"]) == ("v5.2", 2)
    for name, x in TINY.items():
        np.testing.assert_array_equal(raw[name], x)
