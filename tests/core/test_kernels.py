"""The compiled kernels: each function and each operation against NumPy.

With numbers of every length, so that no vector of a processor fits, and split between threads.
"""

from __future__ import annotations

import ast
import copy
import ctypes
import pathlib
import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from converters.techniques.pack_codes import pack_codes
from tests.helpers.int4_rows import LARGEST_ACTIVATION, exact_dot, random_rows
from tinyrwkv.file import int4
from tinyrwkv.file.quant import quantize_rows
from tinyrwkv.file.row_table import with_scales, without_scales
from tinyrwkv.kernels import abi as op
from tinyrwkv.kernels.abi import FIELDS, MAX_TOKENS, NONE
from tinyrwkv.program.builder import qmax
from tinyrwkv.versions import reference
from tinyrwkv.versions.forms import code_qmax

F32 = np.float32


# Functions that Numba alone shows, each in a wrapper over arrays.


@pytest.fixture(scope="module")
def functions():
    numba = pytest.importorskip("numba", reason="numba is not installed")
    from tinyrwkv.kernels import common, scalars, simd

    njit = numba.njit(error_model="numpy")

    @njit
    def exp(x, out):
        for i in range(len(x)):
            out[i] = scalars.exp(x[i])

    @njit
    def sigmoid(x, out):
        for i in range(len(x)):
            out[i] = scalars.sigmoid(x[i])

    @njit
    def half(bits, out):
        for i in range(len(bits)):
            out[i] = simd.half(bits[i])

    @njit
    def share(a, units, unit):
        return common.share(a, units, unit)

    def dots(name):
        intrinsic = getattr(simd, name)

        @njit
        def call(w, w_stride, x, x_stride, n, out, out_stride):
            intrinsic(w, w_stride, x, x_stride, np.int32(n), out, out_stride)

        return call

    names = [name for name in dir(simd) if name.startswith("dots_")]
    return {"exp": exp, "sigmoid": sigmoid, "half": half, "share": share} | {
        name: dots(name) for name in names
    }


def ulps(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return how far float32 numbers are from exact float64 ones, in units of the last place."""
    return np.abs(found.astype(np.float64) - expected) / np.spacing(expected.astype(F32)).astype(
        np.float64
    )


def apply(function, x: np.ndarray, dtype=F32) -> np.ndarray:
    out = np.empty(x.shape, dtype)
    function(x, out)
    return out


def test_exp_is_good_to_two_units_in_the_last_place(functions):
    x = np.concatenate(
        [np.linspace(-86.5, 88, 400_001), np.linspace(-1, 1, 100_001), 2.0 ** np.arange(-149, 6)]
    ).astype(F32)
    found = apply(functions["exp"], x)
    assert ulps(found, np.exp(x.astype(np.float64))).max() <= 2
    assert apply(functions["exp"], np.array([0.0, -0.0], F32)).tolist() == [1, 1]
    ordered = np.linspace(-86.5, 88, 10_001).astype(F32)
    assert (np.diff(apply(functions["exp"], ordered)) >= 0).all()


def test_exp_saturates(functions):
    x = np.array([88, 89, 1000, 3e38, np.inf, -87, -88, -1000, -3e38, -np.inf], F32)
    found = apply(functions["exp"], x)
    assert (
        np.isfinite(found).all() and (found[:5] == found[0]).all() and (found[5:] == found[5]).all()
    )
    assert found[0] > 1e38 and 0 < found[5] < 2e-38


def test_what_is_no_number_stays_so(functions):
    x = np.array([np.nan, -np.nan, 1], F32)
    for name in ("exp", "sigmoid"):
        assert np.isnan(apply(functions[name], x)).tolist() == [True, True, False]


def test_sigmoid(functions):
    x = np.linspace(-80, 80, 200_001).astype(F32)
    found, expected = apply(functions["sigmoid"], x), 1 / (1 + np.exp(-x.astype(np.float64)))
    assert ulps(found, expected).max() <= 4
    assert (found >= 0).all() and (found <= 1).all()
    assert apply(functions["sigmoid"], np.array([-np.inf, np.inf, 0], F32)).tolist()[1:] == [1, 0.5]


def every_half() -> np.ndarray:
    """Return the bits of all finite float16 numbers."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    return bits[np.isfinite(bits.view(np.float16))]


def test_every_float16_is_widened_without_loss(functions):
    bits = every_half()
    assert len(bits) == 2 * 31 * 1024
    found = apply(functions["half"], bits)
    assert found.tobytes() == bits.view(np.float16).astype(F32).tobytes()


@given(st.integers(0, 1 << 22), st.integers(1, 64), st.sampled_from([1, 8, 16, 64]))
@settings(max_examples=200)
def test_shares_are_a_partition(functions, units, threads, unit):
    units //= unit
    at, sizes = 0, []
    for i in range(threads):
        arguments = np.zeros(op.ARGUMENTS, np.int64)
        arguments[op.BEGIN] = op.WORK * i // threads
        arguments[op.END] = op.WORK * (i + 1) // threads
        first, last = functions["share"](arguments, units, unit)
        assert first == at and last >= first and first % unit == last % unit == 0
        sizes.append((last - first) // unit)
        at = last
    assert at == units * unit
    assert (
        max(sizes) - min(sizes) <= 2 + units // 30_000
    )  # 65536 need not be a multiple of the threads


# Dot products.

KINDS = {"i8": (np.int8, np.int16), "f32": (F32, F32), "f16": (np.float16, F32)}


# Rows of weights, tokens: what each form multiplies at once.
FORMS = {
    "dots_i8": (1, 1),
    "dots_i8_four": (4, 1),
    "dots_f32": (1, 1),
    "dots_f32_block": (1, 4),
    "dots_f16": (1, 1),
    "dots_f16_block": (1, 4),
}


def test_every_form_of_dot_product_is_tested(functions):
    assert sorted(FORMS) == sorted(name for name in functions if name.startswith("dots_"))


def dots(function, w: np.ndarray, x: np.ndarray, pad: int = 0) -> np.ndarray:
    """Return ``x @ w.T`` (tokens, rows) by a form of dot product.

    Rows lie `pad` elements apart, with guards between them.
    """
    rows, n = w.shape
    tokens = len(x)
    wide_w, wide_x = (np.full((len(m), n + pad), 77, m.dtype) for m in (w, x))
    wide_w[:, :n], wide_x[:, :n] = w, x
    out = np.full((tokens, rows + 3), 12345, np.int32 if w.dtype == np.int8 else F32)
    address = [m.ctypes.data for m in (wide_w, wide_x, out)]
    strides = [m.strides[0] for m in (wide_w, wide_x, out)]
    function(
        address[0],
        strides[0],
        address[1],
        strides[1],
        n,
        address[2],
        strides[2] if tokens > 1 else 4,
    )
    assert (out[:, rows:] == 12345).all(), "wrote past its place"
    return out[:, :rows]


@pytest.mark.parametrize("name", [name for name in FORMS if "i8" in name])
def test_integer_dots_are_exact_with_every_tail(functions, name):
    rng, (rows, tokens) = np.random.default_rng(0), FORMS[name]
    for n in range(1, 201):
        w = rng.integers(-127, 128, (rows, n)).astype(np.int8)
        x = rng.integers(-qmax(n), qmax(n) + 1, (tokens, n)).astype(np.int16)
        expected = x.astype(np.int64) @ w.astype(np.int64).T
        assert np.abs(expected).max() < 2**31
        assert (dots(functions[name], w, x, pad=n % 5) == expected).all(), n


@pytest.mark.parametrize("name", [name for name in FORMS if "i8" in name])
@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 768, 2688, 65536, 1 << 20])
def test_the_largest_sums_fit(functions, name, n):
    rows, tokens = FORMS[name]
    for sign in (1, -1):
        w = np.full((rows, n), 127 * sign, np.int8)
        x = np.full((tokens, n), qmax(n), np.int16)
        expected = 127 * sign * qmax(n) * n
        assert abs(expected) < 2**31
        assert (dots(functions[name], w, x) == expected).all()
        x[:, ::2] *= -1
        assert (dots(functions[name], w, x) == (x.astype(np.int64) @ w.astype(np.int64).T)).all()


