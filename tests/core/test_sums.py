"""Sums of whole numbers at their limits: docs/sums.md says why none overflows, and here they are.

Every form of the operations, compiled and in NumPy, against integers of Python, which have no end.
"""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tinyrwkv
from converters.techniques.pack_codes import pack_codes
from tests.core.test_kernels import F32, Bench, row_places
from tests.helpers.tiny_models import VOCAB_SIZE, read_tensors, write_tensors
from tinyrwkv.engine import backends
from tinyrwkv.engine.numpy_backend import FORMS
from tinyrwkv.engine.numpy_call import Call
from tinyrwkv.kernels import abi as op
from tinyrwkv.kernels.abi import NONE
from tinyrwkv.native import load, targets
from tinyrwkv.program.builder import qmax
from tinyrwkv.versions.forms import CODE_BITS, code_qmax

INT32 = 2**31 - 1
WIDEST = INT32 // (127 * qmax(1))  # columns up to which activations have all their bits


def object_path(name: str) -> str:
    return os.path.join(load.FOLDER, f"{name}.so")


class NumpyBench(Bench):
    """The same memory; its operations are run in NumPy."""

    def execute(
        self, code: int, threads: int = 1, head: int = op.HEAD_OF_ALL, **fields: int
    ) -> None:
        program: Any = SimpleNamespace(weights=self.weights, config={"ln_x_eps": 64e-5})
        workspace: Any = SimpleNamespace(
            shared=self.shared,
            private=[self.private],
            touched=0,
            floats=lambda size: np.empty(size, F32),
        )
        ids = self.ids[: self.tokens]
        call = Call(program, workspace, ids, self.old, self.new, self.out, head)
        with np.errstate(all="ignore"):
            FORMS[code](call, op.Fields[code](**fields))


OBJECTS = [target.name for target in targets.runnable() if os.path.exists(object_path(target.name))]


@pytest.fixture(scope="module", params=[*OBJECTS, "numba", "numpy"])
def form(request: Any) -> str:
    """Each object that this processor can run, and the two other backends."""
    if request.param == "numba" and not backends.has_numba():
        pytest.skip("numba is not installed")
    return request.param


@pytest.fixture(scope="module")
def make(form):
    """Make a bench of each form: ``make(tokens)``."""
    if form == "numpy":
        return lambda tokens=1: NumpyBench(None, tokens)
    if form == "numba":
        from tinyrwkv.engine.numba_backend import compiled_run

        run = compiled_run()
    else:
        run = getattr(ctypes.CDLL(object_path(form)), load.SYMBOL)
        run.restype, run.argtypes = None, [ctypes.c_void_p]
    return lambda tokens=1: Bench(run, tokens)


def extremes(largest: int, count: int, n: int, lowest: int | None = None) -> np.ndarray:
    """Return `count` vectors of n numbers, each as large as it may be, of either sign."""
    least = -largest if lowest is None else lowest
    places = np.arange(n)
    shapes = [
        np.full(n, largest),
        np.full(n, least),
        np.where(places % 2, least, largest),  # neighbours, which one instruction adds
        np.where(places % 32 < 16, largest, least),  # lanes of a vector
        np.where(places == n - 1, least, largest),  # the last one alone
        np.where(places < n // 2, least, largest),
    ]
    return np.stack([shapes[i % len(shapes)] for i in range(count)])


def python_sums(w: np.ndarray, x: np.ndarray) -> list[list[int]]:
    """Return x @ w.T in integers of Python."""
    return [[sum(map(int.__mul__, a, b)) for b in w.tolist()] for a in x.tolist()]


def agree(form: str, found: np.ndarray, sums: Any) -> None:
    """Compare results with exact sums: the kernels round each once, NumPy at each addition."""
    expected = np.array(sums, np.float64)
    if form == "numpy":  # all terms of a sum may have one sign or cancel
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=INT32 * 1e-5)
    else:
        assert found.tobytes() == expected.astype(F32).tobytes()


