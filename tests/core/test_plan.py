"""The memory plan: a token reads dense parts whole and one row of the embedding."""

from __future__ import annotations

import json
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.tiny_models import (
    DTYPES,
    VOCAB_SIZE,
    compress,
    predict,
    rewrite,
    shape_of,
    write_model,
)
from tinyrwkv.engine.pace import PAUSE, Pace
from tinyrwkv.engine.plan import memory_plan
from tinyrwkv.engine.steps import Steps
from tinyrwkv.file import int4, memory
from tinyrwkv.file.mapped import open_file
from tinyrwkv.program.program import Program
from tinyrwkv.reading import ChunkMemory
from tinyrwkv.versions.forms import deep_shape
from tinyrwkv.versions.layout import VERSIONS


def steps_of(path: str) -> Steps:
    return Steps(Program(open_file(path)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", VERSIONS)
def test_a_token_touches_dense_parts_whole_and_one_row_of_the_embedding(tiny, arch, dtype):
    row = {"f32": 4 * 64, "f16": 2 * 64, "int8": 64 + 4, "int4": int4.row_bytes(64)}[dtype]
    steps = steps_of(tiny(arch, dtype))
    rows, columns = deep_shape(steps.program.config)
    numbers = {"f32": 4 * rows * columns, "f16": 2 * rows * columns}  # of a layer
    deep = 2 * numbers.get(dtype, rows * columns + 4)
    for part in memory_plan(steps, None)["parts"]:
        expected = {"embedding": row, "deep_embedding": deep, "tokenizer": 0}
        expected = expected.get(part["part"], part["file_bytes"])
        assert part["touched_bytes_per_token"] == expected, part["part"]


@pytest.mark.parametrize("arch", VERSIONS)
def test_the_memory_of_a_chunk_is_planned(tiny, arch):
    with tinyrwkv.load(tiny(arch)) as model:
        memory = ChunkMemory.of(model)
        assert memory is not None
        assert model.plan()["chunk_bytes"] == sum(part.nbytes for part in memory)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", VERSIONS)
def test_totals_are_sums(tiny, arch, dtype):
    steps = steps_of(tiny(arch, dtype))
    found = memory_plan(steps, None)
    assert json.loads(json.dumps(found)) == found
    assert found["touched_bytes_per_token"] == sum(
        part["touched_bytes_per_token"] for part in found["parts"]
    )
    tensors = sum(tensor.nbytes for tensor in steps.file.tensors.values())
    assert sum(part["file_bytes"] for part in found["parts"]) == tensors < found["file_bytes"]
    assert found["file_bytes"] == len(steps.file.bytes) <= found["resident_bytes_max"]
    assert found["resident_bytes_max"] % mmap.PAGESIZE == 0
    assert found["state_bytes"] == 4 * steps.program.state_size


def test_a_limit_bounds_what_is_resident(tiny):
    steps = steps_of(tiny("v7", "int8"))
    assert memory_plan(steps, 8192)["resident_bytes_max"] == 8192
    assert (
        memory_plan(steps, 1 << 40)["resident_bytes_max"]
        == memory_plan(steps, None)["resident_bytes_max"]
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model with an embedding of many pages."""
    config = shape_of("v5.2", layers=2, width=192, vocab=32768, head_size=64, ffn=512)
    return write_model(tmp_path_factory.mktemp("large") / "a.trwkv", config, "int8")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A model with a deep embedding of many pages."""
    config = shape_of("v7a", layers=1, width=192, vocab=32768, head_size=64, ffn=512)
    return write_model(tmp_path_factory.mktemp("deep") / "a.trwkv", config, "int8")


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("form", ["dense", "deep", "compressed", "predicted"])
def test_what_is_resident_after_a_cold_start_is_as_planned(large, tmp_path, form, request):
    path = request.getfixturevalue("deep") if form == "deep" else large
    change = {"compressed": compress, "predicted": predict}.get(form)
    path = path if change is None else rewrite(path, tmp_path / "a.trwkv", change)
    memory.drop_from_cache(path)
    model = tinyrwkv.load(path)
    if model.cached() > len(model.file.bytes) / 2:
        pytest.skip("this file system is in memory")
    planned, most = (model.plan()[f"resident_bytes_{kind}"] for kind in ("typical", "max"))
    tokens = np.random.default_rng(1).integers(0, 32768, 200)
    model.forward(tokens, logits=None)
    model.forward(tokens[-1])  # of 16 at a time only the last asks for the head
    model.tokenizer.decode(tokens[tokens < VOCAB_SIZE])
    assert abs(planned - model.resident()) < 0.1 * model.resident() < 0.07 * most


@pytest.mark.parametrize("told", [12345, 0, -1, "much", None, 1e9, 2**80])
def test_what_the_conversion_tells_of_a_head_is_planned(tiny, tmp_path, told):
    def tell(metadata, tensors):
        metadata["compression"] = [
            {"technique": "head", "params": {}, "report": {"seen_bytes": told}}
        ]

    steps = steps_of(rewrite(tiny("v7", "int8", "previewed"), tmp_path / "a.trwkv", tell))
    found, rows = memory_plan(steps, None), steps.file.tensors["head.rows.weight"].nbytes
    assert 0 < found["resident_bytes_typical"] <= found["resident_bytes_max"]
    assert (found["resident_bytes_typical"] < found["resident_bytes_max"] - 5000) == (told == 12345)
    assert rows > 17345 and memory_plan(steps, 9000)["resident_bytes_typical"] == 9000


@pytest.mark.usefixtures("linux")
def test_nothing_is_read_to_know_the_plan(tiny):
    model = tinyrwkv.load(tiny("v6", "int8"), backend="numpy")
    assert model.plan()["file_bytes"] > 0
    assert model.file.resident() == 0


@pytest.mark.parametrize("arch", VERSIONS)
def test_cuts_cover_the_program(tiny, arch):
    steps = steps_of(tiny(arch, "int8"))
    assert steps.cuts[0] == 0 and steps.cuts[-1] == len(steps.program.operations)
    assert sorted(set(steps.cuts)) == steps.cuts
    assert steps.cuts[steps.head_cut] == steps.program.select
    assert (
        steps.bytes_between(0, len(steps.cuts) - 1)
        == memory_plan(steps, None)["touched_bytes_per_token"]
    )
    in_layers = [steps.bytes_between(i, i + 1) for i in range(steps.head_cut)]
    assert max(in_layers) == steps.largest_layer_step


def test_a_large_head_makes_no_chunk_shorter(tmp_path):
    """The head is read for one token of a chunk, the layers for all."""
    chunks = []
    for vocab in (300, 20_000):
        shape = shape_of("v7", layers=1, width=64, vocab=vocab, ffn=96)
        path = write_model(tmp_path / f"{vocab}.trwkv", shape, "int8")
        steps = steps_of(path)
        pace = Pace(steps)
        of_a_layer = steps.largest_layer_step
        # So slow that eight tokens go through the largest step of a layer between two pauses.
        pace.learn(16, PAUSE / 8.5, of_a_layer)
        chunks.append((of_a_layer, pace.chunk(1e9)))
        head = steps.bytes_between(steps.head_cut, steps.head_cut + 1)
        assert (head > of_a_layer) == (vocab == 20_000)
    assert chunks[0] == chunks[1] and chunks[0][1] == 8


@given(st.data())
def test_a_step_goes_as_far_as_its_budget(tiny, data):
    steps = steps_of(tiny(data.draw(st.sampled_from(VERSIONS)), "int8"))
    last = data.draw(st.integers(1, len(steps.cuts) - 1))
    first = data.draw(st.integers(0, last - 1))
    budget = data.draw(st.floats(0, 2e6))
    until = steps.within_time(first, last, budget)
    assert first < until <= last
    assert until == first + 1 or steps.bytes_between(first, until) <= budget
    assert until == last or steps.bytes_between(first, until + 1) > budget
    assert (
        steps.within_time(first, last, float("inf")) == last
        and steps.within_time(first, last, -1.0) == first + 1
    )