@given(st.data())
@settings(max_examples=100)
def test_integer_dots_of_any_numbers(functions, data):
    name = data.draw(st.sampled_from([name for name in FORMS if "i8" in name]))
    (rows, tokens), n = FORMS[name], data.draw(st.integers(1, 130))
    w = data.draw(arrays(np.int8, (rows, n)))  # -128 too, which a hostile file may hold
    x = data.draw(arrays(np.int16, (tokens, n), elements=st.integers(-32767, 32767)))
    expected = (
        x.astype(np.int64) @ w.astype(np.int64).T + 2**31
    ) % 2**32 - 2**31  # at worst it wraps around
    assert (dots(functions[name], w, x) == expected).all()


@pytest.mark.parametrize("name", [name for name in FORMS if "i8" not in name])
def test_float_dots_with_every_tail(functions, name):
    rng, (rows, tokens) = np.random.default_rng(1), FORMS[name]
    weight = KINDS[name.split("_")[1]][0]
    for n in range(1, 201):
        w = rng.standard_normal((rows, n)).astype(weight)
        x = rng.standard_normal((tokens, n)).astype(F32)
        expected = x.astype(np.float64) @ w.astype(np.float64).T
        allowed = 1e-6 * (np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T)
        assert (np.abs(dots(functions[name], w, x, pad=n % 5) - expected) <= allowed).all(), n


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_float_sums_have_one_order_in_every_form(functions, kind):
    """16 partial sums, a tree, then the rest: chunks of tokens give the bits of single ones."""
    rng = np.random.default_rng(2)
    for n in (*range(1, 70), 768):
        w, x = (
            rng.standard_normal((2, n)).astype(KINDS[kind][0]),
            rng.standard_normal((4, n)).astype(F32),
        )
        rows, tokens = FORMS[f"dots_{kind}_block"]
        block = dots(functions[f"dots_{kind}_block"], w[:rows], x[:tokens])
        alone = np.concatenate(
            [dots(functions[f"dots_{kind}"], w[:rows], x[t : t + 1]) for t in range(tokens)]
        )
        assert block.tobytes() == alone.tobytes()
        wide, whole = w[:1].astype(F32), n - n % 16
        sums = np.zeros(16, F32)
        for j in range(0, whole, 16):
            sums = sums + wide[0, j : j + 16] * x[0, j : j + 16]
        while len(sums) > 1:
            sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
        total = sums[0]
        for j in range(whole, n):
            total = total + wide[0, j] * x[0, j]
        assert alone[0, 0] == total


def test_float16_of_every_value_in_dot_products(functions):
    bits = every_half()
    one = np.ones((1, 1), F32)
    for chosen in (bits[::97], bits[-3:], bits[:3]):
        for value in chosen.view(np.float16):
            assert dots(functions["dots_f16"], np.array([[value]]), one)[0, 0] == F32(value)
    # In whole vectors: one value at each place in turn, zeros elsewhere.
    for start in range(0, len(bits) - 16, 997):
        w, x = bits[start : start + 16].view(np.float16)[None], np.zeros((1, 16), F32)
        for j in range(16):
            x[:] = 0
            x[0, j] = 1
            assert dots(functions["dots_f16"], w, x)[0, 0] == F32(w[0, j])


# Operations, through the one function that every backend of compiled kernels calls.


@pytest.fixture(scope="module")
def run(compiled):
    if compiled == "native":
        from tinyrwkv.native.load import native_run

        return native_run()
    from tinyrwkv.engine.numba_backend import compiled_run

    return compiled_run()


