"""States: values with their own memory, files with the same bits, refused by other models."""

from __future__ import annotations

import pathlib
import pickle
import types

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.tiny_models import VOCAB_SIZE, rewrite
from tinyrwkv import ArgumentError, FormatError, State, UnsupportedError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.state_file import smallest_dtype
from tinyrwkv.versions.layout import VERSIONS

tokens_of = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=10)


@given(st.sampled_from(VERSIONS), tokens_of)
@settings(max_examples=30)
def test_a_copy_is_independent(load, backend, arch, tokens):
    model = load(backend, arch, "int8")
    state = model.forward(tokens)[1]
    copy = state.copy()
    assert copy.data.tobytes() == state.data.tobytes() and copy.tokens == state.tokens == len(
        tokens
    )
    assert not np.shares_memory(copy.data, state.data)
    expected = model.forward([1], state)[0]
    copy.data[:] = 7
    copy.tokens = 0
    assert (
        state.tokens == len(tokens) and model.forward([1], state)[0].tobytes() == expected.tobytes()
    )


def test_every_new_state_has_its_own_memory(load, backend):
    model = load(backend)
    one, two = model.new_state(), model.new_state()
    one.data[:] = 5
    assert two.data.tobytes() == model.new_state().data.tobytes() != one.data.tobytes()


@given(st.sampled_from(VERSIONS), tokens_of, tokens_of)
@settings(max_examples=30)
def test_a_file_has_the_same_bits(load, compiled, tmp_path_factory, arch, tokens, more):
    model, path = load(compiled, arch, "int8"), tmp_path_factory.mktemp("state") / "a.trwkv"
    state = model.forward(tokens)[1]
    state.save(path)
    loaded = State.load(path, model)
    assert loaded.data.tobytes() == state.data.tobytes() and loaded.tokens == state.tokens
    assert loaded.data.flags.writeable and loaded.data.dtype == np.float32
    one, two = model.forward(more, state), model.forward(more, loaded)
    assert one[0].tobytes() == two[0].tobytes() and one[1].data.tobytes() == two[1].data.tobytes()
    loaded.save(path)  # over the file that it came from
    assert State.load(str(path), model).data.tobytes() == state.data.tobytes()


@pytest.mark.parametrize("arch", VERSIONS)
def test_the_state_before_any_token_can_be_saved(load, backend, tmp_path, arch):
    model = load(backend, arch, "f32")
    model.new_state().save(tmp_path / "a.trwkv")
    state = State.load(tmp_path / "a.trwkv", model)
    assert state.tokens == 0 and state.data.tobytes() == model.new_state().data.tobytes()


@pytest.mark.parametrize(("arch", "dtype"), [("v7", "f32"), ("v6", "int8")])
def test_a_state_of_another_model_is_refused(load, tmp_path, arch, dtype):
    load("numpy", arch, dtype).new_state().save(tmp_path / "a.trwkv")
    with pytest.raises(FormatError, match="model"):
        State.load(tmp_path / "a.trwkv", load("numpy", "v7", "int8"))


def test_a_model_is_no_state(load, tiny):
    with pytest.raises(FormatError, match="is a model, not a state; "):
        State.load(tiny("v7", "int8"), load("numpy", "v7", "int8"))


@pytest.mark.parametrize("path", ["no-such-file", ".", ""])
def test_a_path_without_a_file(load, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError):
        State.load(path, load("numpy"))


@pytest.mark.parametrize("model", [None, "model", 5])
def test_a_model_that_is_none_is_refused(load, model, tmp_path):
    load("numpy").new_state().save(tmp_path / "a.trwkv")
    with pytest.raises(ArgumentError, match="model"):
        State.load(tmp_path / "a.trwkv", model)


def test_a_state_is_no_model(load, tmp_path):
    state = load("numpy").new_state()
    state.save(tmp_path / "a.trwkv")
    with pytest.raises(ArgumentError, match="model"):
        State.load(tmp_path / "a.trwkv", state)


def test_what_owns_a_state_need_not_be_a_model(load, tmp_path):
    """A hash, an origin and a size are enough: a tool can look into states without the weights."""
    model = load("numpy")
    state = model.forward([1, 2])[1]
    state.save(tmp_path / "a.trwkv")
    owner = types.SimpleNamespace(hash=model.hash, origin=model.origin, state_size=model.state_size)
    assert State.load(tmp_path / "a.trwkv", owner).data.tobytes() == state.data.tobytes()


@pytest.mark.parametrize("path", ["no/such/folder/a.trwkv", "."])
def test_a_file_that_cannot_be_written(load, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError):
        load("numpy").new_state().save(path)
    assert list(tmp_path.iterdir()) == []