def product_fields(bench: Bench, rows: int, x: np.ndarray) -> dict[str, int]:
    """Return the fields of a product of int8 rows whose scales are all one."""
    return {
        "kind": op.INT8,
        "units": rows,
        "unit": 1,
        "scale": bench.weight(np.ones(rows, F32)),
        "shared": 0,
        "src": bench.tokens_of("private", x),
        "src_sums": NONE,
        "src_scale": bench.tokens_of("private", np.ones((len(x), 1), F32)),
        "activation": op.IDENTITY,
        "bias": NONE,
        "gate": NONE,
        "diag": NONE,
        "diag_src": 0,
    }


def test_the_limit_of_activations_is_the_largest_that_fits():
    for n in [*range(1, 3000), 1 << 14, 1 << 20, (1 << 22) - 1, 1 << 22]:
        assert 127 * n * qmax(n) <= INT32 and 1 <= qmax(n) <= 127 * 256
        assert qmax(n) == 127 * 256 or 127 * n * (qmax(n) + 1) > INT32
    assert qmax(WIDEST) == 127 * 256 > qmax(WIDEST + 1)


WIDTHS = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 263]
WIDTHS += [264, 287, 288, WIDEST - 1, WIDEST, WIDEST + 1, 1023, 1024, 1025, 4099]


@pytest.mark.parametrize("tokens", [1, 3, 4, 5, 16])
def test_products_at_their_limits(make, form, tokens):
    rows = 11  # parts of two and of four rows, and some that are left
    for n in WIDTHS:
        bench = make(tokens)
        w = extremes(127, rows, n)
        x = extremes(qmax(n), tokens, n)
        fields = product_fields(bench, rows, x.astype(np.int16))
        fields |= {"weight": bench.weight(w.astype(np.int8)), "cols": n, "stride": n}
        dst = bench.room("shared", rows)
        bench.execute(op.MATMUL, dst=dst, dst_stride=rows, mode=op.STORE, **fields)
        sums = python_sums(w, x)
        assert max(abs(one) for row in sums for one in row) == 127 * qmax(n) * n <= INT32
        agree(form, bench.get("shared", dst, rows), sums)


@pytest.mark.parametrize("unit", [8, 64])
@pytest.mark.parametrize("neurons", [1, 15, 16, 17, 33, WIDEST, WIDEST + 1, 1500])
def test_sums_over_neurons_at_their_limits(make, form, unit, neurons):
    bench = make(6)
    C = 2 * unit
    w = extremes(127, C, neurons)  # (C, neurons), stored with a row for each neuron
    q = extremes(qmax(neurons), 6, neurons)
    _, places = row_places(neurons, C, 0)
    fields = product_fields(bench, C, q.astype(np.int16)) | {"units": 2, "unit": unit}
    fields |= {"weight": bench.weight(w.T.astype(np.int8)), "cols": neurons, "stride": neurons}
    dst = bench.tokens_of("shared", np.zeros((6, C), F32))
    room = bench.put("private", np.zeros(op.list_bytes(neurons, C), np.uint8))
    output = {"dst": dst, "dst_stride": C, "mode": op.ADD, "list": room}
    bench.execute(op.SPARSE, **fields, **places, **output)
    agree(form, bench.get("shared", dst, C), python_sums(w, q))


@pytest.mark.parametrize("cols", [1, 33, WIDEST, WIDEST + 1, 1023])
def test_exact_rows_of_a_head_at_their_limits(make, form, cols):
    bench, rows = make(6), 12
    w, q = extremes(127, rows, cols), extremes(qmax(cols), 6, cols)
    dst = bench.room("shared", rows)
    bench.execute(
        op.EXACT,
        weight=bench.weight(w.astype(np.int8)),
        scale=bench.weight(np.ones(rows, F32)),
        cols=cols,
        src=bench.tokens_of("private", q.astype(np.int16)),
        kind=op.INT8,
        src_sums=NONE,
        src_scale=bench.tokens_of("private", np.ones((6, 1), F32)),
        first=0,
        rows=rows,
        dst=dst,
        dst_stride=rows,
        scores=bench.tokens_of("shared", np.zeros((6, rows), np.int16)),
        lowest=bench.tokens_of("private", np.zeros((6, 1), np.int32)),
    )
    agree(form, bench.get("shared", dst, rows), python_sums(w, q))


