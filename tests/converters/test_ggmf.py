"""The reader of rwkv.cpp files, and the block types it shares with GGUF."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.read import ggml, source
from tests.helpers.checkpoint_files import blocks, flipped, ggmf, read_plain, survives, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.dialects import to_ggmf
from tinyrwkv.errors import FormatError, TinyRWKVError, UnsupportedError

RNG = np.random.default_rng(0)
TINY = to_ggmf(raw_checkpoint("v6", n_layer=1, n_embd=32, vocab_size=40), "v6")
TINY_BYTES = ggmf(TINY, 1)


def refusal(tmp_path, data, kind=TinyRWKVError):
    path = write(tmp_path / "a.bin", data)
    with pytest.raises(kind) as error:
        read_plain(path)
    return str(error.value)


@pytest.mark.parametrize("version", [100, 101])
def test_reads_floats(tmp_path, version):
    for kind, exact in (("f32", np.float32), ("f16", np.float16)):
        read = read_plain(write(tmp_path / "a", ggmf(TINY, 1, kind, version)))
        assert list(read) == list(TINY)
        for name, x in TINY.items():
            expected = (
                x.astype(exact).astype(np.float32)
                if x.ndim == 2 and name.endswith(".weight")
                else x
            )
            np.testing.assert_array_equal(read[name], expected)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("q4_0", 1 / 15), ("q4_1", 1 / 30), ("q5_0", 1 / 31), ("q5_1", 1 / 62), ("q8_0", 1 / 254)],
)
def test_reads_blocks(tmp_path, monkeypatch, kind, error):
    monkeypatch.setattr(source, "BLOCK", 100)
    read = read_plain(write(tmp_path / "a", ggmf(TINY, 1, kind)))
    for name in ("emb.weight", "blocks.0.ffn.value.weight"):
        x = TINY[name].reshape(-1, 32)
        # half a step of the block's own scale, and what float16 rounds of it
        step = 2 * np.abs(x).max(axis=1, keepdims=True) * error
        assert (np.abs(read[name].reshape(-1, 32) - x) <= 1.1 * step).all()
    np.testing.assert_array_equal(read["blocks.0.ln1.bias"], TINY["blocks.0.ln1.bias"])


def test_vectors_in_blocks(tmp_path):
    # Nobody writes them, but their header is well formed.
    data = ggmf({"emb.weight": TINY["emb.weight"]}, 0)
    data += struct.pack("<4i", 1, 1, 9, 64) + b"a" + blocks(np.arange(64), "q8_0")
    found = read_plain(write(tmp_path / "a", data))["a"]
    np.testing.assert_allclose(found, np.arange(64), atol=0.3)


def test_block_layouts_by_hand():
    d, m = np.float16(0.5).tobytes(), np.float16(-3).tobytes()
    q8 = d + np.arange(-16, 16, dtype="i1").tobytes()
    assert ggml.Q8_0.decode(np.frombuffer(q8, np.uint8)[None]).tolist() == [
        [0.5 * q for q in range(-16, 16)]
    ]
    # number j: the low nibble of byte j, or for the second half the high nibble of byte j - 16; its
    # fifth bit: bit j
    nibbles = bytes((j & 15) | (15 - j) << 4 for j in range(16))
    q = [j + 16 * (j % 2) for j in range(16)] + [15 - j + 16 * (j % 3 == 0) for j in range(16)]
    fifth = struct.pack("<I", sum((n >> 4) << j for j, n in enumerate(q)))
    assert ggml.Q5_0.decode(np.frombuffer(d + fifth + nibbles, np.uint8)[None]).tolist() == [
        [0.5 * (n - 16) for n in q]
    ]
    assert ggml.Q5_1.decode(np.frombuffer(d + m + fifth + nibbles, np.uint8)[None]).tolist() == [
        [0.5 * n - 3 for n in q]
    ]


def test_what_is_refused_by_name(tmp_path):
    parts = {"emb.weight": TINY["emb.weight"]}
    good = ggmf(parts, 0)
    q4 = good[:32] + struct.pack("<i", 5) + good[36:]
    assert "tensor 'emb.weight' has type Q4_2" in refusal(tmp_path, q4, UnsupportedError)
    old = ggmf(TINY, 1, "q5_1", 100)
    assert "Q5_1 of file version 100" in refusal(tmp_path, old, UnsupportedError)
    version = struct.pack("<4si", b"fmgg", 102) + good[8:]
    assert "of version 102; only 100 and 101 can be read" in refusal(
        tmp_path, version, UnsupportedError
    )
    assert "big-endian rwkv.cpp" in refusal(tmp_path, b"ggmf" + good[4:], UnsupportedError)


def test_what_is_damaged(tmp_path):
    emb = TINY["emb.weight"]
    good = ggmf({"emb.weight": emb}, 0)
    twice = good + good[24:]
    assert "two tensors are named 'emb.weight'" in refusal(tmp_path, twice, FormatError)
    assert "0 layers" not in refusal(tmp_path, ggmf(TINY, 2), FormatError)
    assert "the header says 2 layers, but the tensors have 1" in refusal(
        tmp_path, ggmf(TINY, 2), FormatError
    )
    other = good[:8] + struct.pack("<i", 41) + good[12:]
    assert "shape (40, 32), but the header says (41, 32)" in refusal(tmp_path, other, FormatError)
    assert "no tensor 'emb.weight'" in refusal(tmp_path, good[:24], FormatError)
    dims = good[:24] + struct.pack("<i", 1 << 30) + good[28:]
    assert "1073741824 dimensions" in refusal(tmp_path, dims, FormatError)
    ragged = ggmf({"emb.weight": np.zeros((4, 33), np.float32)}, 0)
    ragged = ragged[:32] + struct.pack("<i", 9) + ragged[36:]
    assert "rows of 33 numbers, which is not a multiple of 32 for Q8_0" in refusal(
        tmp_path, ragged, FormatError
    )


def test_a_name_may_have_200_bytes_and_no_more(tmp_path):
    parts = {"emb.weight": TINY["emb.weight"]}
    long = ggmf({**parts, "x" * 200: np.ones(1, np.float32)}, 0)
    assert "x" * 200 in read_plain(write(tmp_path / "a", long))
    longer = ggmf({**parts, "x" * 201: np.ones(1, np.float32)}, 0)
    assert "a name of 201 bytes" in refusal(tmp_path, longer, FormatError)


def test_huge_counts_allocate_nothing(tmp_path):
    good = ggmf({"emb.weight": TINY["emb.weight"]}, 0)
    huge = good[:36] + struct.pack("<2i", 0x7FFFFFFF, 0x7FFFFFFF) + good[44:]
    tracemalloc.start()
    assert "ends at byte" in refusal(tmp_path, huge, FormatError)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_more_tensors_than_a_model_has_are_refused(tmp_path):
    count = 70_000
    numbers = b"".join(
        struct.pack("<4i", 1, 5, 0, 1) + b"%05d" % i + bytes(4) for i in range(count)
    )
    data = ggmf({"emb.weight": TINY["emb.weight"]}, 0) + numbers
    tracemalloc.start()
    assert "tensors or more; at most 65536 can be read" in refusal(tmp_path, data, FormatError)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_infinite_scales_are_refused(tmp_path):
    data = ggmf(TINY, 1, "q8_0")
    at = data.index(blocks(TINY["head.weight"], "q8_0"))
    data = data[:at] + np.float16(np.inf).tobytes() + data[at + 2 :]
    assert "tensor 'head.weight' holds NaN or infinity" in refusal(tmp_path, data, FormatError)


def test_every_cut_is_refused(tmp_path):
    path = str(tmp_path / "a")
    for size in [
        *range(0, 100, 3),
        *range(100, len(TINY_BYTES), len(TINY_BYTES) // 60),
        len(TINY_BYTES) - 1,
    ]:
        assert survives(path, TINY_BYTES[:size]), size
    assert not survives(path, TINY_BYTES)


@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_any_flip_gives_a_result_or_an_error(tmp_path_factory, flips):
    survives(str(tmp_path_factory.mktemp("ggmf") / "a"), flipped(TINY_BYTES, flips))
