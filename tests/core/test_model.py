"""Models: every fast path against the reference, in any chunks, and wrong calls refused."""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.scripts import run_script
from tests.helpers.tiny_models import (
    BACKENDS,
    BOUNDS,
    DTYPES,
    VOCAB_SIZE,
    VOCABULARY,
    Oracle,
    error,
    is_exact,
    predict,
    read_tensors,
    rewrite,
    shape_of,
    write_model,
    write_tensors,
)
from tinyrwkv import ArgumentError, FormatError, Sampler, TinyRWKVError, UnsupportedError, loading
from tinyrwkv.engine.pool import pool
from tinyrwkv.engine.team import Team
from tinyrwkv.kernels.abi import MAX_TOKENS
from tinyrwkv.versions.layout import VERSIONS

FORMS = (
    "dense",
    "compressed",
)  # and two of int8 with predictors, which read every neuron and so are as exact
tokens_of = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=3 * MAX_TOKENS)
models = st.tuples(
    st.sampled_from(VERSIONS), st.sampled_from(DTYPES), st.sampled_from(FORMS)
) | st.tuples(
    st.sampled_from(VERSIONS), st.just("int8"), st.sampled_from(("predicted", "networked"))
)


def some_tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, count).tolist()


# The same numbers as the reference.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", VERSIONS)
def test_forward_is_the_reference(load, oracle, backend, arch, dtype, form):
    tokens = some_tokens(MAX_TOKENS * 2 + 5)
    expected, after = oracle(arch, dtype, form).run(tokens)
    logits, state = load(backend, arch, dtype, 1, form).forward(tokens, logits="all")
    assert logits.dtype == np.float32 and logits.shape == (len(tokens), VOCAB_SIZE)
    assert error(logits, expected) < BOUNDS[dtype]
    assert error(state.data, after) < BOUNDS[dtype]
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


@pytest.mark.parametrize("form", ["predicted", "networked"])
@pytest.mark.parametrize("arch", VERSIONS)
def test_a_predictor_that_chooses_every_neuron_is_the_reference(load, oracle, backend, arch, form):
    tokens = some_tokens(MAX_TOKENS + 5)
    expected, after = oracle(arch, "int8").run(tokens)  # of the dense model
    logits, state = load(backend, arch, "int8", 1, form).forward(tokens, logits="all")
    assert error(logits, expected) < BOUNDS["int8"] and error(state.data, after) < BOUNDS["int8"]


@pytest.mark.parametrize("arch", ["v5.2", "v7"])
def test_neurons_that_are_not_chosen_add_nothing(tmp_path, tiny, backend, arch):
    def nothing(metadata, tensors):
        predict(metadata, tensors, np.inf)

    def silent(metadata, tensors):
        for layer in range(metadata["n_layer"]):
            tensors[f"blocks.{layer}.ffn.value.weight"][:] = 0

    tokens = some_tokens(20)
    expected = Oracle(rewrite(tiny(arch, "int8"), tmp_path / "silent.trwkv", silent)).run(tokens)[0]
    path = rewrite(tiny(arch, "int8"), tmp_path / "nothing.trwkv", nothing)
    assert (
        error(tinyrwkv.load(path, backend=backend).forward(tokens, logits="all")[0], expected)
        < BOUNDS["int8"]
    )


shapes = st.fixed_dictionaries(
    {
        "layers": st.integers(1, 2),
        "width": st.integers(1, 4),  # heads
        "head_size": st.sampled_from([8, 16, 24, 64]),
        "ffn": st.integers(1, 100),
        "vocab": st.integers(1, 70),
    }
)