@pytest.mark.parametrize("bits", CODE_BITS)
@pytest.mark.parametrize("rank_bytes", [4, 28, 32, 36, 64, 68, 512])
def test_sums_of_codes_at_their_limits(make, form, bits, rank_bytes):
    bench, rows, rank = make(6), 70, rank_bytes * 8 // bits
    codes = extremes(2**bits - 1, rows, rank, lowest=0)
    u = extremes(code_qmax(bits), 6, rank)
    dst = bench.tokens_of("shared", np.zeros((6, rows), F32))
    bench.execute(
        op.LEVEL,
        codes=bench.weight(pack_codes(codes.astype(np.uint8), bits)),
        scales=bench.weight(np.zeros(rows, np.uint8)),
        table=bench.weight(np.full(op.SCALES, 2, F32)),
        rows=rows,
        bytes=rank_bytes,
        rank=rank,
        bits=bits,
        sums=bench.put("private", np.zeros(rank_bytes * op.TABLE_BYTES, np.uint8)),
        src=bench.tokens_of("private", (256 * u).astype(np.int16)),
        src_scale=bench.tokens_of("private", np.full((6, 1), 1 / 256, F32)),
        dst=dst,
        dst_stride=rows,
        add=0,
    )
    agree(form, bench.get("shared", dst, rows), python_sums(2 * codes - (2**bits - 1), u))


