"""Store a matrix as the product of two thin ones, W ~ b @ a, so that what it makes of real inputs changes least.

Cutting the singular values of W itself keeps W close; what matters is that W @ x stays close for the x that occur.
With second moments G = E[x x^T] = S S^T the error is ``E|W x - W' x|^2 = |W S - W' S|^2``: so the singular values of
W S are cut, and each one left out costs exactly its square. Where it is known how much an error in output i matters,
d_i, it is the same with D W S, D = diag(d).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.quant import dequantize_rows, quantize_rows

Array = np.ndarray

_FLOOR = 1e-6  # of the largest second moment: directions that inputs hardly have are kept from blowing up


class Metric(NamedTuple):
    """What an error of a matrix is measured by: ``E|D (W - W') x|^2``.

    Attributes
    ----------
    moments : ndarray, float64, shape (in, in)
        G = E[x x^T] of the inputs; may be singular.
    effects : ndarray, float64, shape (out,), optional
        The diagonal of D, above 0: how much an error in each output matters; 1 where left out.
    """

    moments: Array
    effects: Array | None = None

    def error(self, weight: Array, other: Array) -> float:
        """Return E|D (W - W') x|^2."""
        difference = weight.astype(np.float64) - other
        if self.effects is not None:
            difference *= self.effects[:, None]
        return max(0.0, float(np.einsum("ij,ij->", difference @ self.moments, difference)))


class Spectrum(NamedTuple):
    """A matrix taken apart: W = left @ diag(values) @ right, of which the first terms are the best of their number.

    Attributes
    ----------
    left : ndarray, float64, shape (out, n)
    values : ndarray, float64, shape (n,)
        Falling; leaving term i out costs ``values[i] ** 2`` of error.
    right : ndarray, float64, shape (n, in)
        Rows whose outputs ``right @ x`` have a mean square of 1 each and are uncorrelated.
    """

    left: Array
    values: Array
    right: Array

    def factors(self, rank: int, share: float = 0.5) -> tuple[Array, Array]:
        """Return a (rank, in) and b (out, rank), float32; `share` of each singular value goes to a."""
        values = np.maximum(self.values[:rank], 1e-30)
        a, b = (
            values[:, None] ** share * self.right[:rank],
            self.left[:, :rank] * values ** (1 - share),
        )
        return a.astype(np.float32), b.astype(np.float32)


class Factors(NamedTuple):
    """Two factors in int8, each with a scale for each row.

    Attributes
    ----------
    a : ndarray, int8, shape (r, in)
    a_scale : ndarray, float32, shape (r,)
    b : ndarray, int8, shape (out, r)
    b_scale : ndarray, float32, shape (out,)
    """

    a: Array
    a_scale: Array
    b: Array
    b_scale: Array

    def product(self) -> Array:
        """Return b @ a, float32, shape (out, in)."""
        return dequantize_rows(self.b, self.b_scale) @ dequantize_rows(self.a, self.a_scale)


def spectrum(weight: Array, metric: Metric | None = None) -> Spectrum:
    """Take a matrix apart by the effect of its parts.

    Parameters
    ----------
    weight : ndarray, float32, shape (out, in)
    metric : Metric, optional
        Without one all weights count the same.

    Returns
    -------
    Spectrum

    Raises
    ------
    ArgumentError
        A shape or a value is wrong.

    Examples
    --------
    >>> W = np.array([[3.0, 0.0], [0.0, 2.0]], np.float32)
    >>> spectrum(W).values.tolist()
    [3.0, 2.0]
    >>> spectrum(W, Metric(np.diag([0.01, 1.0]))).values.round(6).tolist()
    [2.0, 0.3]
    """
    weight = _checked("weight", weight)
    if metric is None:
        u, values, v = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
        return Spectrum(u, values, v)
    G, d = _check_metric(metric, weight.shape)
    root, inverse = _roots(G)
    u, values, v = np.linalg.svd(d[:, None] * (weight @ root), full_matrices=False)  # of D W S
    return Spectrum(u / d[:, None], values, v @ inverse)


def factor(weight: Array, rank: int) -> tuple[Array, Array]:
    """Factor a matrix into the product nearest to it.

    Parameters
    ----------
    weight : ndarray, float32, shape (out, in)
    rank : int

    Returns
    -------
    a : ndarray, float32, shape (rank, in)
    b : ndarray, float32, shape (out, rank)

    Raises
    ------
    ArgumentError
        The rank saves nothing: see `check_rank`.
    """
    check_rank(weight.shape, rank)
    return spectrum(weight).factors(rank)


def factor_whitened(weight: Array, metric: Metric, rank: int) -> tuple[Array, Array]:
    """Factor a matrix so that W @ x changes least for inputs like those seen.

    Parameters
    ----------
    weight : ndarray, float32, shape (out, in)
    metric : Metric
    rank : int

    Returns
    -------
    a : ndarray, float32, shape (rank, in)
    b : ndarray, float32, shape (out, rank)

    Raises
    ------
    ArgumentError
        The rank saves nothing: see `check_rank`.
    """
    check_rank(weight.shape, rank)
    return spectrum(weight, metric).factors(rank)


def round_factors(
    weight: Array, spectrum: Spectrum, rank: int, metric: Metric | None = None
) -> Factors:
    """Store factors in int8: each is fitted again to the other as that was rounded, and the best pair is taken.

    Parameters
    ----------
    weight : ndarray, float32, shape (out, in)
    spectrum : Spectrum
        Of this matrix with this metric.
    rank : int
    metric : Metric, optional

    Returns
    -------
    Factors
    """
    rows, columns = weight.shape
    G, d = (
        (np.eye(columns), np.ones(rows)) if metric is None else _check_metric(metric, weight.shape)
    )
    found: list[tuple[float, Factors]] = []
    for share in (0.0, 0.5, 1.0):
        a, _ = spectrum.factors(rank, share)
        for _ in range(2):
            qa, sa = quantize_rows(a)
            b = _second(weight, G, dequantize_rows(qa, sa))
            pair = Factors(qa, sa, *quantize_rows(b))
            found.append((Metric(G, d).error(weight, pair.product()), pair))
            a = _first(weight, d, dequantize_rows(pair.b, pair.b_scale))
    return min(found, key=lambda one: one[0])[1]


def _second(weight: Array, G: Array, a: Array) -> Array:
    """Return the b with the least E|D (W - b a) x|^2, whatever D: W G a^T (a G a^T)^-1."""
    aG = a.astype(np.float64) @ G  # (r, in)
    return _solve(aG @ a.T, aG @ weight.T.astype(np.float64)).T.astype(np.float32)


def _first(weight: Array, d: Array, b: Array) -> Array:
    """Return the a with the least E|D (W - b a) x|^2, whatever x: (b^T D^2 b)^-1 b^T D^2 W."""
    wide = b.T * np.square(d)  # (r, out)
    return _solve(wide @ b, wide @ weight).astype(np.float32)


def _solve(symmetric: Array, right: Array) -> Array:
    """Solve for positive semidefinite matrices; directions in which they vanish count as zero."""
    values, vectors = np.linalg.eigh(symmetric)
    inverse = np.where(values > values[-1] * 1e-12, 1 / np.maximum(values, 1e-300), 0)
    solved: Array = vectors @ (inverse[:, None] * (vectors.T @ right))
    return solved


def check_rank(shape: tuple[int, ...], rank: int) -> None:
    """Refuse a rank whose factors are not smaller than the matrix: rank * (out + in) >= out * in.

    Raises
    ------
    ArgumentError
        It is below 1, or saves nothing.
    """
    rows, columns = shape
    most = (rows * columns - 1) // (rows + columns)
    if not 1 <= rank <= most:
        found, expected = (
            f"{rank} for a matrix of {rows} x {columns}",
            f"1 to {most}: others save nothing",
        )
        raise ArgumentError(
            "low rank", "rank", found, expected, "choose a lower rank: --low-rank above 2"
        )


def uniform_rank(shape: tuple[int, ...], k: float) -> int:
    """Return the rank that leaves 1/k of the inputs' dimensions, as RWKV-Lite has it.

    Raises
    ------
    ArgumentError
        That saves nothing: k must be above 2 for a square matrix.
    """
    if not k > 0:
        raise ArgumentError("low rank", "k", k, "a number above 2", "--low-rank 4 is usual")
    rank = int(min(shape) / k)
    check_rank(shape, rank)
    return rank


def choose_ranks(
    shapes: Mapping[str, tuple[int, int]],
    values: Mapping[str, Array],
    weights: Mapping[str, float],
    budget: int,
    step: int = 8,
) -> dict[str, int]:
    """Share a budget of bytes between matrices so that the sum of weighted output errors is least.

    For a price p of a byte every matrix takes the rank, or its dense form, with the least
    ``weight * error + p * bytes``; the price is found by bisection, and what no price spends goes to what gains most.

    Parameters
    ----------
    shapes : mapping of str to (out, in)
    values : mapping of str to ndarray
        Singular values from `spectrum`.
    weights : mapping of str to float
        What a unit of output error of this matrix costs.
    budget : int
        Bytes of all int8 factors and dense int8 matrices together, scales included.
    step : int, optional
        Ranks are multiples of it.

    Returns
    -------
    dict of str to int
        Ranks; 0 stands for a matrix that stays dense, because factors of the rank it needs would not be smaller.

    Raises
    ------
    ArgumentError
        Even the lowest ranks take more.
    """
    options = {name: _options(shapes[name], values[name], weights[name], step) for name in shapes}
    least = sum(min(size for size, _, _ in listed) for listed in options.values())
    if least > budget:
        expected = f"at least {least} bytes, for rank {step} everywhere"
        raise ArgumentError("low rank", "budget", budget, expected, "raise the budget")

    def at(price: float) -> dict[str, tuple[int, float, int]]:
        return {
            name: min(listed, key=lambda option: (option[1] + price * option[0], option[0]))
            for name, listed in options.items()
        }

    low, high = 0.0, 1.0
    while sum(size for size, _, _ in at(high).values()) > budget:
        high *= 4
    for _ in range(100):
        price = (low + high) / 2
        low, high = (
            (low, price)
            if sum(size for size, _, _ in at(price).values()) <= budget
            else (price, high)
        )
    chosen = at(high)
    left = budget - sum(size for size, _, _ in chosen.values())
    while better := [
        ((chosen[name][1] - cost) / (size - chosen[name][0]), name, (size, cost, rank))
        for name, listed in options.items()
        for size, cost, rank in listed
        if chosen[name][0] < size <= chosen[name][0] + left and cost < chosen[name][1]
    ]:
        _, name, option = max(better)
        left, chosen[name] = left - option[0] + chosen[name][0], option
    return {name: rank for name, (_, _, rank) in chosen.items()}


def _options(
    shape: tuple[int, int], values: Array, weight: float, step: int
) -> list[tuple[int, float, int]]:
    """Return (bytes, cost, rank) of every form that a matrix may have; rank 0 is the dense one."""
    rows, columns = shape
    left_out = np.concatenate([np.cumsum(np.square(values)[::-1])[::-1], [0.0]])
    dense = rows * (columns + 4)
    listed = [(dense, 0.0, 0)]
    for rank in range(min(step, len(values)), len(values), step):
        if (size := factored_bytes(shape, rank)) < dense:
            listed.append((size, weight * float(left_out[rank]), rank))
    return listed


def factored_bytes(shape: Sequence[int], rank: int) -> int:
    """Return the bytes of two int8 factors with their scales."""
    rows, columns = shape
    return rank * (rows + columns) + 4 * (rank + rows)


def _roots(G: Array) -> tuple[Array, Array]:
    """Return S with S S^T = G and its inverse; directions without inputs get a small share."""
    values, vectors = np.linalg.eigh(G)
    values = np.maximum(values, max(float(values[-1]), 1e-30) * _FLOOR)
    root = np.sqrt(values)
    return vectors * root, (vectors / root).T


def _check_metric(metric: Metric, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return G, made symmetric, and d; ArgumentError where they are not those of a matrix of this shape."""
    rows, columns = shape
    G, d = (
        _checked("moments", metric.moments),
        np.ones(rows) if metric.effects is None else metric.effects,
    )
    if G.shape != (columns, columns) or d.shape != (rows,) or not (np.isfinite(d) & (d > 0)).all():
        found, expected = (
            f"{G.shape} and {d.shape}",
            f"({columns}, {columns}), and {rows} numbers above 0",
        )
        raise ArgumentError("low rank", "metric", found, expected, "collect them for this matrix")
    return (G + G.T) / 2, d


def _checked(name: str, array: Array) -> Array:
    good = isinstance(array, np.ndarray) and array.ndim == 2 and array.size > 0
    if not good or not np.isfinite(array).all():
        found = f"{array.dtype} {array.shape}" if good else type(array).__name__
        raise ArgumentError("low rank", name, found, "a matrix of finite numbers", "repair it")
    return array