@given(st.sampled_from(VERSIONS), st.sampled_from(DTYPES), shapes, st.integers(1, 40), st.data())
@settings(max_examples=25)
def test_forward_is_the_reference_in_any_shape(
    tmp_path_factory, backend, arch, dtype, shape, low, data
):
    shape = shape | {"width": shape["width"] * shape["head_size"]}
    path = tmp_path_factory.mktemp("shape") / "a.trwkv"
    path = write_model(path, shape_of(arch, **shape), dtype, seed=low, low=low)
    tokens = data.draw(st.lists(st.integers(0, shape["vocab"] - 1), min_size=1, max_size=6))
    expected, after = Oracle(path).run(tokens)
    logits, state = tinyrwkv.load(path, backend=backend).forward(tokens, logits="all")
    bound = (
        5e-4 if dtype not in ("int8", "int4") else 2e-2
    )  # heads of equal numbers, which their norm blows up, are rare but happen
    assert np.abs(logits - expected).max() <= bound * max(1, expected.std())
    assert np.abs(state.data - after).max() <= bound * max(1, after[np.abs(after) < 1e29].std())


def test_native_and_numba_agree_to_the_bit(load):
    for name in ("native", "numba"):
        try:
            load(name, "v7", "int8").forward([1])
        except UnsupportedError as reason:
            pytest.skip(str(reason))
    tokens = some_tokens(40)
    for arch in VERSIONS:
        for dtype in DTYPES:
            one, two = (
                load(name, arch, dtype).forward(tokens, logits="all")
                for name in ("native", "numba")
            )
            assert (
                one[0].tobytes() == two[0].tobytes()
                and one[1].data.tobytes() == two[1].data.tobytes()
            )


# Any chunks, any threads.


@given(models, tokens_of, st.data())
@settings(max_examples=30)
def test_prefill_in_any_chunks_is_token_by_token(load, backend, which, tokens, data):
    arch, dtype, form = which
    model, state, expected = load(backend, arch, dtype, 1, form), None, []
    for token in tokens:
        logits, state = model.forward([token], state)
        expected.append(logits)
    assert state.tokens == len(tokens)
    found, chunked, rest = [], None, tokens
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        logits, chunked = model.forward(rest[:count], chunked, logits="all")
        found.append(logits)
        rest = rest[count:]
    found, expected = np.concatenate(found), np.stack(expected)
    if is_exact(backend):
        assert (
            found.tobytes() == expected.tobytes() and chunked.data.tobytes() == state.data.tobytes()
        )
    else:
        assert (
            error(found, expected) < 4 * BOUNDS[dtype]
            and error(chunked.data, state.data) < 4 * BOUNDS[dtype]
        )


@given(models, tokens_of)
@settings(max_examples=30)
def test_last_all_and_none_agree(load, backend, which, tokens):
    arch, dtype, form = which
    model = load(backend, arch, dtype, 1, form)
    every, state = model.forward(tokens, logits="all")
    last, after_last = model.forward(tokens)
    none, after_none = model.forward(tokens, logits=None)
    assert none is None and every.shape == (len(tokens), VOCAB_SIZE) and last.shape == (VOCAB_SIZE,)
    if is_exact(backend):
        assert last.tobytes() == every[-1].tobytes()
    else:
        assert error(last, every[-1]) < 4 * BOUNDS[dtype]
    assert state.data.tobytes() == after_last.data.tobytes() == after_none.data.tobytes()


@given(models, st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=MAX_TOKENS))
@settings(max_examples=30)
def test_all_states_are_those_of_the_beginnings(load, backend, which, tokens):
    arch, dtype, form = which
    model = load(backend, arch, dtype, 1, form)
    _, before = model.forward([1, 2])
    logits, states = model.forward(tokens, before, logits="all", states="all")
    last, after = model.forward(tokens, before)
    none, again = model.forward(tokens, before, logits=None, states="all")
    assert none is None and len(states) == len(tokens)
    assert logits.tobytes() == model.forward(tokens, before, logits="all")[0].tobytes()
    for n, (state, other) in enumerate(zip(states, again, strict=True), 1):
        _, expected = model.forward(tokens[:n], before, logits=None)
        assert state.tokens == other.tokens == expected.tokens
        assert state.data.tobytes() == other.data.tobytes()
        if is_exact(backend):
            assert state.data.tobytes() == expected.data.tobytes()
        else:
            assert error(state.data, expected.data) < 4 * BOUNDS[dtype]
    assert states[-1].data.tobytes() == after.data.tobytes() and last.shape == (VOCAB_SIZE,)