@pytest.mark.parametrize("cols", [64, 256, 320, 512, 576, 4096])
def test_the_predictor_at_its_limits(make, cols):
    """A neuron whose score is one above its threshold is read, and none whose score is equal."""
    neurons = 70
    positive = extremes(1, neurons, cols, lowest=0)
    for q in extremes(qmax(cols), 6, cols):
        upper = (q + 128) >> 8
        assert np.abs(upper).max() <= 127
        score = np.array(python_sums(2 * positive - 1, upper[None])[0])
        bench = make()
        fields = product_fields(bench, neurons, q[None].astype(np.int16))
        fields["src_sums"] = NONE
        fields["src_scale"] = bench.tokens_of("private", np.full((1, 1), 1 / 256, F32))
        keys = np.tile(np.sign(q), (neurons, 1))  # whatever is read gives more than zero
        fields |= {"weight": bench.weight(keys.astype(np.int8)), "cols": cols, "stride": cols}
        dst = bench.room("shared", neurons)
        fields |= {"dst": dst, "dst_stride": neurons, "mode": op.STORE}
        fields["signs"] = bench.weight(pack_codes(positive.astype(np.uint8), 1))
        fields["sums"] = bench.put("private", np.zeros(cols // 8 * op.TABLE_BYTES, np.uint8))
        fields |= {"network": NONE, "network_threshold": NONE}
        fields |= row_places(neurons, cols, 0)[1]
        for below in (0, 1):
            threshold = bench.weight((score - below).astype(F32))
            bench.execute(op.PREDICT, threshold=threshold, **fields)
            found = bench.get("shared", dst, neurons)
            assert ((found > 0) == bool(below)).all()


SPECIAL = {
    "NaN": np.array([0x7FC00000], np.uint32).view(F32)[0],
    "a NaN of all ones": np.array([0x7FFFFFFF], np.uint32).view(F32)[0],
    "infinity": F32(np.inf),
    "minus infinity": F32(-np.inf),
    "the least number": F32(1e-45),
    "the largest number": np.finfo(F32).max,
    "minus zero": F32(-0.0),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_activations_keep_to_their_limit_or_have_no_finite_scale(make, kind):
    for n in (1, 5, 64, WIDEST + 1):
        bench = make(2)
        x = np.zeros((2, n), F32)
        x[0, n // 2], x[1] = SPECIAL[kind], SPECIAL[kind]
        dst, scales = bench.room("private", n, np.int16), bench.room("private", 1)
        fields = {"src": bench.tokens_of("shared", x), "shared": 1, "stride": n, "width": n}
        bench.execute(op.QUANTIZE, dst=dst, dst_scale=scales, dst_sums=NONE, qmax=qmax(n), **fields)
        q, scale = bench.get("private", dst, n, np.int16), bench.get("private", scales, 1)
        assert np.isfinite(scale).all() == np.isfinite(SPECIAL[kind])
        if np.isfinite(scale).all():
            is_one_step = kind == "the largest number"  # others are too small for a step, or zero
            assert np.abs(q.astype(int)).max() == (qmax(n) if is_one_step else 0)


@pytest.mark.parametrize("kind", SPECIAL)
def test_scores_that_are_no_numbers_choose_no_more_rows_than_are_wanted(make, kind):
    bench, rows, cols, wanted = make(), 300, 8, 7
    z = np.linspace(-3, 3, rows, dtype=F32)[None]
    z[0, ::3] = SPECIAL[kind]
    dst, scores = bench.tokens_of("shared", z), bench.room("shared", rows, np.int16)
    zeros = bench.weight(np.zeros(rows, np.uint8))
    bench.execute(
        op.PREVIEW,
        src=bench.tokens_of("private", np.zeros((1, cols), F32)),
        mean=bench.weight(np.zeros(cols, F32)),
        bias=zeros,
        spread=zeros,
        ranges=bench.weight(np.zeros(4, F32)),
        dst=dst,
        scores=scores,
        rows=rows,
        cols=cols,
    )
    lowest = bench.room("private", 1, np.int32)
    limit = bench.weight(np.array([wanted], np.int32))
    bench.execute(op.CHOOSE, wanted=limit, scores=scores, rows=rows, dst=lowest)
    found = bench.get("shared", scores, rows, np.int16)
    bound = bench.get("private", lowest, 1, np.int32)
    assert (found >= bound).sum() <= wanted
    assert -(2**15) <= bound.min() <= bound.max() <= 2**15
    if "NaN" not in kind:
        assert np.abs(found.astype(int)).max() <= 16 * 2047


def poisoned(tensors: dict[str, np.ndarray], name: str, value: np.float32) -> dict[str, np.ndarray]:
    """Return tensors with one number of one of them changed, or all numbers of a short one."""
    array = tensors[name].copy()
    with np.errstate(all="ignore"):
        array.reshape(-1)[:: max(1, array.size // 3)] = value
    return tensors | {name: array}


def read(path: str, backend: str, threads: int, value: np.float32 | None) -> tuple[bytes, bytes]:
    """Return logits and state, with one form of NaN, after a few tokens.

    With a value, the state that they begin with has some of it.
    """
    model = tinyrwkv.load(path, backend=backend, threads=threads)
    state = model.new_state()
    if value is not None:
        state.data[:: max(1, state.data.size // 9)] = value
    logits, state = model.forward([5, 7, 5, 299, 0], state, logits="all")
    assert logits.shape == (5, VOCAB_SIZE)
    return tuple(np.where(np.isnan(x), F32(np.nan), x).tobytes() for x in (logits, state.data))


FORMS_OF_MODELS = [
    ("v4", "int8", "dense"),
    ("v5.2", "f16", "dense"),
    ("v6", "f32", "dense"),
    ("v6", "int8", "compressed"),
    ("v7", "int8", "predicted"),
    ("v7", "int8", "networked"),
    ("v7", "int8", "previewed"),
]


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize(("arch", "dtype", "form"), FORMS_OF_MODELS)
def test_no_number_breaks_a_backend(tmp_path, tiny, backend, kind, arch, dtype, form):
    """In a tensor of each shape and name, and in a state: the compiled kernels agree to the bit."""
    metadata, tensors = read_tensors(tiny(arch, dtype, form))
    names = {
        name.partition(".")[2].partition(".")[2] if name.startswith("blocks.") else name: name
        for name, array in tensors.items()
        if array.dtype in (np.float32, np.float16)
    }
    others = ["native"] if backends.has_native() else [backend]
    others = [] if backend == "numpy" else others
    path, value = str(tmp_path / "a.trwkv"), SPECIAL[kind]
    chosen = np.random.default_rng(len(kind)).permutation(sorted(names.values()))[:3]
    for name in chosen:
        write_tensors(path, metadata, poisoned(tensors, name, value))
        one = read(path, backend, 1, None)
        assert all(one == read(path, other, 3, None) for other in others), name
    one = read(tiny(arch, dtype, form), backend, 1, value)
    assert all(one == read(tiny(arch, dtype, form), other, 3, value) for other in others)