class Bench:
    """Memory for operations: weights, workspaces, states; and their execution by threads."""

    def __init__(self, run, tokens: int = 1, eps: float = 64e-5) -> None:
        self.run, self.tokens = run, tokens
        self.weights, self.shared, self.private = (np.zeros(1 << 20, np.uint8) for _ in range(3))
        self.shared[op.EPSILON : op.EPSILON + 4].view(F32)[0] = eps
        self.shared[op.ONES : 16384].view(F32)[:] = 1  # the ones that norms multiply with
        fixed = op.fixed_private_bytes(head_size=128)
        self.used = {"weights": 64, "shared": 16384, "private": fixed}
        self.old, self.new = np.zeros(1 << 16, F32), np.zeros(1 << 16, F32)
        self.out, self.ids = np.zeros(1 << 16, F32), np.zeros(MAX_TOKENS, np.int32)

    def put(self, place: str, array: np.ndarray) -> int:
        """Copy an array into a memory; return its offset."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        offset = self.used[place]
        getattr(self, place)[offset : offset + len(data)] = data
        self.used[place] += -(-len(data) // 64) * 64 + 64
        return offset

    def weight(self, array: np.ndarray) -> int:
        return self.put("weights", array)

    def tokens_of(self, place: str, array: np.ndarray) -> int:
        """Copy (tokens, width) into room for as many tokens as a call can have."""
        room = np.zeros((MAX_TOKENS, *array.shape[1:]), array.dtype)
        room[: len(array)] = array
        return self.put(place, room)

    def room(self, place: str, width: int, dtype=F32) -> int:
        return self.put(place, np.full((MAX_TOKENS, width), 99, dtype))

    def get(self, place: str, offset: int, width: int, dtype=F32, planes: int = 1) -> np.ndarray:
        size = planes * MAX_TOKENS * width * np.dtype(dtype).itemsize
        array = (
            getattr(self, place)[offset : offset + size]
            .view(dtype)
            .reshape(planes, MAX_TOKENS, width)
        )
        return array[0, : self.tokens].copy() if planes == 1 else array[:, : self.tokens].copy()

    def execute(
        self, code: int, threads: int = 1, head: int = op.HEAD_OF_ALL, **fields: int
    ) -> None:
        """Run one operation, as each of the threads in turn: they share no work."""
        table, barrier = program((code, fields)), np.zeros(op.BARRIER_BYTES, np.uint8)
        for i in range(threads):
            block = self.arguments(table, barrier, head, i, threads)
            block[op.THREADS] = 1
            self.run(ctypes.addressof(block))
            self.touched = block[op.TOUCHED]

    def with_private_memory(self) -> Bench:
        """Return a bench for another thread: only the private workspace is its own."""
        other = copy.copy(self)
        other.private = self.private.copy()
        return other

    def arguments(self, table: np.ndarray, barrier: np.ndarray, head: int, i: int, threads: int):
        """Return the arguments of thread i."""
        block = (ctypes.c_int64 * op.ARGUMENTS)()
        arrays = {
            op.WEIGHTS: self.weights,
            op.PROGRAM: table,
            op.IDS: self.ids,
            op.OLD: self.old,
            op.NEW: self.new,
            op.SHARED: self.shared,
            op.PRIVATE: self.private,
            op.OUT: self.out,
            op.BARRIER: barrier,
        }
        for slot, array in arrays.items():
            block[slot] = array.ctypes.data
        block[op.FIRST], block[op.LAST] = 0, len(table)
        block[op.TOKENS], block[op.HEAD] = self.tokens, head
        block[op.BEGIN], block[op.END] = op.WORK * i // threads, op.WORK * (i + 1) // threads
        block[op.THREADS] = threads
        return block


def execute_together(benches: list[Bench], table: np.ndarray) -> np.ndarray:
    """Run a program as one thread for each bench, all at the same time; return the barrier."""
    barrier, threads = np.zeros(op.BARRIER_BYTES, np.uint8), len(benches)
    blocks = [
        bench.arguments(table, barrier, op.HEAD_OF_ALL, i, threads)
        for i, bench in enumerate(benches)
    ]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda block: benches[0].run(ctypes.addressof(block)), blocks))
    return barrier


def program(*operations: tuple[int, dict[str, int]]) -> np.ndarray:
    """Return the table of operations, each an opcode and all its fields by name."""
    table = np.zeros((len(operations), op.WIDTH), np.int64)
    for row, (code, fields) in zip(table, operations, strict=True):
        assert sorted(fields) == sorted(FIELDS[code])
        row[0] = code
        row[1 : 1 + len(fields)] = [fields[name] for name in FIELDS[code]]
    return table


counts = st.integers(1, MAX_TOKENS)
threads_of = st.sampled_from([1, 2, 3, 7])
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def normal(rng, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(F32)


@given(seeds, counts, st.integers(1, 130), threads_of, st.sampled_from(["f32", "f16", "i8"]))
@settings(max_examples=40)
def test_embed(run, rng, tokens, width, threads, kind):
    bench = Bench(run, tokens)
    bench.ids[:] = rng.integers(0, 9, MAX_TOKENS)
    scale = normal(rng, 9)
    if kind == "i8":
        w = rng.integers(-127, 128, (9, width)).astype(np.int8)
        expected = w.astype(F32) * scale[:, None]
    else:
        w = normal(rng, 9, width).astype(KINDS[kind][0])
        expected = w.astype(F32)
    weight, scales, dst = bench.weight(w), bench.weight(scale), bench.room("shared", width)
    bench.execute(
        op.EMBED, threads, weight=weight, scale=scales, kind=op.KINDS[kind], dst=dst, width=width
    )
    assert bench.get("shared", dst, width).tobytes() == expected[bench.ids[:tokens]].tobytes()


@given(
    seeds,
    counts,
    st.integers(1, 40),
    st.integers(1, 22).map(lambda quarter: 4 * quarter),
    st.sampled_from(["f32", "f16", "i8"]),
    threads_of,
)
@settings(max_examples=40)
def test_deep(run, rng, tokens, rows, cols, kind, threads):
    """A matrix of each token, in the second of three layers."""
    bench = Bench(run, tokens)
    bench.ids[:] = rng.integers(0, 9, MAX_TOKENS)
    matrices = normal(rng, 9 * 3, rows * cols)
    if kind == "i8":
        table = with_scales(*quantize_rows(matrices))
        matrices = without_scales(table)
    else:
        table = matrices.astype(KINDS[kind][0])
        matrices = table.astype(F32)
    own = matrices.reshape(9, 3, rows, cols)[bench.ids[:tokens], 1]  # (T, rows, cols)
    x = normal(rng, tokens, rows)
    bytes_of_one = table[0].nbytes
    dst = bench.room("shared", cols)
    bench.execute(
        op.DEEP,
        threads,
        weight=bench.weight(table) + bytes_of_one,
        kind=op.INT8 if kind == "i8" else op.KINDS[kind],
        row_bytes=3 * bytes_of_one,
        src=bench.tokens_of("shared", x),
        stride=rows,
        rows=rows,
        cols=cols,
        dst=dst,
    )
    expected = np.einsum("tr,trc->tc", x, own)
    np.testing.assert_allclose(bench.get("shared", dst, cols), expected, rtol=1e-5, atol=2e-5)


@given(
    seeds,
    counts,
    st.integers(1, 200),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.sampled_from([0.0, 5.0]),
)
@settings(max_examples=40)
def test_norm(run, rng, tokens, width, scale, mean):
    bench = Bench(run, tokens)
    x, weight, bias = (
        normal(rng, tokens, width, scale=scale) + F32(mean),
        normal(rng, width),
        normal(rng, width),
    )
    src, dst = bench.tokens_of("shared", x), bench.room("private", width)
    bench.execute(
        op.NORM, src=src, weight=bench.weight(weight), bias=bench.weight(bias), dst=dst, width=width
    )
    wide = x.astype(np.float64)
    expected = reference.layer_norm(wide, weight, bias)
    # What rounding of the mean costs where the numbers are almost equal.
    allowed = 2e-5 + 1e-6 * np.abs(wide).max(axis=1, keepdims=True) / np.sqrt(
        wide.var(axis=1, keepdims=True) + 1e-5
    )
    assert (
        np.abs(bench.get("private", dst, width) - expected) <= allowed * (np.abs(weight) + 1)
    ).all()
    assert bench.get("shared", src, width).tobytes() == x.tobytes()


def test_norm_of_equal_numbers_is_the_bias(run):
    for width in (1, 7, 16, 768):
        bench = Bench(run)
        bias = normal(np.random.default_rng(0), width)
        src, dst = (
            bench.tokens_of("shared", np.full((1, width), 0.5, F32)),
            bench.room("private", width),
        )
        ones = bench.weight(np.ones(width, F32))
        bench.execute(op.NORM, src=src, weight=ones, bias=bench.weight(bias), dst=dst, width=width)
        np.testing.assert_allclose(bench.get("private", dst, width)[0], bias, atol=1e-4)


@given(seeds, counts, st.integers(1, 70), st.integers(1, 6), st.booleans(), threads_of)
@settings(max_examples=40)
def test_shift(run, rng, tokens, width, count, with_delta, threads):
    bench = Bench(run, tokens)
    xn, mu, delta = (
        normal(rng, tokens, width),
        normal(rng, count, width),
        normal(rng, count, MAX_TOKENS, width),
    )
    bench.old[5 : 5 + width] = normal(rng, width)
    src, dst = (
        bench.tokens_of("private", xn),
        bench.put("private", np.zeros((count, MAX_TOKENS, width), F32)),
    )
    place = bench.put("shared", delta) if with_delta else NONE
    fields = {"mu": bench.weight(mu), "count": count, "delta": place, "dst": dst, "width": width}
    bench.execute(op.SHIFT, threads, src=src, state=20, **fields)
    prev = np.concatenate([bench.old[None, 5 : 5 + width], xn[:-1]])
    m = mu[:, None] + delta[:, :tokens] if with_delta else mu[:, None]
    found = bench.get("private", dst, width, planes=count).reshape(count, tokens, width)
    assert found.tobytes() == (xn + (prev - xn) * m).astype(F32).tobytes()
    assert bench.new[5 : 5 + width].tobytes() == xn[-1].tobytes()
    assert not bench.new[:5].any() and not bench.new[5 + width :].any()


@given(
    seeds,
    counts,
    st.integers(1, 130),
    st.booleans(),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e6, 1e30]),
)
@settings(max_examples=60)
def test_quantize(run, rng, tokens, width, shared, scale):
    bench, largest = Bench(run, tokens), qmax(width)
    x = normal(rng, tokens, width, scale=scale)
    x[rng.random((tokens, width)) < 0.2] = 0
    x[rng.integers(tokens)] = 0  # a token of zeros
    src = bench.tokens_of("shared" if shared else "private", x)
    dst, scales = bench.room("private", width, np.int16), bench.room("private", 1)
    fields = {
        "stride": width,
        "width": width,
        "dst": dst,
        "dst_scale": scales,
        "dst_sums": NONE,
        "qmax": largest,
    }
    bench.execute(op.QUANTIZE, shared=int(shared), src=src, **fields)
    q = bench.get("private", dst, width, np.int16)
    s = bench.get("private", scales, 1)
    top = np.abs(x).max(axis=1, keepdims=True)
    assert s.tobytes() == (top / F32(largest)).tobytes()
    assert np.abs(q.astype(int)).max() <= largest
    assert (np.abs(q).max(axis=1)[top[:, 0] > 0] == largest).all() and not q[top[:, 0] == 0].any()
    wide, step = x.astype(np.float64), top.astype(np.float64) / largest
    assert (np.abs(q * step - wide) <= 0.501 * step + 3e-7 * np.abs(wide)).all()


@given(
    seeds,
    st.integers(1, 5),
    st.integers(1, 30) | st.just(70),
    st.integers(1, 9),
    st.sampled_from([None, (15, 0), (0, 15), (15, 15)]),
    threads_of,
)
@settings(max_examples=60)
def test_matmul_of_int4_bit_for_bit(run, rng, tokens, rows, groups, extreme, threads):
    check_matmul_of_int4(run, rng, tokens, rows, groups, extreme, threads)


MANY_ROWS = 4 * 1024 + 5
"""So many have no room in the workspace for their products with one token, in four parts."""


@pytest.mark.parametrize("tokens", [1, 2, 3, 9])
def test_int4_rows_of_several_blocks(run, tokens):
    check_matmul_of_int4(run, np.random.default_rng(0), tokens, MANY_ROWS, 1, None, 1)


def check_matmul_of_int4(run, rng, tokens, rows, groups, extreme, threads):
    width = 64 * groups
    bench = Bench(run, tokens)
    x = normal(rng, tokens, width)
    parts = random_rows(rng, rows, groups)
    if extreme:  # the largest sums that there can be, of int16 or of bytes
        top = rng.choice([qmax(width), (qmax(width) >> 8 << 8) - 128])
        x = np.where(rng.random((tokens, 1)) < 0.5, F32(1), F32(-1)) * np.full_like(x, top)
        x[:, rng.integers(width)] = qmax(width)
        parts = np.full_like(parts[0], extreme[0]), parts[1], np.full_like(parts[2], extreme[1])
    src = bench.tokens_of("shared", x)
    # The bytes of activations come after them.
    dst = bench.room("private", 2 * width, np.int16)
    scales, sums = bench.room("private", 1), bench.room("private", groups, np.int32)
    place = {"shared": 1, "src": src, "stride": width, "width": width}
    quantised = {"dst": dst, "dst_scale": scales, "dst_sums": sums, "qmax": qmax(width)}
    bench.execute(op.QUANTIZE, **place, **quantised)
    q = bench.get("private", dst, width, np.int16)
    w = int4.pack(*parts)
    out = bench.room("shared", rows)
    fields = {"weight": bench.weight(w), "scale": NONE, "kind": op.INT4, "cols": width}
    fields |= {"units": rows, "unit": 1, "shared": 0, "src": dst, "stride": width}
    fields |= {"src_scale": scales, "src_sums": sums, "dst": out, "dst_stride": rows}
    fields |= {"activation": op.IDENTITY, "bias": NONE, "mode": op.STORE, "diag": NONE}
    fields |= {"gate": 0, "diag_src": 0}
    bench.execute(op.MATMUL, threads, **fields)
    expected = exact_dot(w, q) * bench.get("private", scales, 1)
    assert bench.get("shared", out, rows).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [16, 32, 64])
@given(rng=seeds, spans=st.integers(1, 4))
@settings(max_examples=10)
def test_activations_are_256_high_bytes_and_the_low_ones(size, rng, spans):
    numba = pytest.importorskip("numba", reason="numba is not installed")
    from tinyrwkv.kernels import byte_products, simd

    before, simd.BYTES = simd.BYTES, size
    try:
        split = numba.njit(byte_products.split_bytes.py_func)
        x = rng.integers(-LARGEST_ACTIVATION, LARGEST_ACTIVATION + 1, 256 * spans).astype(np.int16)
        x[:4] = -LARGEST_ACTIVATION, LARGEST_ACTIVATION, 127, 128
        out = np.zeros((len(x) // (2 * size), 2, 2, size), np.int8)
        split(x.ctypes.data, np.int32(len(x)), out.ctypes.data)
    finally:
        simd.BYTES = before
    # The bytes of a row: their low halves have 32 columns, their high halves the next 32.
    halves = x.reshape(-1, 2, 32).swapaxes(0, 1).reshape(2, -1)
    joined = out[:, 0].astype(int) + 256 * out[:, 1].astype(int)
    assert (joined.swapaxes(0, 1).reshape(2, -1) == halves).all()


def test_quantize_rounds_half_to_even(run):
    bench = Bench(run)
    x = np.array([[100, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.4999, -100]], F32)
    src, dst, scales = (
        bench.tokens_of("shared", x),
        bench.room("private", 9, np.int16),
        bench.room("private", 1),
    )
    bench.execute(
        op.QUANTIZE,
        shared=1,
        src=src,
        stride=9,
        width=9,
        dst=dst,
        dst_scale=scales,
        dst_sums=NONE,
        qmax=100,
    )
    assert bench.get("private", dst, 9, np.int16).tolist() == [[100, 0, 2, 2, 0, -2, -2, 3, -100]]


ACTIVATIONS = {
    op.IDENTITY: lambda y: y,
    op.SIGMOID: lambda y: 1 / (1 + np.exp(-y)),
    op.TANH: np.tanh,
    op.SILU: lambda y: y / (1 + np.exp(-y)),
    op.RELU: lambda y: np.maximum(y, 0),
    op.SQUARED_RELU: lambda y: np.maximum(y, 0) ** 2,
    op.DECAY_V6: lambda y: np.exp(-np.exp(y)),
    op.DECAY_V7: lambda y: np.exp(-np.exp(-0.5) / (1 + np.exp(-y))),
}


def matmul_inputs(bench, rng, kind, rows, cols, shared):
    """Return the product y (tokens, rows) in float64, and the fields of its matrix and input."""
    tokens = bench.tokens
    if kind == "i8":
        w = rng.integers(-127, 128, (rows, cols)).astype(np.int8)
        scale = rng.uniform(1e-3, 1e-2, rows).astype(F32)
        x = rng.integers(-qmax(cols), qmax(cols) + 1, (tokens, cols)).astype(np.int16)
        x_scale = (rng.uniform(0.5, 2, (tokens, 1)) / qmax(cols)).astype(F32)
        y = (x.astype(np.int64) @ w.astype(np.int64).T).astype(np.float64) * scale * x_scale
        src = bench.tokens_of("private", x)
        scales = {
            "src_sums": NONE,
            "src_scale": bench.tokens_of("private", x_scale),
            "scale": bench.weight(scale),
        }
    else:
        w = normal(rng, rows, cols, scale=cols**-0.5).astype(KINDS[kind][0])
        x = normal(rng, tokens, cols)
        y = x.astype(np.float64) @ w.astype(np.float64).T
        src = bench.tokens_of("shared" if shared else "private", x)
        scales = {"src_sums": NONE, "src_scale": NONE, "scale": NONE}
    fields = {"weight": bench.weight(w), "kind": op.KINDS[kind], "cols": cols}
    fields |= {"shared": int(shared), "src": src, "stride": cols, "src_sums": NONE}
    return y, fields | scales


def matmul_extras(bench, rng, extras, mode, y):
    """Return y with the bias and the diagonal that `extras` name added, and their fields."""
    fields = {"bias": NONE, "diag": NONE, "diag_src": 0}
    tokens, rows = y.shape
    if "bias" in extras:
        vector = normal(rng, rows)
        y = y + vector
        fields["bias"] = bench.weight(vector)
    if "diag" in extras and mode != op.LOGITS:
        vector, floats = normal(rng, rows), normal(rng, tokens, rows)
        y = y + vector * floats
        fields["diag"] = bench.weight(vector)
        fields["diag_src"] = bench.tokens_of("private", floats)
    return y, fields


def matmul_logits(bench, stride, rows):
    """Return a part of the head's logits, from place 3 on; what lies beside it is untouched."""
    found = bench.out[: bench.tokens * stride].reshape(bench.tokens, stride)
    assert not found[:, :3].any() and not found[:, 3 + rows :].any()
    return found[:, 3 : 3 + rows]


