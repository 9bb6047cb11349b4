"""A head by its preview: exact where it says so, near where not, and only chosen rows are read."""

from __future__ import annotations

import mmap
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.tiny_models import (
    VOCAB_SIZE,
    preview,
    read_tensors,
    rewrite,
    shape_of,
    write_model,
    write_tensors,
)
from tinyrwkv.engine.limit import least_resident
from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file import memory, quant
from tinyrwkv.kernels.abi import MAX_TOKENS
from tinyrwkv.versions import reference
from tinyrwkv.versions.layout import VERSIONS

WANTED = 40
tokens_of = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=3 * MAX_TOKENS)


def some_tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, count).tolist()


def head_of(path: str) -> dict[str, np.ndarray]:
    return reference.part(quant.dequantize(read_tensors(path)[1]), "head.")


def read_one(
    model: tinyrwkv.Model, token: int, state: tinyrwkv.State
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits, what `exact_logits` needs, and the new state's numbers after one token."""
    out, after = np.empty((1, model.config["vocab_size"]), np.float32), np.empty_like(state.data)
    hidden = np.empty(model.config["n_embd"] + 1, np.float32)
    model.reader.read(np.array([token], np.int32), state.data, after, out, hidden=hidden)
    return out[0], hidden, after


@pytest.mark.parametrize("arch", VERSIONS)
def test_logits_are_the_previewed_ones_or_exact(load, tiny, backend, arch):
    model, head, state = (
        load(backend, arch, "int8", 1, "previewed"),
        head_of(tiny(arch, "int8", "previewed")),
        None,
    )
    every = np.arange(VOCAB_SIZE)
    for token in some_tokens(12):
        state = model.new_state() if state is None else state
        touched = sum(workspace.touched for workspace in model.reader.workspaces)
        logits, hidden, state.data = read_one(model, token, state)
        touched = sum(workspace.touched for workspace in model.reader.workspaces) - touched
        x = (hidden[:-1] * hidden[-1])[None]
        z = reference.preview(head, x)[0]
        guess, scores = (
            z + shift for shift in (0, reference.even(head["ranges"][1], head["spread_codes"]))
        )
        guess, scores = guess[head["places"]], scores[head["places"]]
        exact = model.exact_logits(every, logits, hidden)
        chosen = np.isclose(logits, exact, rtol=1e-5, atol=1e-5) & ~np.isclose(
            guess, exact, rtol=1e-4, atol=1e-4
        )
        assert 0 < touched <= WANTED * (model.config["n_embd"] + 4)
        assert chosen.sum() <= WANTED
        np.testing.assert_allclose(logits[~chosen], guess[~chosen], atol=0.02)
        # What is read has the highest scores, up to the steps in which they are counted.
        assert scores[chosen].min() >= np.sort(scores)[-WANTED] - 0.1


@pytest.mark.parametrize("arch", VERSIONS)
def test_all_rows_exact_is_the_dense_head_to_the_bit(tmp_path, tiny, compiled, arch):
    def every_row(metadata, tensors):
        preview(metadata, tensors, rows=VOCAB_SIZE)

    path, tokens = rewrite(tiny(arch, "int8"), tmp_path / "a.trwkv", every_row), some_tokens(20)
    logits, state = tinyrwkv.load(path, backend=compiled).forward(tokens, logits="all")
    expected, after = tinyrwkv.load(tiny(arch, "int8"), backend=compiled).forward(
        tokens, logits="all"
    )
    assert logits.tobytes() == expected.tobytes() and state.data.tobytes() == after.data.tobytes()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_exact_logits_are_the_bits_of_the_dense_head(tmp_path, load, tiny, compiled, dtype):
    tokens = some_tokens(MAX_TOKENS)
    previewed = load(compiled, dtype=dtype, form="previewed")

    def dense_again(metadata, tensors):
        rows, places = tensors["head.rows.weight"], tensors["head.places"]
        scale = tensors.get("head.rows.weight.scale")
        for name in [name for name in tensors if name.startswith("head.")]:
            del tensors[name]
        tensors["head.weight"] = rows[places]
        if scale is not None:
            tensors["head.weight.scale"] = scale[places]

    path = rewrite(tiny("v7", dtype, "previewed"), tmp_path / "dense.trwkv", dense_again)
    dense = tinyrwkv.load(path, backend=compiled)
    expected = dense.forward(tokens)[0]
    state = previewed.new_state().data
    for rows in (1, len(tokens)):
        out, hidden = np.empty((rows, VOCAB_SIZE), np.float32), np.empty(65, np.float32)
        ids = np.array(tokens, np.int32)
        assert previewed.reader.read(ids, state, np.empty_like(state), out, hidden=hidden)
        assert (
            previewed.exact_logits(np.arange(VOCAB_SIZE), out[-1], hidden).tobytes()
            == expected.tobytes()
        )
        some = np.array([7, 3, 299])
        assert np.array_equal(previewed.exact_logits(some, out[-1], hidden), expected[some])
        assert np.array_equal(dense.exact_logits(some, expected, hidden), expected[some])


@given(tokens_of, st.sampled_from(VERSIONS), st.integers(1, 3), st.data())
@settings(max_examples=20)
def test_any_chunks_and_threads_give_the_same_bits(load, compiled, tokens, arch, threads, data):
    expected = load(compiled, arch, "int8", 1, "previewed").forward(tokens, logits="all")[0]
    model, state, found = load(compiled, arch, "int8", threads, "previewed"), None, []
    rest = tokens
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        logits, state = model.forward(rest[:count], state, logits="all")
        found.append(logits)
        rest = rest[count:]
    assert np.concatenate(found).tobytes() == expected.tobytes()
    assert model.forward(tokens)[0].tobytes() == expected[-1].tobytes()


def test_native_and_numba_agree_to_the_bit(load):
    found = []
    for name in ("native", "numba"):
        try:
            found += [
                load(name, arch, form="previewed").forward(some_tokens(40), logits="all")[0]
                for arch in VERSIONS
            ]
        except UnsupportedError as reason:
            pytest.skip(str(reason))
    half = len(VERSIONS)
    assert all(
        one.tobytes() == two.tobytes() for one, two in zip(found[:half], found[half:], strict=True)
    )


@given(st.integers(1, 700), st.integers(-1, 720), st.integers(0, 99))
@settings(max_examples=25)
def test_any_size_gives_the_dense_logits_where_rows_are_read(
    tmp_path_factory, backend, vocab, wanted, seed
):
    folder, config = (
        tmp_path_factory.mktemp("size"),
        shape_of("v5.2", layers=1, width=32, vocab=vocab, ffn=8),
    )
    path = write_model(folder / "a.trwkv", config, "int8", seed)
    changed = rewrite(
        path, folder / "b.trwkv", lambda metadata, tensors: preview(metadata, tensors, rows=wanted)
    )
    model = tinyrwkv.load(changed, backend=backend)
    logits, hidden, _ = read_one(model, seed % vocab, model.new_state())
    assert np.isfinite(logits).all()
    exact = tinyrwkv.load(path, backend=backend).forward([seed % vocab])[0]
    rows = sum(workspace.touched for workspace in model.reader.workspaces) // (32 + 4)
    assert rows <= max(wanted, 0) and (rows == vocab if wanted >= vocab else rows < vocab)
    if rows == vocab:
        np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-5)
    best = model.exact_logits(np.arange(vocab), logits, hidden)
    np.testing.assert_allclose(best, exact, rtol=1e-3, atol=1e-3)