@given(st.integers(0, 2**63), st.integers(1, 255))
@settings(max_examples=100)
def test_any_damaged_byte_is_found(load, tmp_path_factory, place, flip):
    model, path = load("numpy", "v4", "int8"), tmp_path_factory.mktemp("state") / "a.trwkv"
    model.forward([1, 2])[1].save(path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= flip
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.trwkv"):
        State.load(path, model)


@given(st.integers(0, 2**63))
@settings(max_examples=50)
def test_a_file_that_was_cut_is_found(load, tmp_path_factory, place):
    model, path = load("numpy", "v4", "int8"), tmp_path_factory.mktemp("state") / "a.trwkv"
    model.new_state().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: place % len(data)])
    with pytest.raises(FormatError, match=r"a\.trwkv"):
        State.load(path, model)


HOSTILE = {
    "too short": lambda metadata, tensors: tensors.update(state=tensors["state"][:-1]),
    "too long": lambda metadata, tensors: tensors.update(
        state=np.append(tensors["state"], np.float32(0))
    ),
    "a matrix": lambda metadata, tensors: tensors.update(state=tensors["state"].reshape(1, -1)),
    "another type": lambda metadata, tensors: tensors.update(state=tensors["state"].view(np.int32)),
    "nan": lambda metadata, tensors: tensors["state"].__setitem__(3, np.nan),
    "infinity": lambda metadata, tensors: tensors["state"].__setitem__(3, np.inf),
    "no state": lambda metadata, tensors: tensors.update(other=tensors.pop("state")),
    "other model": lambda metadata, tensors: metadata.update(model="0" * 64),
}


def scale_of(value):
    return lambda metadata, tensors: tensors["state.scale"].__setitem__(3, value)


HOSTILE_ROWS = {
    "a scale of nan": scale_of(np.nan),
    "a scale of infinity": scale_of(np.inf),
    "a scale that overflows": scale_of(3e38),
    "no scales": lambda metadata, tensors: tensors.pop("state.scale"),
    "too few scales": lambda metadata, tensors: tensors.update(
        {"state.scale": tensors["state.scale"][:-1]}
    ),
    "scales of another type": lambda metadata, tensors: tensors.update(
        {"state.scale": tensors["state.scale"].astype(np.float16)}
    ),
    "too few rows": lambda metadata, tensors: tensors.update(state=tensors["state"][:-1]),
    "rows of another length": lambda metadata, tensors: tensors.update(
        state=tensors["state"].reshape(-1, 8)
    ),
    "one row": lambda metadata, tensors: tensors.update(state=tensors["state"].reshape(-1)),
    "unsigned rows": lambda metadata, tensors: tensors.update(
        state=tensors["state"].view(np.uint8)
    ),
}


@pytest.mark.parametrize("damage", list(HOSTILE))
def test_a_well_formed_file_of_something_else_is_refused(load, tmp_path, damage):
    model = load("numpy", "v7", "int8")
    model.forward([1])[1].save(tmp_path / "a.trwkv")
    path = rewrite(tmp_path / "a.trwkv", tmp_path / "b.trwkv", HOSTILE[damage])
    with pytest.raises(FormatError, match=r"b\.trwkv"):
        State.load(path, model)


@pytest.mark.parametrize("damage", list(HOSTILE_ROWS))
def test_hostile_rows_are_refused(load, tmp_path, damage):
    model = load("numpy", "v7", "int8")
    model.forward([1])[1].save(tmp_path / "a.trwkv", "int8")
    path = rewrite(tmp_path / "a.trwkv", tmp_path / "b.trwkv", HOSTILE_ROWS[damage])
    with pytest.raises(FormatError, match=r"b\.trwkv"):
        State.load(path, model)


WITH_ROWS = [arch for arch in VERSIONS if arch != "v4"]
NUMBERS = st.floats(-65504, 65504, width=32)


def state_of(model, numbers):
    """Return a state of some numbers, repeated."""
    return State(np.resize(np.array(numbers, np.float32), model.state_size), 7, model.origin)


@given(st.sampled_from(WITH_ROWS), st.lists(NUMBERS, min_size=1, max_size=100))
@example("v5.0", [32752.0, 65504.0])
def test_int8_rows_are_near_and_come_back_the_same_a_second_time(
    load, tmp_path_factory, arch, numbers
):
    model, path = load("numpy", arch, "int8"), tmp_path_factory.mktemp("state") / "a.trwkv"
    state = state_of(model, numbers)
    state.save(path, "int8")
    once = State.load(path, model)
    assert once.tokens == 7 and once.data.dtype == np.float32 and once.data.flags.writeable
    width = model.config["head_size"]
    rows, found = (one.data.reshape(-1, width).astype(np.float64) for one in (state, once))
    largest = np.abs(rows).max(axis=1, keepdims=True)
    # Half a step of 1/127 of the largest, and half a step of float32, which has no numbers between
    # multiples of 2^-149.
    most = largest / 254 * (1 + 1e-6) + np.abs(found) * 2.0**-24 + 2.0**-142
    assert (np.abs(found - rows) <= most).all()
    once.save(path, "int8")
    assert State.load(path, model).data.tobytes() == once.data.tobytes()


