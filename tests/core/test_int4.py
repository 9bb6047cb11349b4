"""Matrices in int4: rows in a file, their dot products bit for bit, and models of all forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from benchmarks.random_model import packed, write
from tests.helpers.int4_rows import LARGEST_ACTIVATION, exact_dot, random_rows
from tests.helpers.tiny_models import BOUNDS, FORMS, Oracle, error, pack_int4, rewrite, shape_of
from tinyrwkv.errors import FormatError
from tinyrwkv.file import int4
from tinyrwkv.file.int4 import GROUP, LARGEST

F32 = np.float32


groups = st.integers(1, 11)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def group_of_each_column(columns: int) -> np.ndarray:
    """Return the group of each column, as docs/format.md says it in words."""
    found = np.empty(columns, int)
    start = 0
    for in_span in (4, 2, 1):
        while columns - start >= in_span * GROUP:
            for column in range(in_span * GROUP):
                found[start + column] = start // GROUP + column // 8 % in_span
            start += in_span * GROUP
    return found


@given(seeds, st.integers(0, 5), groups)
def test_rows_are_read_as_they_were_written(rng, rows, count):
    q, scale, zero = random_rows(rng, rows, count)
    packed_rows = int4.pack(q, scale, zero)
    assert packed_rows.dtype == np.uint8
    assert packed_rows.shape == (rows, int4.row_bytes(count * GROUP))
    assert int4.columns(packed_rows.shape[1]) == count * GROUP
    for found, expected in zip(int4.unpack(packed_rows), (q, scale, zero), strict=True):
        assert found.tobytes() == expected.tobytes()


@given(seeds, st.integers(0, 5), groups)
def test_weights_are_those_of_the_formula(rng, rows, count):
    q, scale, zero = random_rows(rng, rows, count)
    g = group_of_each_column(count * GROUP)
    expected = scale[:, g].astype(F32) * (q.astype(F32) - zero[:, g])
    assert int4.dequantize(int4.pack(q, scale, zero)).tobytes() == expected.tobytes()


@given(groups)
def test_the_order_of_columns_is_group_by_group(count):
    g = group_of_each_column(count * GROUP)
    assert int4.order(count * GROUP).tolist() == np.argsort(g, kind="stable").tolist()


def test_the_row_in_the_documentation():
    """The bytes that docs/format.md shows are those of the row that it describes."""
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text("utf-8")
    example = text.partition("its 35 bytes are")[2].partition("```")[2].partition("```")[0]
    lines = [line[8:58] for line in example.strip().splitlines()]
    shown = bytes.fromhex("".join("".join(lines).split()))
    q = np.arange(64, dtype=np.uint8).reshape(1, 64) % 16
    row = int4.pack(q, np.array([[0.5]], np.float16), np.array([[9]], np.uint8))
    assert row[0].tobytes() == shown
    assert int4.dequantize(row)[0, :3].tolist() == [-4.5, -4.0, -3.5]


# Dot products.


@pytest.fixture(scope="module")
def dots() -> dict[str, Any]:
    numba = pytest.importorskip("numba", reason="numba is not installed")
    from tinyrwkv.kernels import int4 as kernels
    from tinyrwkv.kernels import nibbles

    njit = numba.njit(error_model="numpy")

    def of(name: str) -> Any:
        intrinsic = getattr(nibbles, name)

        @njit
        def call(w, w_bytes, x, x_bytes, sums, sums_bytes, groups, out, y_bytes):
            count = np.int32(groups)
            intrinsic(w, w_bytes, x, x_bytes, 0, sums, sums_bytes, count, out, 4, y_bytes)

        return call

    @njit
    def four_rows(w, w_bytes, x, x_bytes, sums, sums_bytes, groups, out, y_bytes):
        # Each is the only row of its part.
        count = np.int32(groups)
        nibbles.rows_i4(w, 0, np.int32(1), w_bytes, x, 0, sums, count, out, 4)

    @njit
    def sums(x, cols, out):
        kernels.group_sums(x, np.int32(cols), out)

    own = {"rows_i4": four_rows, "sums": sums}
    return own | {name: of(name) for name in SHAPES if name not in own}


# Rows and tokens.
SHAPES = {"rows_i4": (4, 1), "dots_i4_tokens": (1, 4)}
SHAPES |= {"dots_i4_tile": (4, 4), "dots_i4_tile_of_two": (4, 2)}


def computed(dots: dict[str, Any], name: str, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return what an intrinsic gives for its rows and tokens, (T, rows)."""
    T, cols = x.shape
    sums = np.empty((T, cols // GROUP), np.int32)
    for t in range(T):
        dots["sums"](x[t].ctypes.data, cols, sums[t].ctypes.data)
    assert sums.tolist() == x[:, int4.order(cols)].reshape(T, -1, GROUP).sum(axis=2).tolist()
    out = np.full((T, len(rows) + 3), np.nan, F32)
    places = [place for m in (rows, x, sums) for place in (m.ctypes.data, m.strides[0])]
    dots[name](*places, sums.shape[1], out.ctypes.data, out.strides[0])
    assert np.isnan(out[:, len(rows) :]).all(), "wrote past its place"
    return out[:, : len(rows)]


@pytest.mark.parametrize("name", SHAPES)
@given(rng=seeds, count=groups, spread=st.sampled_from([3, 1000, LARGEST_ACTIVATION]))
@settings(max_examples=40)
def test_dot_products_bit_for_bit(dots, name, rng, count, spread):
    rows, tokens = SHAPES[name]
    w = int4.pack(*random_rows(rng, rows, count))
    x = rng.integers(-spread, spread + 1, (tokens, count * GROUP)).astype(np.int16)
    assert computed(dots, name, w, x).tobytes() == exact_dot(w, x).tobytes()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("zero", [0, LARGEST])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_of_a_group_fit(dots, name, zero, sign):
    # 64 products of at most 15 and 127 * 256 are 31,211,520; with a zero point they are as large.
    rows, tokens = SHAPES[name]
    count = 7
    q = np.full((rows, count * GROUP), LARGEST - zero, np.uint8)
    scale, zeros = np.ones((rows, count), np.float16), np.full((rows, count), zero, np.uint8)
    x = np.full((tokens, count * GROUP), sign * LARGEST_ACTIVATION, np.int16)
    found = computed(dots, name, int4.pack(q, scale, zeros), x)
    assert (found == sign * (1 if zero == 0 else -1) * count * GROUP * 15.0 * (127 * 256)).all()


# Models.


def model_of(folder: Any, arch: str, form: str, width: int, ffn: int, seed: int) -> str:
    """Write a random model of int4 in some form; return its path."""
    config = shape_of(arch, layers=1, width=width, ffn=ffn, vocab=70)
    source = str(folder / "int8.trwkv")
    write(source, config, "int8", seed)
    if form != "dense":
        source = rewrite(source, folder / "form.trwkv", FORMS[form])
    return rewrite(source, folder / "int4.trwkv", pack_int4)


@given(
    st.sampled_from(("v4", "v5.2", "v6", "v7")),
    st.sampled_from(("dense", *FORMS)),
    groups,
    groups,
    st.integers(0, 99),
    st.integers(1, 19),
)
@settings(max_examples=25)
def test_chunks_threads_and_backends_agree(
    tmp_path_factory, arch, form, count, ffn_groups, seed, tokens
):
    folder = tmp_path_factory.mktemp("int4")
    path = model_of(folder, arch, form, count * GROUP, ffn_groups * GROUP - 32 * (seed % 2), seed)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 70, tokens).tolist()
    model = tinyrwkv.load(path, backend="native")
    together, last = model.forward(ids, logits="all")
    state = model.new_state()
    for row, token in zip(together, ids, strict=True):
        logits, state = model.forward([token], state)
        assert logits.tobytes() == row.tobytes()
    assert state.data.tobytes() == last.data.tobytes()
    shared, _ = tinyrwkv.load(path, backend="native", threads=3).forward(ids, logits="all")
    assert shared.tobytes() == together.tobytes()
    if form != "previewed":  # its numpy form may choose other rows at the border
        numpy, _ = tinyrwkv.load(path, backend="numpy").forward(ids, logits="all")
        assert error(numpy, together) < BOUNDS["int4"]
    if form in ("dense", "compressed", "sorted"):
        assert error(together, Oracle(path).run(ids)[0]) < BOUNDS["int4"]


def test_numba_gives_the_bits_of_native(tmp_path):
    pytest.importorskip("numba", reason="numba is not installed")
    for form in ("dense", *FORMS):
        path = model_of(tmp_path, "v7", form, 7 * GROUP, 5 * GROUP, 1)
        found = [
            tinyrwkv.load(path, backend=backend).forward(range(1, 22), logits="all")[0]
            for backend in ("native", "numba")
        ]
        assert found[0].tobytes() == found[1].tobytes()


def test_a_matrix_whose_width_is_no_multiple_of_64_is_in_int8(tmp_path):
    def change(metadata: dict, tensors: dict) -> None:
        pack_int4(metadata, tensors)
        del tensors["blocks.0.ffn.value.weight.scale"]

    source = str(tmp_path / "int8.trwkv")
    write(source, shape_of("v7", layers=1, width=64, ffn=96, vocab=70), "int8")
    path = rewrite(source, tmp_path / "a.trwkv", change)
    with pytest.raises(FormatError, match=r"blocks\.0\.ffn\.value\.weight\.scale' is missing"):
        tinyrwkv.load(path, backend="numpy")


def test_packed_rows_belong_to_a_model_of_int4(tmp_path):
    def change(metadata: dict, tensors: dict) -> None:
        pack_int4(metadata, tensors)
        metadata["dtype"] = "int8"

    source = str(tmp_path / "int8.trwkv")
    write(source, shape_of("v7", layers=1, width=64, ffn=96, vocab=70), "int8")
    with pytest.raises(FormatError, match=r"'emb\.weight' must be i8"):
        tinyrwkv.load(rewrite(source, tmp_path / "a.trwkv", change), backend="numpy")


def test_rounding_to_int4_is_near():
    w = np.random.default_rng(0).standard_normal((20, 320)).astype(F32)
    wrong = int4.dequantize(packed(w)) - w
    assert np.sqrt(np.square(wrong).mean()) < 0.12