@pytest.mark.parametrize("arch", VERSIONS)
def test_all_states_with_threads_and_pauses_change_no_bit(load, compiled, arch):
    tokens = np.array(some_tokens(7), np.int32)
    _, expected = load(compiled, arch, "int8").forward(tokens, states="all")
    together = load(compiled, arch, "int8", 3)
    with as_many_cores_as(3):
        _, found = together.forward(tokens, states="all")
    paused = np.empty((7, together.state_size), np.float32)
    assert together.reader.read(tokens, together.new_state().data, paused, None, lambda: False)
    for one, two, three in zip(expected, found, paused, strict=True):
        assert one.data.tobytes() == two.data.tobytes() == three.tobytes()


def test_all_states_of_too_many_tokens_are_refused(load):
    with pytest.raises(ArgumentError, match='tokens with states="all" is 17, but at most 16'):
        load("numpy").forward(some_tokens(17), states="all")


@contextlib.contextmanager
def as_many_cores_as(threads):
    """Let all threads of a pool take part in each call."""
    workers = pool(threads)
    before, workers.team = workers.team, Team(threads)
    try:
        yield
    finally:
        workers.team = before


@given(models, tokens_of, st.sampled_from([2, 3, 5]))
@settings(max_examples=30)
def test_threads_change_no_bit(load, compiled, which, tokens, threads):
    arch, dtype, form = which
    alone, together = (load(compiled, arch, dtype, n, form) for n in (1, threads))
    assert together.backend.threads == threads
    for logits in ("all", "last"):
        expected = alone.forward(tokens, logits=logits)
        with as_many_cores_as(threads):
            found = together.forward(tokens, logits=logits)
        assert found[0].tobytes() == expected[0].tobytes()
        assert found[1].data.tobytes() == expected[1].data.tobytes()


def test_more_threads_than_rows(load, tiny, compiled):
    tokens = some_tokens(20)
    expected = load(compiled, "v6", "int8").forward(tokens)
    with as_many_cores_as(17):
        found = tinyrwkv.load(tiny("v6", "int8"), backend=compiled, threads=17).forward(tokens)
    assert (
        found[0].tobytes() == expected[0].tobytes()
        and found[1].data.tobytes() == expected[1].data.tobytes()
    )


@given(models, tokens_of, st.integers(0, 10**6))
@settings(max_examples=30)
def test_pauses_between_layers_change_no_bit(load, backend, which, tokens, seed):
    """A deadline or a limit cuts a token into several kernel calls."""
    arch, dtype, form = which
    model, rng = load(backend, arch, dtype, 1, form), np.random.default_rng(seed)
    tokens = np.array(tokens[:MAX_TOKENS], np.int32)
    old = model.new_state().data
    results = []
    for cut in (False, True):
        new, out = np.empty_like(old), np.empty((len(tokens), VOCAB_SIZE), np.float32)
        within_time = model.steps.within_time
        try:
            if cut:
                model.steps.within_time = lambda first, last, budget: (
                    int(rng.integers(first, last)) + 1
                )
            for rows in (out, out[-1:].copy()):
                assert model.reader.read(tokens, old, new, rows, (lambda: False) if cut else None)
                results.append((rows.tobytes(), new.tobytes()))
        finally:
            model.steps.within_time = within_time
    assert results[0] == results[2] and results[1] == results[3]


# States are values, models are shared.


@given(models, tokens_of, tokens_of)
@settings(max_examples=20)
def test_the_state_passed_in_never_changes(load, backend, which, tokens, more):
    arch, dtype, form = which
    model = load(backend, arch, dtype, 1, form)
    state = model.forward(tokens)[1]
    before, data = state.data.tobytes(), state.data
    first = model.forward(more, state)
    assert state.data is data and data.tobytes() == before and state.tokens == len(tokens)
    again = model.forward(more, state)
    assert (
        first[0].tobytes() == again[0].tobytes()
        and first[1].data.tobytes() == again[1].data.tobytes()
    )
    assert first[1].tokens == len(tokens) + len(more)
    assert not np.shares_memory(first[1].data, state.data)