# Memory.


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model whose head has 1,024 pages of rows, of which a token reads 64 rows."""
    folder, config = (
        tmp_path_factory.mktemp("large"),
        shape_of("v7", width=256, vocab=16384, head_size=64, ffn=256),
    )
    path = write_model(folder / "dense.trwkv", config, "int8")
    return rewrite(
        path, folder / "a.trwkv", lambda metadata, tensors: preview(metadata, tensors, rows=64)
    )


def pages_of(model: tinyrwkv.Model, name: str) -> tuple[int, int]:
    """Return how many pages of a tensor are in this process, and how many it has."""
    tensor, page = model.file.tensors[name], mmap.PAGESIZE
    first = (model.file.bytes.ctypes.data + tensor.offset) // page
    count = -(-tensor.nbytes // page)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(8 * first)
            entries = np.frombuffer(pagemap.read(8 * count), np.uint64)
    except OSError as reason:
        pytest.skip(f"this system does not tell pages: {reason}")
    return int((entries >> np.uint64(63)).sum()), count


@pytest.mark.usefixtures("linux")
def test_from_a_cold_start_only_the_pages_of_chosen_rows_are_read(large, backend):
    model = tinyrwkv.load(large, backend=backend)
    # Nothing in memory, and no page comes with another: what is there afterwards was touched.
    for advice in ("MADV_NOHUGEPAGE", "MADV_RANDOM", "MADV_DONTNEED"):
        model.file.advise(advice)
    memory.drop_from_cache(large)
    if model.cached() > 1 << 16:
        pytest.skip("this file system keeps files in memory")
    model.forward([7])
    present, total = pages_of(model, "head.rows.weight")
    rows = sum(workspace.touched for workspace in model.reader.workspaces) // (256 + 4)
    assert 32 < rows <= 64 and rows / 16 <= present <= rows < total / 4
    assert pages_of(model, "emb.weight")[0] == 1
    whole, codes = pages_of(model, "head.codes.4")
    assert whole == codes


@pytest.mark.usefixtures("linux")
def test_a_limit_changes_no_bit_and_is_held(large, backend, monkeypatch):
    pathlib.Path(large).read_bytes()
    free = tinyrwkv.load(large, backend=backend)
    limit = least_resident(free.steps)
    model = tinyrwkv.load(large, backend=backend, resident_limit=limit)
    inner, sizes = model.backend.run, []

    def run(*args):
        inner(*args)
        sizes.append(model.resident())

    monkeypatch.setattr(model.backend, "run", run)
    tokens = np.random.default_rng(0).integers(0, 16384, 6)
    logits = model.forward(tokens, logits="all")[0]
    assert logits.tobytes() == free.forward(tokens, logits="all")[0].tobytes()
    assert max(sizes) <= limit < free.plan()["file_bytes"] / 2


@pytest.mark.usefixtures("linux")
def test_exact_logits_leave_little_of_what_they_read_where_there_is_a_limit(large, backend):
    pathlib.Path(large).read_bytes()
    free = tinyrwkv.load(large, backend=backend)
    model = tinyrwkv.load(large, backend=backend, resident_limit=least_resident(free.steps))
    (logits, hidden, _), some = read_one(model, 7, model.new_state()), np.arange(0, 16384, 3)
    assert (
        model.exact_logits(some, logits, hidden).tobytes()
        == free.exact_logits(some, logits, hidden).tobytes()
    )
    for name in ("head.places", "head.rows.weight", "head.rows.weight.scale"):
        present, pages = pages_of(model, name)
        assert (
            present <= pages / 4 < pages_of(free, name)[0]
        )  # the system maps a few that lie around what is read


# Files that are not what they say.


def a_place_twice(tensors):
    tensors["head.places"][5] = 299


def place_out_of_range(tensors):
    tensors["head.places"][5] = VOCAB_SIZE


def four_byte_place_out_of_range(tensors):
    tensors["head.places"] = tensors["head.places"].astype(np.int32)
    tensors["head.places"][5] = 1 << 30


def negative_place(tensors):
    tensors["head.places"] = tensors["head.places"].astype(np.int32)
    tensors["head.places"][5] = -1


def fewer_blocks(tensors):
    tensors["head.codes.2"] = tensors["head.codes.2"][:-1].copy()


def more_rows_than_blocks(tensors):
    tensors["head.scale_codes.2"] = np.zeros(290, np.uint8)


def more_rows_than_tokens(tensors):
    tensors["head.scale_codes.2"] = np.zeros(VOCAB_SIZE + 20, np.uint8)
    tensors["head.codes.2"] = np.zeros((5, 4, 64), np.uint8)


def more_codes_than_rank(tensors):
    tensors["head.codes.4"] = np.concatenate([tensors["head.codes.4"]] * 2, axis=1)


def a_smaller_basis(tensors):
    for name in ("weight", "weight.scale", "bias"):
        tensors[f"head.basis.{name}"] = tensors[f"head.basis.{name}"][:-1].copy()


def codes_of_another_type(tensors):
    tensors["head.bias_codes"] = tensors["head.bias_codes"].view(np.int8)


def no_codes(tensors):
    del tensors["head.codes.4"]


def a_dense_head_too(tensors):
    tensors["head.weight"] = tensors["head.rows.weight"]
    tensors["head.weight.scale"] = tensors["head.rows.weight.scale"]


def too_few_tables(tensors):
    tensors["head.tables"] = tensors["head.tables"][:1].copy()


def codes_that_do_not_fill_four_bytes(tensors):
    tensors["head.codes.4"] = np.zeros((5, 5, 64), np.uint8)
    tensors["head.basis.weight"] = np.zeros((26, 64), np.int8)
    tensors["head.basis.weight.scale"], tensors["head.basis.bias"] = (
        np.zeros(26, np.float32) for _ in range(2)
    )


damages = [
    a_place_twice,
    place_out_of_range,
    four_byte_place_out_of_range,
    negative_place,
    fewer_blocks,
    more_rows_than_blocks,
]
damages += [
    more_rows_than_tokens,
    more_codes_than_rank,
    a_smaller_basis,
    codes_of_another_type,
    no_codes,
    a_dense_head_too,
]
damages += [too_few_tables, codes_that_do_not_fill_four_bytes]


@pytest.mark.parametrize("damage", damages, ids=lambda damage: damage.__name__)
def test_parts_that_do_not_fit_are_refused(tmp_path, tiny, damage):
    path = rewrite(
        tiny("v7", "int8", "previewed"),
        tmp_path / "a.trwkv",
        lambda metadata, tensors: damage(tensors),
    )
    with pytest.raises(FormatError, match=r"tensor 'head\."):
        tinyrwkv.load(path, backend="numpy")


def test_a_preview_needs_int8(tmp_path, tiny):
    metadata, tensors = read_tensors(tiny("v7", "f32"))
    head = {
        name: a
        for name, a in read_tensors(tiny("v7", "int8", "previewed"))[1].items()
        if name.startswith("head.")
    }
    del tensors["head.weight"]
    with pytest.raises(FormatError, match="int8"):
        tinyrwkv.load(
            write_tensors(tmp_path / "a.trwkv", metadata, tensors | head), backend="numpy"
        )


@pytest.mark.parametrize("name", ["tables", "mean", "basis.bias", "rows.weight.scale"])
def test_numbers_that_are_none_crash_nothing(tmp_path, tiny, backend, name):
    def change(metadata, tensors):
        tensors[f"head.{name}"][:] = np.nan

    path = rewrite(tiny("v7", "int8", "previewed"), tmp_path / "a.trwkv", change)
    assert tinyrwkv.load(path, backend=backend).forward(some_tokens(5), logits="all")[0].shape == (
        5,
        VOCAB_SIZE,
    )


@pytest.mark.parametrize("wanted", [-(1 << 31), -1, 0, (1 << 31) - 1])
def test_any_number_of_rows_may_be_wanted(tmp_path, tiny, backend, wanted):
    def change(metadata, tensors):
        tensors["head.wanted"][:] = wanted

    path = rewrite(tiny("v7", "int8", "previewed"), tmp_path / "a.trwkv", change)
    logits = tinyrwkv.load(path, backend=backend).forward([7])[0]
    dense = tinyrwkv.load(tiny("v7", "int8"), backend=backend).forward([7])[0]
    assert np.isfinite(logits).all() and np.allclose(logits, dense, 1e-5, 1e-5) == (wanted > 0)