@given(
    seeds,
    counts,
    st.tuples(st.integers(1, 20), st.sampled_from([1, 1, 8, 16])),
    st.integers(1, 200) | st.sampled_from([256, 257, 300]),
    st.sampled_from(["f32", "f16", "i8"]),
    st.sampled_from([op.STORE, op.ADD, op.GATED_ADD, op.LOGITS, op.MULTIPLY]),
    st.sampled_from(list(ACTIVATIONS)),
    st.sets(st.sampled_from(["bias", "diag", "shared"])),
    threads_of,
)
@settings(max_examples=100)
def test_matmul(run, rng, tokens, split, cols, kind, mode, activation, extras, threads):
    bench, (units, unit) = Bench(run, tokens), split
    rows = units * unit
    shared = "shared" in extras and kind != "i8"
    y, inputs = matmul_inputs(bench, rng, kind, rows, cols, shared)
    size = np.abs(y).max()
    y, added = matmul_extras(bench, rng, extras, mode, y)
    y = ACTIVATIONS[activation](np.clip(y, -80, 80) if activation != op.IDENTITY else y)
    before, gates = normal(rng, tokens, rows), normal(rng, tokens, rows)
    dst, gate = bench.tokens_of("shared", before), bench.tokens_of("shared", gates)
    stride = rows
    if mode == op.LOGITS:  # a part of the head: rows between others
        stride, dst = rows + 7, 12
    output = {"dst": dst, "dst_stride": stride, "mode": mode, "gate": gate}
    output |= {"activation": activation, "units": units, "unit": unit}
    bench.execute(op.MATMUL, threads, **inputs, **added, **output)
    if mode == op.LOGITS:
        found = matmul_logits(bench, stride, rows)
    else:
        found = bench.get("shared", dst, rows)
    results = {op.ADD: before + y, op.GATED_ADD: before + gates * y, op.MULTIPLY: before * y}
    expected = results.get(mode, y)
    factors = np.maximum(np.abs(gates), np.abs(before)).max()
    steep = 30 if activation == op.SQUARED_RELU else 3
    np.testing.assert_allclose(
        found, expected, rtol=2e-5, atol=2e-6 * steep * (1 + size) * (1 + factors)
    )


