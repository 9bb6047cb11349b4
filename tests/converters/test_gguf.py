"""The GGUF reader: settings, tensors, alignment, and what it refuses by name."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.read import ggml_k, source
from converters.read.open import open_source
from tests.helpers.checkpoint_files import (
    K_TYPES,
    blocks,
    flipped,
    gguf,
    read_plain,
    read_raw,
    survives,
    write,
)
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.dialects import to_gguf
from tinyrwkv.errors import FormatError, TinyRWKVError, UnsupportedError

RAW = raw_checkpoint("v7", n_layer=1, n_embd=32, vocab_size=40)
TINY, SETTINGS = to_gguf(RAW, "v7")
TINY_BYTES = gguf(TINY, SETTINGS)
OTHER = b"general.architecture\x08\0\0\0\5" + bytes(7) + b"llama"


def refusal(tmp_path, data, kind=TinyRWKVError):
    path = write(tmp_path / "a.gguf", data)
    with pytest.raises(kind) as error:
        read_plain(path)
    return str(error.value)


BOUNDS = {
    **{"f32": 0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 1 / 250},
    **{"q5_0": 1 / 15, "q5_1": 1 / 30, "q4_0": 1 / 7, "q4_1": 1 / 14},
}


@pytest.mark.parametrize("kind", BOUNDS)
def test_reads_every_type(tmp_path, kind):
    read = read_plain(write(tmp_path / "a", gguf(TINY, SETTINGS, kind)))
    assert list(read) == list(TINY)
    bound = BOUNDS[kind]
    for name, x in TINY.items():
        assert read[name].shape == x.shape
        assert np.abs(read[name] - x).max() <= bound * np.abs(x).max()


@pytest.mark.parametrize("kind", K_TYPES)
@pytest.mark.parametrize("block", [1 << 19, 500])
def test_reads_blocks_of_256(tmp_path, monkeypatch, kind, block):
    monkeypatch.setattr(source, "BLOCK", block)
    arrays = {"a.weight": np.ones((3, 512), np.float32), "b.weight": np.zeros((2, 256), np.float32)}
    read = read_plain(write(tmp_path / "a", gguf(arrays, SETTINGS, kind)))
    decode = getattr(ggml_k, kind.upper()).decode
    for name, x in arrays.items():
        raw = np.frombuffer(blocks(x, kind), np.uint8).reshape(-1, K_TYPES[kind][0])
        np.testing.assert_array_equal(read[name], decode(raw).reshape(x.shape))


def test_a_small_type_may_have_more_numbers_than_the_file_has_bytes(tmp_path):
    arrays = {"a.weight": np.ones((64, 1024), np.float32)}
    data = gguf(arrays, SETTINGS, "q2_k")
    assert len(data) < arrays["a.weight"].size / 2
    assert read_plain(write(tmp_path / "a", data))["a.weight"].shape == (64, 1024)


def test_settings(tmp_path):
    with open_source(write(tmp_path / "a", TINY_BYTES)) as opened:
        assert opened.kind == "gguf"
        assert opened.about.architecture == "rwkv7"
        assert opened.about.head_size == 16
        assert opened.about.license == "apache-2.0"


@pytest.mark.parametrize("alignment", [1, 32, 4096])
def test_alignment(tmp_path, alignment):
    path = write(
        tmp_path / "a",
        gguf(TINY, {**SETTINGS, "general.alignment": alignment}, alignment=alignment),
    )
    config, raw = read_raw(path)
    assert config["arch"] == "v7"
    np.testing.assert_array_equal(raw["head.weight"], RAW["head.weight"])


def test_the_default_alignment(tmp_path):
    short = {name: value for name, value in SETTINGS.items() if name != "general.alignment"}
    np.testing.assert_array_equal(
        read_plain(write(tmp_path / "a", gguf(TINY, short)))["output.weight"], RAW["head.weight"]
    )


def test_long_settings_are_skipped(tmp_path):
    extra = {
        "tokenizer.chat_template": "x" * 200_000,
        "a.numbers": list(range(50_000)),
        "a.texts": ["word"] * 30_000,
    }
    read = read_plain(write(tmp_path / "a", gguf(TINY, {**SETTINGS, **extra})))
    np.testing.assert_array_equal(read["output.weight"], RAW["head.weight"])


def test_what_is_refused_by_name(tmp_path):
    for arch in ("llama", "rwkv6qwen2", "arwkv7", "", 7):
        message = refusal(
            tmp_path, gguf(TINY, {**SETTINGS, "general.architecture": arch}), UnsupportedError
        )
        assert f"has the architecture {arch!r}, not rwkv6 or rwkv7" in message
    without = {name: value for name, value in SETTINGS.items() if "architecture" not in name}
    assert "architecture None" in refusal(tmp_path, gguf(TINY, without), UnsupportedError)
    at = TINY_BYTES.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    for number, name in ((15, "Q8_K"), (20, "IQ4_NL"), (99, "99")):
        data = TINY_BYTES[:at] + struct.pack("<I", number) + TINY_BYTES[at + 4 :]
        assert f"'token_embd.weight' has type {name}; only F32, F16, BF16, Q4_0" in refusal(
            tmp_path, data, UnsupportedError
        )
        other = data.replace(b"general.architecture\x08\0\0\0\5" + bytes(7) + b"rwkv7", OTHER)
        assert "has the architecture 'llama'" in refusal(tmp_path, other, UnsupportedError)
    assert "GGUF version 1" in refusal(tmp_path, b"GGUF\1" + TINY_BYTES[5:], UnsupportedError)
    assert "big-endian GGUF" in refusal(tmp_path, b"FUGG" + TINY_BYTES[4:], UnsupportedError)


def test_hostile_counts_allocate_nothing(tmp_path):
    text = struct.pack("<Q", 1) + b"a"
    huge = struct.pack("<Q", 1 << 60)

    def head(tensors, settings):
        return struct.pack("<4sIQQ", b"GGUF", 3, tensors, settings)

    arch = struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IQ", 8, 5) + b"rwkv7"
    one = struct.pack("<I", 1)
    tracemalloc.start()
    for data in (
        head(1 << 60, 0),
        head(0, 1 << 60),
        head(0, 1) + huge,
        head(0, 1) + text + struct.pack("<I", 8) + huge,
        head(0, 1) + text + struct.pack("<II", 9, 8) + huge,
        head(0, 1) + text + struct.pack("<II", 9, 10) + huge,
        head(0, 1) + text + struct.pack("<II", 9, 9) + huge,
        head(0, 1) + text + struct.pack("<I", 77),
        head(1, 1) + arch + text + struct.pack("<I", 1 << 30),
        head(1, 1) + arch + text + one + huge + struct.pack("<IQ", 0, 0),
        head(1, 1) + arch + text + one + struct.pack("<Q", 0) + struct.pack("<IQ", 0, 0),
        head(1, 1) + arch + text + one + struct.pack("<Q", 8) + struct.pack("<IQ", 0, 1 << 63),
    ):
        refusal(tmp_path, data + bytes(64), FormatError)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_tensors_that_overlap_are_refused(tmp_path):
    entry = struct.pack("<Q", len("output.weight")) + b"output.weight" + struct.pack("<I", 2)
    at = TINY_BYTES.index(entry) + len(entry) + 2 * 8 + 4
    place = int.from_bytes(TINY_BYTES[at : at + 8], "little")
    for shared in (0, place - 1):  # all data of another tensor, or its last byte
        data = TINY_BYTES[:at] + shared.to_bytes(8, "little") + TINY_BYTES[at + 8 :]
        assert "overlaps the tensor before it" in refusal(tmp_path, data, FormatError)


def test_counts_and_names_have_limits(tmp_path):
    many = {**SETTINGS, **{f"x{i}": 1 for i in range(5000)}}
    assert "settings; at most 4096 can be read" in refusal(tmp_path, gguf(TINY, many), FormatError)
    lists = [value for value in SETTINGS.values() if isinstance(value, list)]
    left = (1 << 20) - sum(len(texts) for texts in lists if isinstance(texts[0], str))
    tokens = {**SETTINGS, "a": [""] * 7, "b": [""] * (left - 7)}
    assert len(read_plain(write(tmp_path / "full", gguf(TINY, tokens)))) == len(TINY)
    more = {**tokens, "b": [""] * (left - 6)}
    assert "1048576 in all, can be read" in refusal(tmp_path, gguf(TINY, more), FormatError)
    named = {"x" * 201: TINY["output.weight"]}
    assert "a name of 201 characters" in refusal(tmp_path, gguf(named, SETTINGS), FormatError)
    deep = {"x": np.zeros((1,) * 5, np.float32)}
    assert "5 dimensions, not 1 to 4" in refusal(tmp_path, gguf(deep, SETTINGS), FormatError)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    double = TINY_BYTES.replace(b"blk.0.attn_norm_2.bias", b"blk.0.time_mix_ln.bias")
    assert "two tensors are named 'blk.0.time_mix_ln.bias'" in refusal(
        tmp_path, double, FormatError
    )


def test_two_settings_of_one_name_are_refused(tmp_path):
    double = TINY_BYTES.replace(b"general.alignment", b"rwkv7.block_count")
    assert "has two settings 'rwkv7.block_count'" in refusal(tmp_path, double, FormatError)


def test_every_cut_is_refused(tmp_path):
    path = str(tmp_path / "a")
    for size in [*range(0, 100, 3), *range(100, len(TINY_BYTES) - 64, len(TINY_BYTES) // 60)]:
        assert survives(path, TINY_BYTES[:size]), size
    assert not survives(path, TINY_BYTES)


@given(
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3),
    head=st.booleans(),
)
def test_any_flip_gives_a_result_or_an_error(tmp_path_factory, flips, head):
    data = (
        flipped(TINY_BYTES[:4000], flips) + TINY_BYTES[4000:]
        if head
        else flipped(TINY_BYTES, flips)
    )
    survives(str(tmp_path_factory.mktemp("gguf") / "a"), data)