@pytest.mark.parametrize(("count", "states"), [(1, 1), (MAX_TOKENS, 1), (MAX_TOKENS + 1, 2)])
def test_no_more_states_are_made_than_needed(count, states):
    model = tinyrwkv.load()
    size = model.forward(range(count))[1].data.nbytes  # what is made once is made
    tracemalloc.start()
    try:
        model.forward(range(count), model.new_state(), logits=None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert states + 1 <= peak / size < states + 1.5  # and the one passed in


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_a_model(load, backend, threads):
    model = load(backend, "v5.2", "int8", threads)
    prompts = [some_tokens(20 + i, seed=i) for i in range(6)]
    expected = [model.forward(prompt) for prompt in prompts]
    wrong: list[object] = []

    def session(i: int) -> None:
        try:
            for _ in range(3):
                logits, state = None, None
                for token in prompts[i]:
                    logits, state = model.forward([token], state)
                exact = (
                    logits.tobytes() == expected[i][0].tobytes()
                    and state.data.tobytes() == expected[i][1].data.tobytes()
                )
                if not (
                    exact
                    if is_exact(backend)
                    else error(logits, expected[i][0]) < 4 * BOUNDS["int8"]
                ):
                    wrong.append(i)
        except BaseException as exception:
            wrong.append(exception)

    sessions = [threading.Thread(target=session, args=(i,)) for i in range(len(prompts))]
    for thread in sessions:
        thread.start()
    for thread in sessions:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in sessions)


class EmptiedByOthers(list):
    """A list that another thread empties between a look at its length and ``pop``."""

    def __bool__(self) -> bool:
        return True

    def pop(self, *args):
        raise IndexError("pop from empty list")


def test_threads_that_take_the_last_workspace_at_once(tiny):
    model = tinyrwkv.load(tiny("v7", "int8"), backend="numpy")
    expected = model.forward([1, 2])[0]
    model.reader.workspaces = EmptiedByOthers()
    assert model.forward([1, 2])[0].tobytes() == expected.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [2])
def test_a_child_of_a_fork_goes_on(tiny, backend, threads):
    code = """
    import tinyrwkv
    path, backend, threads = sys.argv[1:]
    model = tinyrwkv.load(path, backend=backend, threads=int(threads))
    tokens = list(range(1, 40))
    logits, state = model.forward(tokens)
    expected = model.forward(tokens, state)[0].tobytes()
    child = os.fork()
    if child == 0:
        import signal
        signal.alarm(15)
        os._exit(0 if model.forward(tokens, state)[0].tobytes() == expected else 9)
    assert os.waitpid(child, 0)[1] == 0
    assert model.forward(tokens, state)[0].tobytes() == expected
    print("done", end="")
    """
    assert run_script(code, tiny("v7", "int8"), backend, str(threads)) == "done"


# Calls that are wrong.


@pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")  # NumPy before 1.24
@pytest.mark.parametrize(
    "tokens",
    [
        [],
        (),
        np.zeros(0, np.int32),
        [-1],
        [VOCAB_SIZE],
        [1, 2, VOCAB_SIZE],
        [2**31],
        [2**63],
        [2**70],
        [-(2**63)],
        -1,
        VOCAB_SIZE,
        1.0,
        [1.0],
        [0.5],
        [None],
        None,
        "text",
        b"",
        ["a"],
        [[1, 2]],
        [[1], [2, 3]],
        np.array([1.0], np.float32),
        np.array([True]),
        [True],
        [True, 2],
        [1, np.False_],
        [1.5],
        np.array([1, 2], object),
        {"a": 1},
        object(),
    ],
)
def test_tokens_that_are_none_are_refused(load, backend, tokens):
    with pytest.raises(ArgumentError, match="tokens"):
        load(backend).forward(tokens)


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        ([1.5], "1.5"),
        ([1, 2, 1.5, -1], "1.5"),
        (np.array([1.5, 2]), "1.5"),
        (1.5, "1.5"),
        ([np.float32(1.5)], "1.5"),
        ([3, VOCAB_SIZE, 1000], str(VOCAB_SIZE)),
        (np.array([3, -7]), "-7"),
        (-1, "-1"),
        ([2**70], str(2**70)),
        ([1, True], "True"),
        ([[1, 2]], r"\[1, 2\]"),
        ("text", "'text'"),
        (["a"], "'a'"),
        (None, "None"),
    ],
)
def test_the_message_names_the_token_that_is_none(load, tokens, found):
    expected = rf"tokens must be .*token ids.*, not {found}; "
    with pytest.raises(ArgumentError, match=expected):
        load("numpy").forward(tokens)