@pytest.mark.parametrize("kind", ["f32", "f16", "i8"])
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 8, 16])
def test_rows_of_several_blocks(run, kind, tokens):
    rng, bench = np.random.default_rng(0), Bench(run, tokens)
    y, inputs = matmul_inputs(bench, rng, kind, MANY_ROWS, 33, False)
    fields = {"units": MANY_ROWS, "unit": 1, "bias": NONE, "diag": NONE, "diag_src": 0}
    fields |= {"mode": op.STORE, "gate": NONE, "activation": op.IDENTITY, "dst_stride": MANY_ROWS}
    fields |= inputs | {"dst": bench.room("shared", MANY_ROWS)}
    bench.execute(op.MATMUL, 1, **fields)
    found = bench.get("shared", fields["dst"], MANY_ROWS)
    np.testing.assert_allclose(found, y, rtol=2e-5, atol=1e-5)


@given(
    seeds,
    st.integers(2, 8),
    st.tuples(st.integers(1, 300), st.just(1)) | st.tuples(st.integers(1, 40), st.just(8)),
    st.integers(1, 200) | st.sampled_from([256, 257, 300]),
    st.sampled_from(["f32", "f16", "i8", "extremes"]),
    threads_of,
)
@settings(max_examples=60)
def test_a_chunk_is_its_tokens_one_by_one(run, rng, tokens, split, cols, kind, threads):
    units, unit = split
    rows = units * unit
    together, alone = Bench(run, tokens), Bench(run, 1)
    _, inputs = matmul_inputs(together, rng, kind.replace("extremes", "i8"), rows, cols, False)
    if kind == "extremes":  # of a hostile file: sums wrap around
        weights = together.weights[inputs["weight"] :][: rows * cols].view(np.int8)
        weights[:] = rng.choice([-128, 127], rows * cols)
        x = together.private[inputs["src"] :][: 2 * tokens * cols].view(np.int16)
        x[:] = rng.choice([-32768, -32767, 32767], tokens * cols)
    fields = {"units": units, "unit": unit, "bias": NONE, "diag": NONE, "diag_src": 0}
    fields |= {"mode": op.STORE, "gate": NONE, "activation": op.SILU, "dst_stride": rows}
    fields |= inputs | {"dst": together.room("shared", rows)}
    together.execute(op.MATMUL, threads, **fields)
    chunk = together.get("shared", fields["dst"], rows)
    alone.weights, alone.shared, alone.private = (
        together.weights,
        together.shared.copy(),
        together.private.copy(),
    )
    for t in range(tokens):
        one = dict(fields)
        one["src"] += t * cols * (4 if kind in ("f32", "f16") else 2)
        if one["src_scale"] != NONE:
            one["src_scale"] += 4 * t
        alone.execute(op.MATMUL, **one)
        assert alone.get("shared", fields["dst"], rows)[0].tobytes() == chunk[t].tobytes()