@given(st.lists(NUMBERS, min_size=1, max_size=100))
def test_halves_come_back_as_numpy_rounds_them(load, tmp_path_factory, numbers):
    model, path = load("numpy", "v7", "int8"), tmp_path_factory.mktemp("state") / "a.trwkv"
    state = state_of(model, numbers)
    state.save(path, "f16")
    expected = state.data.astype(np.float16).astype(np.float32)
    assert State.load(path, model).data.tobytes() == expected.tobytes()


def test_a_smaller_type_makes_a_smaller_file(load, tmp_path):
    model = load("numpy", "v7", "int8")
    state = model.forward([1, 2])[1]
    sizes = {}
    for dtype in ("f32", "f16", "int8"):
        state.save(tmp_path / dtype, dtype)
        with open_file(tmp_path / dtype) as file:
            sizes[dtype] = sum(tensor.nbytes for tensor in file.tensors.values())
    width = model.config["head_size"]
    assert sizes["f32"] == 4 * model.state_size == 2 * sizes["f16"]
    assert sizes["int8"] == model.state_size * (width + 4) // width
    state.save(tmp_path / "default")
    assert (tmp_path / "default").read_bytes() == (tmp_path / "f32").read_bytes()


@pytest.mark.parametrize("dtype", ["f16", "int8"])
def test_states_of_v4_are_kept_whole(load, tmp_path, dtype):
    state = load("numpy", "v4", "int8").new_state()
    with pytest.raises(UnsupportedError, match="states of RWKV-4 are saved as f32 only"):
        state.save(tmp_path / "a.trwkv", dtype)
    assert list(tmp_path.iterdir()) == []
    assert smallest_dtype(state.origin) == "f32"


@pytest.mark.parametrize("dtype", ["f64", "int4", "", None, 8, np.float32])
def test_a_type_that_states_do_not_have_is_refused(load, tmp_path, dtype):
    with pytest.raises(ArgumentError, match="one of f32, f16, int8"):
        load("numpy").new_state().save(tmp_path / "a.trwkv", dtype)
    assert list(tmp_path.iterdir()) == []


def test_numbers_too_large_for_halves_are_refused(load, tmp_path):
    state = state_of(load("numpy"), [65520.0])
    with pytest.raises(ArgumentError, match="too large for f16; save it as f32 or int8"):
        state.save(tmp_path / "a.trwkv", "f16")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_version_is_of_the_first(load, tmp_path):
    """As files are that 1.1 of the format wrote."""
    model = load("numpy", "v7", "int8")
    state = model.forward([1])[1]
    state.save(tmp_path / "a.trwkv")
    with open_file(tmp_path / "a.trwkv") as file:
        assert file.metadata["state_version"] == 2
    path = rewrite(
        tmp_path / "a.trwkv", tmp_path / "b.trwkv", lambda meta, _: meta.pop("state_version")
    )
    assert State.load(path, model).data.tobytes() == state.data.tobytes()


def test_an_unknown_version_is_refused_by_name(load, tmp_path):
    model = load("numpy", "v7", "int8")
    model.new_state().save(tmp_path / "a.trwkv")
    path = rewrite(
        tmp_path / "a.trwkv", tmp_path / "b.trwkv", lambda meta, _: meta.update(state_version=3)
    )
    with pytest.raises(UnsupportedError) as caught:
        State.load(path, model)
    assert str(caught.value) == (
        f"{path} is a state of version 3, but this tinyrwkv reads only versions 1 to 2; "
        "update tinyrwkv"
    )


def test_saving_is_all_or_nothing(load, tmp_path, monkeypatch):
    model, path = load("numpy", "v7", "int8"), pathlib.Path(tmp_path, "a.trwkv")
    model.new_state().save(path)
    before = path.read_bytes()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinyrwkv.file.mapped.os.fsync", no_space)
    with pytest.raises(FormatError, match="No space"):
        model.forward([1])[1].save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_state_that_is_no_number_is_not_saved(load, tmp_path):
    model = load("numpy", "v7", "int8")
    state = model.new_state()
    state.data[5] = np.nan
    for dtype in ("f32", "f16", "int8"):
        with pytest.raises(FormatError, match="the state must be finite numbers"):
            state.save(tmp_path / "a.trwkv", dtype)
    assert list(tmp_path.iterdir()) == []


def test_states_go_to_other_processes(load):
    """As values do: through pickle and copy."""
    model = load("numpy", "v7", "int8")
    state = model.forward([1, 2])[1]
    other = pickle.loads(pickle.dumps(state))
    assert model.forward([3], other)[0].tobytes() == model.forward([3], state)[0].tobytes()


def test_state_is_part_of_the_interface():
    assert tinyrwkv.State is State