@pytest.mark.parametrize("tokens", [[], np.zeros(0, np.int32), iter(())])
def test_the_message_says_that_there_are_no_tokens(load, tokens):
    with pytest.raises(
        ArgumentError, match=rf"one or more token ids .*from 0 to {VOCAB_SIZE - 1}, not \[\]"
    ):
        load("numpy").forward(tokens)


@pytest.mark.parametrize(
    "tokens",
    [
        7,
        np.int64(7),
        np.uint8(7),
        np.array(7),
        [7],
        (7,),
        range(7, 8),
        np.array([7], np.uint64),
        np.array([7], ">i8"),
        np.array([7, 0], np.int16)[::2],
    ],
)
def test_tokens_may_come_as_any_integers(load, backend, tokens):
    expected = load(backend).forward([7])[0]
    assert load(backend).forward(tokens)[0].tobytes() == expected.tobytes()


def test_tokens_may_come_from_an_iterator(load, backend):
    expected = load(backend).forward([7, 8])[0]
    assert load(backend).forward(token for token in (7, 8))[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("logits", ["first", "", True, False, 0, ["all"]])
def test_other_logits_are_refused(load, backend, logits):
    with pytest.raises(ArgumentError, match="logits"):
        load(backend).forward([1], logits=logits)


@pytest.mark.parametrize("state", [0, "state", np.zeros(5, np.float32), {"data": 1}])
def test_a_state_that_is_none_is_refused(load, backend, state):
    with pytest.raises(ArgumentError, match="state"):
        load(backend).forward([1], state)


def test_a_state_of_another_model_is_refused(load, backend):
    for arch, dtype in (("v6", "int8"), ("v7", "f32")):
        with pytest.raises(ArgumentError, match="state"):
            load(backend, "v7", "int8").forward([1], load(backend, arch, dtype).new_state())


def test_the_message_names_the_models_of_a_state_by_short_hashes(load):
    model, other = load("numpy", "v7", "int8"), load("numpy", "v6", "int8")
    with pytest.raises(ArgumentError) as caught:
        model.forward([1], other.new_state())
    message = str(caught.value)
    for one in (model, other):
        assert one.hash[:12] in message and one.hash[:13] not in message
    assert "n_layer" not in message and "{" not in message


@pytest.mark.parametrize("origin", [None, {}, {"model": None}, "model"])
def test_a_state_without_an_origin_is_refused(load, backend, origin):
    data = load(backend).new_state().data
    with pytest.raises(ArgumentError, match="state"):
        load(backend).forward([1], tinyrwkv.State(data, 0, origin))


def test_a_state_with_other_data_is_refused_and_no_crash(tiny, backend):
    """In a process of its own, because the kernels would write past the end of its memory."""
    code = """
    import tinyrwkv
    from tests.helpers.wrong_states import MISSHAPEN
    path, backend = sys.argv[1:]
    model = tinyrwkv.load(path, backend=backend)
    for kind, change in MISSHAPEN.items():
        state = model.new_state()
        state = tinyrwkv.State(change(state.data), state.tokens, state.origin)
        forward = lambda: model.forward([1, 2], state)
        generate = lambda: model.generate([1], state=state)
        for call in (forward, generate):
            try:
                call()
            except tinyrwkv.ArgumentError as error:
                assert "state" in str(error)
            else:
                os.write(1, f"{kind}: accepted".encode())
                os._exit(0)
    print("refused", end="")
    """
    assert run_script(code, tiny("v7", "int8"), backend) == "refused"


def test_a_closed_model_is_refused_and_no_crash(tiny, backend):
    code = """
    import tinyrwkv
    path, backend = sys.argv[1:]
    model = tinyrwkv.load(path, backend=backend)
    logits, state = model.forward([1, 2, 3])
    generation = model.generate([1], max_tokens=5)
    model.close()
    model.close()
    fresh, later = lambda: model.forward([1]), lambda: model.forward([1], state)
    for call in (fresh, later, lambda: list(generation)):
        try:
            call()
        except tinyrwkv.TinyRWKVError as error:
            assert "closed" in str(error), error
        else:
            raise SystemExit("accepted")
    print("refused", end="")
    """
    assert run_script(code, tiny("v7", "int8"), backend) == "refused"


CALLS = {
    "forward": lambda model: model.forward([1]),
    "generate": lambda model: model.generate([1]),
    "score": lambda model: model.score([1], ["a"]),
    "tokenizer": lambda model: model.tokenizer,
    "plan": lambda model: model.plan(),
    "resident": lambda model: model.resident(),
    "cached": lambda model: model.cached(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_model_refuses_every_call(tiny, call):
    model = tinyrwkv.load(tiny("v7", "int8"), backend="numpy")
    model.close()
    with pytest.raises(ArgumentError, match="closed") as caught:
        CALLS[call](model)
    assert model.path in str(caught.value)


def test_a_model_is_closed_at_the_end_of_a_with_statement(tiny, backend):
    with tinyrwkv.load(tiny("v7", "int8"), backend=backend) as model:
        logits, state = model.forward([1, 2])
        assert logits.shape == (VOCAB_SIZE,)
    assert state.tokens == 2  # values outlive the model
    with pytest.raises(ArgumentError, match="closed"):
        model.forward([3], state)
    with pytest.raises(ZeroDivisionError), tinyrwkv.load(tiny(), backend=backend) as model:
        raise ZeroDivisionError
    with pytest.raises(ArgumentError, match="closed"):
        model.forward([3])


def test_the_repr_says_what_a_model_is(tiny, compiled):
    model = tinyrwkv.load(tiny("v6", "int8"), backend=compiled, threads=2)
    told = f"{model.path!r}: v6, 2 layers of width 64, {compiled} backend, 2 threads"
    assert repr(model) == f"<Model {told}>"
    model.close()
    assert repr(model) == f"<Model {told}, closed>"


# Numbers that are none.


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.float32(3e38)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", VERSIONS)
def test_weights_that_are_no_numbers_do_not_crash(tmp_path, tiny, backend, arch, dtype, value):
    def change(metadata, tensors):
        rng = np.random.default_rng(0)
        for name in tensors:
            if tensors[name].dtype in (np.float32, np.float16) and tensors[name].ndim == (
                2 if dtype == "f16" else 1
            ):
                with np.errstate(all="ignore"):
                    tensors[name].flat[int(rng.integers(tensors[name].size))] = value

    path = rewrite(tiny(arch, dtype), tmp_path / "a.trwkv", change)
    model = tinyrwkv.load(path, backend=backend)
    logits, state = model.forward(some_tokens(20), logits="all")
    assert logits.shape == (20, VOCAB_SIZE) and state.tokens == 20
    try:
        for piece in model.generate(some_tokens(3), max_tokens=3):
            assert -1 <= piece.token < VOCAB_SIZE  # -1: text held back, at the end
    except TinyRWKVError as error:
        assert "logits" in str(error)


@pytest.mark.parametrize("form", ["dense", "compressed", "predicted", "networked"])
@pytest.mark.parametrize("arch", ["v4", "v5.2", "v6", "v7"])
def test_a_weight_that_is_no_number_is_found(tmp_path, tiny, backend, arch, form):
    """Whichever it is, of those in float32: it stays in everything that is computed from it."""
    metadata, tensors = read_tensors(tiny(arch, "int8", form))
    names = [
        name
        for name, array in tensors.items()
        if array.dtype == np.float32 and not name.endswith("threshold")
    ]
    for name in np.random.default_rng(0).choice(names, 9, replace=False):
        array = tensors[name].copy()
        array.flat[5 if name.startswith("emb.") else array.size // 2] = np.nan
        model = tinyrwkv.load(
            write_tensors(tmp_path / "a.trwkv", metadata, tensors | {name: array}), backend=backend
        )
        assert np.isnan(model.forward([5, 5])[0]).any(), name
        with pytest.raises(TinyRWKVError, match="nan"):
            list(model.generate([5, 5], max_tokens=1))


def test_extreme_int8_weights_do_not_crash(tmp_path, tiny, backend):
    def change(metadata, tensors):
        for name in tensors:
            if tensors[name].dtype == np.int8:
                tensors[name][:] = -128  # outside of what the format promises

    path = rewrite(tiny("v6", "int8"), tmp_path / "a.trwkv", change)
    assert tinyrwkv.load(path, backend=backend).forward(some_tokens(20))[0].shape == (VOCAB_SIZE,)


# Loading.


def test_what_a_model_tells(tiny, backend):
    path = tiny("v7", "int8")
    model = tinyrwkv.load(pathlib.Path(path), backend=backend, verify=True)
    assert model.path == path and model.hash == model.file.hash and model.backend.name == backend
    assert model.config["arch"] == "v7" and model.config is model.file.metadata
    assert model.new_state().tokens == 0 and model.new_state().origin["model"] == model.hash


def test_a_bundled_model_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "BUNDLED", tmp_path / "default.trwkv")
    with pytest.raises(FormatError, match="bundled model") as caught:
        tinyrwkv.load()
    assert str(tmp_path) in str(caught.value) and "tinyrwkv-convert" in str(caught.value)


@pytest.mark.parametrize("path", ["", "no-such-file.trwkv", "no/such/folder/a.trwkv", ".", "a\0b"])
def test_a_path_without_a_file(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError):
        tinyrwkv.load(path)


@pytest.mark.parametrize("path", [5, 2.0, ["a.trwkv"], {}, object()])
def test_a_path_that_is_none(path):
    with pytest.raises(ArgumentError, match="path"):
        tinyrwkv.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x93TRWKV\r\n", b"PK\x03\x04" + bytes(100), b"<html>", bytes(5000)]
)
def test_a_file_of_something_else(tmp_path, content):
    (tmp_path / "a.trwkv").write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.trwkv"):
        tinyrwkv.load(tmp_path / "a.trwkv")


def test_a_damaged_tensor_is_found_on_demand(tmp_path, tiny, backend):
    data = bytearray(pathlib.Path(tiny("v7", "int8")).read_bytes())
    data[5000] ^= 1
    (tmp_path / "a.trwkv").write_bytes(data)
    assert tinyrwkv.load(tmp_path / "a.trwkv", backend=backend).forward([1])[0].shape == (
        VOCAB_SIZE,
    )
    with pytest.raises(tinyrwkv.ChecksumError):
        tinyrwkv.load(tmp_path / "a.trwkv", backend=backend, verify=True)


@given(st.integers(0, 2**63), st.binary(min_size=1, max_size=8))
@settings(max_examples=40)
def test_any_damage_is_an_error_of_the_library_or_harmless(tmp_path_factory, tiny, place, damage):
    data = bytearray(pathlib.Path(tiny("v4", "int8")).read_bytes())
    place %= len(data)
    data[place : place + len(damage)] = damage[: len(data) - place]
    path = tmp_path_factory.mktemp("damaged") / "a.trwkv"
    path.write_bytes(data)
    for name in BACKENDS[::2]:
        try:
            model = tinyrwkv.load(path, backend=name)
            logits, _ = model.forward([1, 2, 3])
            assert logits.shape == (VOCAB_SIZE,)
            list(model.generate("abc", max_tokens=2))
        except TinyRWKVError as error:
            assert str(path) in str(error) or "Sampler" in str(error) or "native" in str(error)


# The vocabulary.


def test_the_tokenizer_is_that_of_the_file(load, backend):
    model = load(backend)
    assert model.tokenizer is model.tokenizer and len(model.tokenizer) == len(VOCABULARY)
    assert model.tokenizer.decode(model.tokenizer.encode("abc é 日本 🙂")) == "abc é 日本 🙂"


def test_a_model_without_a_tokenizer_reads_ids_alone(tmp_path, backend):
    path = write_model(tmp_path / "a.trwkv", shape_of("v7", vocab=20), "int8")
    model = tinyrwkv.load(path, backend=backend)
    assert model.forward([3])[0].shape == (20,)
    sampler = Sampler(temperature=0, logit_bias={0: -np.inf})  # 0 would end the document
    assert [piece.text for piece in model.generate([3], sampler=sampler, max_tokens=3)] == [
        "",
        "",
        "",
    ]
    for call in (
        lambda: model.tokenizer,
        lambda: model.generate("a"),
        lambda: model.generate([3], stop=["a"]),
    ):
        with pytest.raises(UnsupportedError, match="tokenizer"):
            call()


TOKENIZER_DAMAGE = {
    "no starts": lambda t: t.pop("tokenizer.starts"),
    "no ids": lambda t: t.pop("tokenizer.ids"),
    "an id too large": lambda t: t["tokenizer.ids"].__setitem__(3, VOCAB_SIZE),
    "an id below 0": lambda t: t["tokenizer.ids"].__setitem__(3, -1),
    "the id 0": lambda t: t["tokenizer.ids"].__setitem__(3, 0),
    "an id twice": lambda t: t["tokenizer.ids"].__setitem__(3, int(t["tokenizer.ids"][4])),
    "an end outside": lambda t: t["tokenizer.starts"].__setitem__(-1, 1 << 30),
    "a start below 0": lambda t: t["tokenizer.starts"].__setitem__(0, -5),
    "starts out of order": lambda t: t["tokenizer.starts"].__setitem__(5, 1000),
    "entries out of order": lambda t: t["tokenizer.bytes"].__setitem__(slice(0, 5), 255),
    "ids of another length": lambda t: t.update({"tokenizer.ids": t["tokenizer.ids"][:-1]}),
    "starts of another type": lambda t: t.update(
        {"tokenizer.starts": t["tokenizer.starts"].astype(np.float32)}
    ),
    "ids of another type": lambda t: t.update(
        {"tokenizer.ids": t["tokenizer.ids"].astype(np.uint8)}
    ),
    "bytes of another type": lambda t: t.update(
        {"tokenizer.bytes": t["tokenizer.bytes"].view(np.int8)}
    ),
    "a matrix": lambda t: t.update({"tokenizer.bytes": t["tokenizer.bytes"][None]}),
}


@pytest.mark.parametrize("damage", list(TOKENIZER_DAMAGE))
def test_a_tokenizer_that_contradicts_itself_is_refused(tmp_path, tiny, damage):
    path = rewrite(
        tiny("v7", "int8"),
        tmp_path / "a.trwkv",
        lambda metadata, tensors: TOKENIZER_DAMAGE[damage](tensors),
    )
    with pytest.raises(FormatError, match="tokenizer"):
        tinyrwkv.load(path, backend="numpy").generate("text")


def test_a_tokenizer_without_its_bytes_is_refused(tmp_path, tiny):
    path = rewrite(
        tiny("v7", "int8"), tmp_path / "a.trwkv", lambda m, t: t.pop("tokenizer.bytes") is None
    )
    with pytest.raises((FormatError, UnsupportedError), match="tokenizer"):
        tinyrwkv.load(path, backend="numpy").generate("text")