def row_places(rows: int, width: int, per_page: int) -> tuple[np.ndarray, dict[str, int]]:
    """Return where rows of so many bytes lie in a region of pages, and the fields that say so."""
    f = np.arange(rows)
    if per_page == 0:
        return f * width, {"row_bytes": width, "per_page": 0, "reciprocal": 0}
    fields = {"row_bytes": width, "per_page": per_page, "reciprocal": 2**32 // per_page + 1}
    return f // per_page * op.PAGE + f % per_page * width, fields


@given(
    seeds,
    counts,
    st.integers(1, 60),
    st.sampled_from([(1, 8), (3, 8), (1, 64), (2, 64)]),
    st.booleans(),
    threads_of,
    st.booleans(),
)
@settings(max_examples=60)
def test_sparse(run, rng, tokens, neurons, split, gated, threads, paged):
    bench, (units, unit) = Bench(run, tokens), split
    C = units * unit
    at, places = row_places(neurons, C, op.PAGE // C if paged else 0)
    region, w = (
        np.full(int(at[-1]) + C, 55, np.int8),
        rng.integers(-127, 128, (neurons, C)).astype(np.int8),
    )
    for row, place in zip(w, at, strict=True):
        region[place : place + C] = row
    q = rng.integers(-qmax(neurons), qmax(neurons) + 1, (tokens, neurons)).astype(np.int16)
    q[rng.random(q.shape) < 0.7] = 0
    scale, x_scale = (
        rng.uniform(1e-3, 1e-2, C).astype(F32),
        (rng.uniform(0.5, 2, (tokens, 1)) / qmax(neurons)).astype(F32),
    )
    x, gates = normal(rng, tokens, C), normal(rng, tokens, C)
    dst, gate = bench.tokens_of("shared", x), bench.tokens_of("shared", gates)
    room = bench.put("private", np.zeros(op.list_bytes(neurons, C), np.uint8))
    fields = {
        "weight": bench.weight(region),
        "scale": bench.weight(scale),
        "kind": op.INT8,
        "units": units,
        "unit": unit,
    }
    fields |= {
        "cols": neurons,
        "shared": 0,
        "src": bench.tokens_of("private", q),
        "stride": neurons,
    }
    fields |= {
        "src_sums": NONE,
        "src_scale": bench.tokens_of("private", x_scale),
        "dst": dst,
        "dst_stride": C,
        "activation": op.IDENTITY,
    }
    fields |= {
        "bias": NONE,
        "mode": op.GATED_ADD if gated else op.ADD,
        "gate": gate,
        "diag": NONE,
        "diag_src": 0,
    }
    bench.execute(op.SPARSE, threads, **fields, **places, list=room)
    y = (q.astype(np.int64) @ w.astype(np.int64)) * (scale.astype(np.float64) * x_scale)
    expected = x + (gates * y if gated else y)
    np.testing.assert_allclose(bench.get("shared", dst, C), expected, rtol=1e-5, atol=1e-5)
    if threads == 1:
        assert bench.touched == np.count_nonzero(q) * C


@given(
    seeds,
    counts,
    st.integers(1, 150),
    st.sampled_from([64, 128, 192]),
    threads_of,
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60)
def test_predict(run, rng, tokens, neurons, C, threads, paged, networked):
    bench = Bench(run, tokens)
    at, places = row_places(neurons, 2 * C, op.PAGE // (2 * C) if paged else 0)
    region, w = (
        np.full(int(at[-1]) + 2 * C, 55, np.int8),
        rng.integers(-127, 128, (neurons, C)).astype(np.int8),
    )
    for row, place in zip(w, at, strict=True):
        region[place : place + C] = row
    q = rng.integers(-qmax(C), qmax(C) + 1, (tokens, C)).astype(np.int16)
    x_scale = (rng.uniform(0.5, 2, (tokens, 1)) / qmax(C)).astype(F32)
    scale, positive = rng.uniform(1e-3, 1e-2, neurons).astype(F32), rng.random((neurons, C)) < 0.5
    # A neuron is chosen where its score exceeds its threshold: the signs times the upper bytes of
    # the activations.
    upper = (q.astype(np.int64) + 128) >> 8
    score = (upper @ np.where(positive, 1, -1).T).astype(F32) * (F32(256) * x_scale)  # (T, F)
    threshold = np.quantile(score, 0.6, axis=0).astype(F32)
    dst = bench.room("shared", neurons)
    sums = bench.put("private", np.zeros(C // 8 * op.TABLE_BYTES, np.uint8))
    fields = {
        "weight": bench.weight(region),
        "scale": bench.weight(scale),
        "kind": op.INT8,
        "units": neurons,
        "unit": 1,
    }
    fields |= {"cols": C, "shared": 0, "src": bench.tokens_of("private", q), "stride": C}
    fields |= {
        "src_sums": NONE,
        "src_scale": bench.tokens_of("private", x_scale),
        "dst": dst,
        "dst_stride": neurons,
    }
    fields |= {
        "activation": op.SQUARED_RELU,
        "bias": NONE,
        "mode": op.STORE,
        "gate": NONE,
        "diag": NONE,
        "diag_src": 0,
    }
    signs = bench.weight(pack_codes(positive.astype(np.uint8), 1))
    fields |= {"signs": signs, "threshold": bench.weight(threshold), "sums": sums}
    fields |= {"network": NONE, "network_threshold": NONE}
    chosen = score > threshold
    if networked:
        second, second_threshold = normal(rng, tokens, neurons), normal(rng, neurons)
        fields |= {
            "network": bench.tokens_of("shared", second),
            "network_threshold": bench.weight(second_threshold),
        }
        chosen |= second > second_threshold
    bench.execute(op.PREDICT, threads, **fields, **places)
    y = (q.astype(np.int64) @ w.astype(np.int64).T) * (scale.astype(np.float64) * x_scale)
    expected = np.where(chosen, np.maximum(y, 0) ** 2, 0)
    np.testing.assert_allclose(bench.get("shared", dst, neurons), expected, rtol=2e-5, atol=1e-6)
    if threads == 1:
        assert bench.touched == np.count_nonzero(chosen) * C


@given(seeds, counts, st.integers(1, 70), threads_of)
@settings(max_examples=40)
def test_wkv4(run, rng, tokens, width, threads):
    bench = Bench(run, tokens)
    r, k, v = (normal(rng, tokens, width, scale=scale) for scale in (1, 3, 1))
    decay, first = -np.exp(normal(rng, width)), normal(rng, width)
    memory = np.stack(
        [normal(rng, width), rng.uniform(0.1, 3, width).astype(F32), normal(rng, width)]
    )
    if rng.random() < 0.3:
        memory[:] = 0
        memory[2] = -1e30
    bench.old[7 : 7 + 3 * width] = memory.reshape(-1)
    fields = {
        name: bench.tokens_of("shared", array) for name, array in (("r", r), ("k", k), ("v", v))
    }
    dst = bench.room("shared", width)
    vectors = {"decay": bench.weight(decay), "first": bench.weight(first)}
    bench.execute(op.WKV4, threads, **fields, **vectors, state=28, dst=dst, width=width)
    expected = []
    for t in range(tokens):
        y, memory = by_the_reference(memory, r[t], k[t], v[t], decay, first)
        expected.append(y)
    np.testing.assert_allclose(bench.get("shared", dst, width), expected, rtol=3e-5, atol=3e-5)
    np.testing.assert_allclose(
        bench.new[7 : 7 + 3 * width], memory.reshape(-1), rtol=3e-5, atol=3e-5
    )


def by_the_reference(memory, r, k, v, decay, first):
    """Return y and the state of time_mix_v4.

    Its matrices take r, k and v out of its input. The sigmoid of r is undone.
    """
    width = len(r)
    att = {"token_shift": np.zeros((3, 3 * width), F32), "time_decay": decay, "time_first": first}
    for i, name in enumerate(("receptance", "key", "value")):
        att[f"{name}.weight"] = np.eye(width, 3 * width, i * width, dtype=F32)
    att["output.weight"] = np.eye(width, dtype=F32)
    x = np.concatenate([r, k, v])
    y, memory = reference.time_mix_v4(att, x, x, memory)
    return y / reference.sigmoid(r) * r, memory


HEADS = st.tuples(st.integers(1, 3), st.sampled_from([8, 16, 64]))


@given(seeds, counts, HEADS, threads_of, st.booleans(), st.booleans())
@settings(max_examples=60)
def test_wkv5(run, rng, tokens, heads, threads, gated, per_token):
    (H, N), bench = heads, Bench(run, tokens)
    C = H * N
    r, k, v, g = (normal(rng, tokens, C) for _ in range(4))
    w, u = rng.uniform(0.3, 1, (tokens if per_token else 1, C)).astype(F32), normal(rng, C)
    weight, bias, S = normal(rng, C), normal(rng, C), normal(rng, H, N, N)
    bench.old[3 : 3 + S.size] = S.reshape(-1)
    fields = {
        name: bench.tokens_of("shared", array)
        for name, array in (("r", r), ("k", k), ("v", v), ("g", g))
    }
    if not gated:
        fields["g"] = NONE
    fields["decay"] = bench.tokens_of("shared", w) if per_token else bench.weight(w)
    fields |= {"per_token": int(per_token), "bonus": bench.weight(u), "heads": H, "size": N}
    dst = bench.room("shared", C)
    bench.execute(
        op.WKV5,
        threads,
        **fields,
        ln_weight=bench.weight(weight),
        ln_bias=bench.weight(bias),
        state=12,
        dst=dst,
    )
    found = bench.get("shared", dst, C)
    for t in range(tokens):
        y, S = reference.read_and_write(S, r[t], k[t], v[t], w[t if per_token else 0], u)
        y = reference.group_norm(y, weight, bias, 64e-5)
        np.testing.assert_allclose(found[t], y * g[t] if gated else y, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(bench.new[3 : 3 + S.size], S.reshape(-1), rtol=1e-5, atol=1e-5)
    assert not bench.new[:3].any() and not bench.new[3 + S.size :].any()


@given(seeds, counts, HEADS, threads_of, st.booleans())
@settings(max_examples=60)
def test_wkv7(run, rng, tokens, heads, threads, gated):
    (H, N), bench = heads, Bench(run, tokens)
    C = H * N
    r, k, v, g, v_first = (normal(rng, tokens, C) for _ in range(5))
    w, a, v_gate = (rng.uniform(low, 1, (tokens, C)).astype(F32) for low in (0.55, 0, 0))
    k_k, k_a, r_k, weight, bias = (normal(rng, C) for _ in range(5))
    S = normal(rng, H, N, N)
    bench.old[3 : 3 + S.size] = S.reshape(-1)
    named = {"r": r, "k": k, "v": v, "w": w, "a": a, "g": g, "v_gate": v_gate, "v_first": v_first}
    fields = {name: bench.tokens_of("shared", array) for name, array in named.items()}
    if not gated:
        fields["v_gate"] = NONE
    vectors = {"k_k": k_k, "k_a": k_a, "r_k": r_k, "ln_weight": weight, "ln_bias": bias}
    fields |= {name: bench.weight(array) for name, array in vectors.items()}
    dst = bench.room("shared", C)
    bench.execute(op.WKV7, threads, **fields, state=12, dst=dst, heads=H, size=N)
    found = bench.get("shared", dst, C)
    for t in range(tokens):
        value = v[t] + (v_first[t] - v[t]) * v_gate[t] if gated else v[t]
        kk = (k[t] * k_k).reshape(H, N)
        kk = kk / np.maximum(np.sqrt((kk * kk).sum(axis=1, keepdims=True)), 1e-12)
        key, value, rate = (
            (k[t] * (1 + (a[t] - 1) * k_a)).reshape(H, N),
            value.reshape(H, N),
            a[t].reshape(H, N),
        )
        held = np.einsum("hi,hij->hj", kk, S)
        S = (
            w[t].reshape(H, N)[:, :, None] * S
            - (rate * kk)[:, :, None] * held[:, None]
            + key[:, :, None] * value[:, None]
        )
        y = reference.group_norm(
            np.einsum("hi,hij->hj", r[t].reshape(H, N), S), weight, bias, 64e-5
        )
        bonus = (r[t].reshape(H, N) * key * r_k.reshape(H, N)).sum(axis=1, keepdims=True) * value
        np.testing.assert_allclose(found[t], (y + bonus.reshape(-1)) * g[t], rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(bench.new[3 : 3 + S.size], S.reshape(-1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("code", [op.WKV5, op.WKV7])
@pytest.mark.parametrize("heads", [(7, 64), (8, 64), (3, 128)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_state_written_past_the_caches_is_the_same(run, code, heads, threads):
    (H, N), results = heads, []
    for state in (0, 4):  # on a multiple of 16 bytes, where a large one goes past them, and off it
        rng, bench = np.random.default_rng(5), Bench(run)
        assert bench.new.ctypes.data % 16 == 0
        names = FIELDS[code][: FIELDS[code].index("ln_weight") + 2]
        fields = {
            name: bench.tokens_of("shared", rng.uniform(0.3, 1, (1, H * N)).astype(F32))
            for name in names
        }
        weights = {"bonus", "decay", "k_k", "k_a", "r_k", "ln_weight", "ln_bias"} & set(names)
        fields |= {
            name: bench.weight(rng.uniform(0.3, 1, H * N).astype(F32)) for name in sorted(weights)
        }
        if code == op.WKV5:
            fields["per_token"] = 0
        size = H * N * N
        bench.old = np.zeros(size + 16, F32)
        bench.new = np.full(size + 16, 7, F32)
        bench.old[state // 4 : state // 4 + size] = normal(rng, size)
        dst = bench.room("shared", H * N)
        bench.execute(code, threads, **fields, state=state, dst=dst, heads=H, size=N)
        new = bench.new[state // 4 : state // 4 + size]
        assert (bench.new == 7).sum() == 16 and np.isfinite(new).all()
        results.append((bench.get("shared", dst, H * N).tobytes(), new.tobytes()))
    assert results[0] == results[1]


def test_a_key_of_zeros_divides_by_nothing(run):
    bench, C = Bench(run), 8
    zeros = np.zeros((1, C), F32)
    fields = {name: bench.tokens_of("shared", zeros) for name in ("r", "k", "v", "w", "a", "g")}
    fields |= {name: bench.weight(zeros) for name in ("k_k", "k_a", "r_k", "ln_weight", "ln_bias")}
    dst = bench.room("shared", C)
    bench.execute(
        op.WKV7, **fields, v_gate=NONE, v_first=fields["v"], state=0, dst=dst, heads=1, size=8
    )
    assert (bench.get("shared", dst, C) == 0).all() and not bench.new.any()


@pytest.mark.parametrize(("head", "tokens"), [(1, 5), (1, 1), (2, 5)])
def test_select_keeps_the_last_token_for_the_head_of_the_last(run, head, tokens):
    bench, width = Bench(run, tokens), 13
    x = normal(np.random.default_rng(0), tokens, width)
    src = bench.tokens_of("shared", x)
    bench.execute(op.SELECT, 3 if head == 2 else 1, head, src=src, width=width)
    found = bench.get("shared", src, width)
    expected = x.copy()
    if head == 1:
        expected[0] = x[-1]
    assert found.tobytes() == expected.tobytes()


@given(
    seeds,
    counts,
    st.integers(1, 700),
    st.integers(-1, 720),
    st.sampled_from([1, 40, 5000, 32752]),
    st.booleans(),
)
@settings(max_examples=60)
def test_choose(run, rng, tokens, rows, wanted, width, low):
    bench = Bench(run, tokens)
    scores = rng.integers(-width, width, (tokens, rows), endpoint=True)
    scores = (scores // 64 - 32000 if low else scores).astype(
        np.int16
    )  # where half of the range has no place below
    src, dst = bench.tokens_of("shared", scores), bench.room("private", 1, np.int32)
    limit = bench.weight(np.array([wanted], np.int32))
    bench.execute(op.CHOOSE, wanted=limit, scores=src, rows=rows, dst=dst)
    expected = reference.lowest_score(scores, wanted)
    assert np.array_equal(scores >= bench.get("private", dst, 1, np.int32), scores >= expected)


@given(seeds, counts, st.integers(1, 700), threads_of, st.sampled_from([np.uint16, np.int32]))
@settings(max_examples=40)
def test_gather(run, rng, tokens, rows, threads, dtype):
    bench = Bench(run, tokens)
    z, places = normal(rng, tokens, rows), rng.permutation(rows).astype(dtype)
    bench.execute(
        op.GATHER,
        threads,
        places=bench.weight(places),
        place_bytes=places.itemsize,
        src=bench.tokens_of("shared", z),
        rows=rows,
    )
    assert bench.out[: tokens * rows].tobytes() == z[:, places].tobytes()
    assert not bench.out[tokens * rows :].any()


@given(
    seeds,
    counts,
    st.integers(1, 200),
    st.sampled_from([(2, 16), (2, 48), (4, 8), (4, 64), (4, 136)]),
    threads_of,
    st.booleans(),
    st.integers(0, 9),
)
@settings(max_examples=60)
def test_level(run, rng, tokens, rows, form, threads, add, apart):
    """z_i (+)= s scale_i (c_i . u - (2^bits - 1) / 2 sum(u)) with u = round(q / 256)."""
    bench, (bits, rank) = Bench(run, tokens), form
    codes = rng.integers(0, 2**bits, (rows, rank)).astype(np.uint8)
    table = rng.uniform(-1, 1, op.SCALES).astype(F32)
    scale_codes = rng.integers(0, op.SCALES, rows).astype(np.uint8)
    most = 256 * code_qmax(bits)
    q = rng.integers(-most, most + 1, (tokens, rank)).astype(np.int16)
    q_scale = (rng.uniform(0.5, 2, (tokens, 1)) / most).astype(F32)
    z = normal(rng, tokens, rows + apart)  # the rows of a level need not be all
    n = rank * bits // 8
    dst = bench.tokens_of("shared", z)
    bench.execute(
        op.LEVEL,
        threads,
        codes=bench.weight(pack_codes(codes, bits)),
        scales=bench.weight(scale_codes),
        table=bench.weight(table),
        rows=rows,
        bytes=n,
        rank=rank,
        bits=bits,
        sums=bench.put("private", np.zeros(n * op.TABLE_BYTES, np.uint8)),
        src=bench.tokens_of("private", q),
        src_scale=bench.tokens_of("private", q_scale),
        dst=dst,
        dst_stride=rows + apart,
        add=int(add),
    )
    u = (q.astype(np.int64) + 128) >> 8
    sums = 2 * (u @ codes.T.astype(np.int64)) - (2**bits - 1) * u.sum(axis=1, keepdims=True)
    # The sums are whole numbers, so that the order of float operations alone decides the bits.
    y = sums.astype(F32) * (table[scale_codes] * (F32(128) * q_scale))
    before = z[:, :rows] if add else F32(0)  # a sum, so that -0 becomes 0
    expected = np.hstack([before + y, z[:, rows:]])
    assert bench.get("shared", dst, rows + apart).tobytes() == expected.tobytes()


@given(
    seeds,
    counts,
    st.integers(1, 700),
    st.integers(1, 130),
    threads_of,
    st.sampled_from([0.01, 1.0, 1000.0]),
)
@settings(max_examples=60)
def test_preview(run, rng, tokens, rows, cols, threads, spread_of_scores):
    """z_i += mean . x + bias_i; score_i = steps(z_i + spread_i)."""
    bench = Bench(run, tokens)
    x, mean = normal(rng, tokens, cols), normal(rng, cols, scale=cols**-0.5)
    bias, spread = (rng.integers(0, 256, rows).astype(np.uint8) for _ in range(2))
    ranges = np.array([-1, 0.01, -2 * spread_of_scores, spread_of_scores / 64], F32)
    z = normal(rng, tokens, rows)
    dst, scores = bench.tokens_of("shared", z), bench.room("shared", rows, np.int16)
    bench.execute(
        op.PREVIEW,
        threads,
        src=bench.tokens_of("private", x),
        mean=bench.weight(mean),
        bias=bench.weight(bias),
        spread=bench.weight(spread),
        ranges=bench.weight(ranges),
        dst=dst,
        scores=scores,
        rows=rows,
        cols=cols,
    )
    found = bench.get("shared", dst, rows)
    wide = x.astype(np.float64) @ mean
    expected = z + wide[:, None] + (ranges[0] + ranges[1] * bias.astype(F32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    exact_scores = reference.steps(found + (ranges[2] + ranges[3] * spread.astype(F32)))
    assert np.array_equal(bench.get("shared", scores, rows, np.int16), exact_scores)


@given(
    seeds,
    counts,
    st.tuples(st.integers(0, 300), st.integers(1, 900), st.integers(0, 5)),
    st.integers(1, 130),
    threads_of,
    st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
@settings(max_examples=60)
def test_exact(run, rng, tokens, part, cols, threads, chosen_share):
    """z_i = scale_i s (w_i . q) for the rows of a range whose score is high; others stay."""
    bench, (before, count, after) = Bench(run, tokens), part
    # Units of rows are shared out by their number in the whole head.
    first = before // op.UNIT * op.UNIT
    rows = first + count + after
    w = rng.integers(-127, 128, (rows, cols)).astype(np.int8)
    scale = rng.uniform(1e-3, 1e-2, rows).astype(F32)
    q = rng.integers(-qmax(cols), qmax(cols) + 1, (tokens, cols)).astype(np.int16)
    q_scale = (rng.uniform(0.5, 2, (tokens, 1)) / qmax(cols)).astype(F32)
    scores = rng.integers(-100, 100, (tokens, rows)).astype(np.int16)
    lowest = np.quantile(scores, 1 - chosen_share, axis=1).astype(np.int32)[:, None]
    lowest += chosen_share == 0
    z = normal(rng, tokens, rows)
    dst = bench.tokens_of("shared", z)
    bench.execute(
        op.EXACT,
        threads,
        weight=bench.weight(w),
        scale=bench.weight(scale),
        cols=cols,
        src=bench.tokens_of("private", q),
        kind=op.INT8,
        src_sums=NONE,
        src_scale=bench.tokens_of("private", q_scale),
        first=first,
        rows=count,
        dst=dst,
        dst_stride=rows,
        scores=bench.tokens_of("shared", scores),
        lowest=bench.tokens_of("private", lowest),
    )
    chosen = scores >= lowest
    chosen[:, :first] = chosen[:, first + count :] = False
    sums = (q.astype(np.int64) @ w.astype(np.int64).T).astype(F32)
    expected = np.where(chosen, sums * (scale * q_scale), z)
    assert bench.get("shared", dst, rows).tobytes() == expected.tobytes()
    if threads == 1:
        assert bench.touched == np.count_nonzero(chosen) * (cols + 4)


def test_exact_of_more_rows_than_its_list_holds(run):
    """The list is read and begun anew as often as it takes."""
    rng, bench, rows, cols = np.random.default_rng(0), Bench(run), 5000, 3
    w = rng.integers(-127, 128, (rows, cols)).astype(np.int8)
    q, one = np.array([[3, -2, 1]], np.int16), np.ones((1, 1), F32)
    dst = bench.room("shared", rows)
    bench.execute(
        op.EXACT,
        weight=bench.weight(w),
        scale=bench.weight(np.ones(rows, F32)),
        cols=cols,
        src=bench.tokens_of("private", q),
        kind=op.INT8,
        src_sums=NONE,
        src_scale=bench.tokens_of("private", one),
        first=0,
        rows=rows,
        dst=dst,
        dst_stride=rows,
        scores=bench.tokens_of("shared", np.zeros((1, rows), np.int16)),
        lowest=bench.tokens_of("private", np.zeros((1, 1), np.int32)),
    )
    assert np.array_equal(bench.get("shared", dst, rows)[0], w.astype(np.int64) @ q[0])


def test_exact_keeps_its_list_in_its_place(run):
    """A unit that might not fit is left for the next list, however many rows are in this one."""
    cols, room = 1, op.SCRATCH // 4 - 16  # rows that the list holds
    for left in range(-1, 3):  # in front of the last unit
        bench = Bench(run)
        behind = slice(op.SCRATCH, bench.used["private"])  # there lies what other kernels use
        listed = room - op.UNIT + left
        scores = np.zeros(op.SCRATCH // 4 + op.UNIT, np.int16)
        scores[listed : -op.UNIT] = -1
        bench.private[behind] = 77
        dst = bench.room("shared", len(scores))
        bench.execute(
            op.EXACT,
            weight=bench.weight(np.ones((len(scores), cols), np.int8)),
            scale=bench.weight(np.ones(len(scores), F32)),
            cols=cols,
            src=bench.tokens_of("private", np.full((1, cols), 5, np.int16)),
            kind=op.INT8,
            src_sums=NONE,
            src_scale=bench.tokens_of("private", np.ones((1, 1), F32)),
            first=0,
            rows=len(scores),
            dst=dst,
            dst_stride=len(scores),
            scores=bench.put("shared", scores),
            lowest=bench.tokens_of("private", np.zeros((1, 1), np.int32)),
        )
        assert (bench.get("shared", dst, len(scores))[0] == np.where(scores < 0, 99, 5)).all()
        assert (bench.private[behind] == 77).all(), left


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_sync_lets_no_thread_run_ahead(run, threads):
    """Permutations one after the other: each needs all rows that the threads wrote before."""
    rng, bench, size, times = np.random.default_rng(0), Bench(run), 61, 200
    order = rng.permutation(size)
    weight = bench.weight(np.eye(size, dtype=F32)[order])
    x = normal(rng, 1, size)
    places = bench.tokens_of("shared", x), bench.room("shared", size)
    operations = []
    for i in range(times):
        fields = dict.fromkeys(FIELDS[op.MATMUL], NONE)
        fields |= {"weight": weight, "kind": op.F32, "units": size, "unit": 1, "cols": size}
        fields |= {"shared": 1, "src": places[i % 2], "stride": size}
        fields |= {"dst": places[1 - i % 2], "dst_stride": size}
        fields |= {"activation": op.IDENTITY, "mode": op.STORE}
        operations += [(op.MATMUL, fields), (op.SYNC, {})]
    # Every thread has a private workspace of its own for its dot products.
    benches = [bench.with_private_memory() for _ in range(threads)]
    barrier = execute_together(benches, program(*operations))
    for _ in range(times):
        x = x[:, order]
    assert bench.get("shared", places[times % 2], size).tobytes() == x.tobytes()
    arrived, generation = barrier.view(np.int32)[[0, 16]]
    assert (arrived, generation) == (0, times)


def dispatched() -> set[str]:
    """Return the names of the opcodes that `run` and its parts compare with."""
    source = pathlib.Path(op.__file__).with_name("run.py").read_text()
    return {
        node.comparators[0].attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and ast.unparse(node.left) == "code"
        and isinstance(node.comparators[0], ast.Attribute)
    }


def opcodes_under_test() -> set[str]:
    """Return the names of the opcodes whose kernel has a test here."""
    tests = [name for name in globals() if name.startswith("test_")]
    return {
        name
        for name in op.NAMES.values()
        if any(test == f"test_{name.lower()}" or f"_{name.lower()}_" in test for test in tests)
    }


def test_every_operation_is_run_and_tested():
    assert dispatched() == set(op.NAMES.values())
    assert opcodes_under_test() == set(op.NAMES.values())


def test_fields_that_kernels_share_are_in_the_same_places():
    """`finish` reads fields of MATMUL in three operations, `row_address` those of SPARSE in two."""
    product, pages = FIELDS[op.MATMUL], ("row_bytes", "per_page", "reciprocal")
    for code in (op.PREDICT, op.SPARSE):
        assert FIELDS[code][: len(product) + len(pages)] == product + pages


def test_places_of_fields_are_their_order():
    for code, names in FIELDS.items():
        if code != op.SYNC:
            places = getattr(op, f"{op.NAMES[code]}_AT")
            assert places._fields == names and tuple(places) == tuple(range(len(names)))


def test_which_form_of_integer_sums_is_compiled():
    pytest.importorskip("numba")
    from tinyrwkv.kernels import simd

    assert simd.PAIRS == (platform.machine().lower() in ("x86_64", "amd64", "i686", "i386"))
