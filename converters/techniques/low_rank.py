"""Store a matrix as the product of two thin ones, W ~ b @ a, so that its outputs change least.

Cutting the singular values of W itself keeps W close. What matters is that W @ x stays close for
the x that occur. With second moments G = E[x x^T] = S S^T the error is::

    E|W x - W' x|^2 = |W S - W' S|^2

So the singular values of W S are cut, and each one left out costs exactly its square. If it is
known how much an error in output i matters, d_i, the same holds for D W S with D = diag(d).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.quant import dequantize_rows, quantize_rows

Array = np.ndarray

_FLOOR = 1e-6
"""Least second moment of a direction, by the largest: its inverse must not become huge."""

_SHARES = (0.0, 0.5, 1.0)
"""Shares of the singular values in the first factor that `round_factors` begins with."""

_ROUNDS = 2
"""How often each factor is fitted again to the other one."""


class Metric(NamedTuple):
    """What an error of a matrix is measured by: ``E|D (W - W') x|^2``.

    Attributes
    ----------
    moments : ndarray, float64, shape (in, in)
        G = E[x x^T] of the inputs; may be singular.
    effects : ndarray, float64, shape (out,), optional
        The diagonal of D, above 0: how much an error in each output matters. 1 if left out.
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
    """A matrix taken apart: W = left @ diag(values) @ right.

    Of all sums with n terms, the first n terms are nearest to W.

    Attributes
    ----------
    left : ndarray, float64, shape (out, n)
    values : ndarray, float64, shape (n,)
        Falling. Leaving term i out costs ``values[i] ** 2`` of error.
    right : ndarray, float64, shape (n, in)
        Rows whose outputs ``right @ x`` have a mean square of 1 each and are uncorrelated.
    """

    left: Array
    values: Array
    right: Array

    def factors(self, rank: int, share: float = 0.5) -> tuple[Array, Array]:
        """Return the factors with the least error.

        Parameters
        ----------
        rank : int
        share : float, optional
            The power of each singular value that goes to `a`; the rest goes to `b`.

        Returns
        -------
        a : ndarray, float32, shape (rank, in)
        b : ndarray, float32, shape (out, rank)
        """
        values = np.maximum(self.values[:rank], 1e-30)
        a = values[:, None] ** share * self.right[:rank]
        b = self.left[:, :rank] * values ** (1 - share)
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

    ::

        D W S = U diag(values) V^T,  left = D^-1 U,  right = V^T S^-1

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
    S, inverse = _roots(G)
    u, values, v = np.linalg.svd(d[:, None] * (weight @ S), full_matrices=False)
    return Spectrum(u / d[:, None], values, v @ inverse)


def round_factors(
    weight: Array, spectrum: Spectrum, rank: int, metric: Metric | None = None
) -> Factors:
    """Store factors in int8.

    Rounding one factor changes which other factor is best, so each is fitted again to the rounded
    other one. The best of several such pairs is taken.

    Parameters
    ----------
    weight : ndarray, float32, shape (out, in)
    spectrum : Spectrum
        Of this matrix with this metric; its first `rank` terms are enough.
    rank : int
    metric : Metric, optional

    Returns
    -------
    Factors
    """
    rows, columns = weight.shape
    if metric is None:
        G, d = np.eye(columns), np.ones(rows)
    else:
        G, d = _check_metric(metric, weight.shape)
    best, least = None, np.inf
    for share in _SHARES:
        a, _ = spectrum.factors(rank, share)
        for _ in range(_ROUNDS):
            a_codes, a_scale = quantize_rows(a)
            b = _fit_b(weight, G, dequantize_rows(a_codes, a_scale))
            pair = Factors(a_codes, a_scale, *quantize_rows(b))
            error = Metric(G, d).error(weight, pair.product())
            if best is None or error < least:
                best, least = pair, error
            a = _fit_a(weight, d, dequantize_rows(pair.b, pair.b_scale))
    assert best is not None
    return best


def _fit_b(weight: Array, G: Array, a: Array) -> Array:
    """Return the b with the least E|D (W - b a) x|^2, whatever D.

    ::

        b = W G a^T (a G a^T)^-1
    """
    aG = a.astype(np.float64) @ G  # (r, in)
    return _solve(aG @ a.T, aG @ weight.T.astype(np.float64)).T.astype(np.float32)


def _fit_a(weight: Array, d: Array, b: Array) -> Array:
    """Return the a with the least E|D (W - b a) x|^2, whatever x.

    ::

        a = (b^T D^2 b)^-1 b^T D^2 W
    """
    bD = b.T * np.square(d)  # (r, out)
    return _solve(bD @ b, bD @ weight).astype(np.float32)


def _solve(symmetric: Array, right: Array) -> Array:
    """Solve for positive semidefinite matrices; directions in which they vanish count as zero."""
    values, vectors = np.linalg.eigh(symmetric)
    inverse = np.where(values > values[-1] * 1e-12, 1 / np.maximum(values, 1e-300), 0)
    solved: Array = vectors @ (inverse[:, None] * (vectors.T @ right))
    return solved


def highest_rank(shape: Sequence[int]) -> int:
    """Return the highest rank with rank * (out + in) < out * in: higher ones save nothing.

    Parameters
    ----------
    shape : (out, in)

    Returns
    -------
    int
        0 if there is none.
    """
    rows, columns = shape
    return (rows * columns - 1) // (rows + columns)


def check_rank(shape: Sequence[int], rank: int) -> None:
    """Refuse a rank whose factors are not smaller than the matrix.

    Parameters
    ----------
    shape : (out, in)
    rank : int

    Raises
    ------
    ArgumentError
        It is below 1, or saves nothing.
    """
    rows, columns = shape
    highest = highest_rank(shape)
    if not 1 <= rank <= highest:
        found = f"{rank} for a matrix of {rows} x {columns}"
        expected = f"1 to {highest}: others save nothing"
        fix = "choose a lower rank: --low-rank above 2"
        sentence = f"low rank: a rank of {found} does not save memory; the ranks 1 to {highest} do"
        raise ArgumentError("low rank", "rank", found, expected, fix, sentence)


def uniform_rank(shape: Sequence[int], k: float) -> int:
    """Return the rank that leaves 1/k of the inputs' dimensions, as in RWKV-Lite.

    Parameters
    ----------
    shape : (out, in)
    k : float

    Returns
    -------
    int

    Raises
    ------
    ArgumentError
        That saves nothing: k must be above 2 for a square matrix.
    """
    if not k > 0:
        expected, fix = "a number above 2", "--low-rank 4 is usual"
        raise ArgumentError(
            "low rank", "k", k, expected, fix, f"low rank: k is {k}, not {expected}"
        )
    rank = int(min(shape) / k)
    check_rank(shape, rank)
    return rank


class Form(NamedTuple):
    """One way to store a matrix.

    Attributes
    ----------
    size : int
        In bytes.
    cost : float
        Its weighted error.
    rank : int
        0 stands for the dense matrix.
    """

    size: int
    cost: float
    rank: int


def choose_ranks(
    shapes: Mapping[str, tuple[int, int]],
    values: Mapping[str, Array],
    weights: Mapping[str, float],
    budget: int,
    step: int = 8,
) -> dict[str, int]:
    """Share a budget of bytes between matrices so that the sum of weighted output errors is least.

    At a price p of a byte, every matrix takes the form with the least ``weight * error + p *
    size``. The lowest price within the budget is found by bisection. What this leaves of the budget
    goes to the form that lowers the cost most for its bytes, again and again.

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
        Ranks. 0 stands for a matrix that stays dense, because factors of the rank that it needs
        would not be smaller.

    Raises
    ------
    ArgumentError
        Even the lowest ranks take more.
    """
    forms = {name: _forms(shapes[name], values[name], weights[name], step) for name in shapes}
    least = sum(min(form.size for form in listed) for listed in forms.values())
    if least > budget:
        expected = f"at least {least} bytes, for rank {step} everywhere"
        sentence = f"a rank budget of {budget} bytes is too small: rank {step} needs {least}"
        raise ArgumentError("low rank", "budget", budget, expected, "raise the budget", sentence)
    chosen = _at_lowest_price(forms, budget)
    _spend_rest(forms, chosen, budget)
    return {name: form.rank for name, form in chosen.items()}


def _forms(shape: tuple[int, int], values: Array, weight: float, step: int) -> list[Form]:
    """Return every form that a matrix may have."""
    rows, columns = shape
    errors = np.cumsum(np.square(values)[::-1])[::-1]  # [r]: what leaving out r and later costs
    dense = Form(rows * (columns + 4), 0.0, 0)
    listed = [dense]
    for rank in range(min(step, len(values)), len(values), step):
        size = factored_bytes(shape, rank)
        if size < dense.size:
            listed.append(Form(size, weight * float(errors[rank]), rank))
    return listed


def _at_lowest_price(forms: Mapping[str, list[Form]], budget: int) -> dict[str, Form]:
    """Return the forms at the lowest price that keeps the budget."""

    def at(price: float) -> dict[str, Form]:
        return {
            name: min(listed, key=lambda form: (form.cost + price * form.size, form.size))
            for name, listed in forms.items()
        }

    low, high = 0.0, 1.0
    while _total_size(at(high)) > budget:
        high *= 4
    for _ in range(100):
        price = (low + high) / 2
        if _total_size(at(price)) <= budget:
            high = price
        else:
            low = price
    return at(high)


def _spend_rest(forms: Mapping[str, list[Form]], chosen: dict[str, Form], budget: int) -> None:
    """Replace forms by larger ones as long as one lowers the cost and fits."""
    left = budget - _total_size(chosen)
    while True:
        better = []
        for name, listed in forms.items():
            now = chosen[name]
            for form in listed:
                if now.size < form.size <= now.size + left and form.cost < now.cost:
                    gain = (now.cost - form.cost) / (form.size - now.size)
                    better.append((gain, name, form))
        if not better:
            return
        _, name, form = max(better)
        left -= form.size - chosen[name].size
        chosen[name] = form


def _total_size(chosen: Mapping[str, Form]) -> int:
    return sum(form.size for form in chosen.values())


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
    """Return G, made symmetric, and d; ArgumentError if they do not fit a matrix of this shape."""
    rows, columns = shape
    G = _checked("moments", metric.moments)
    d = np.ones(rows) if metric.effects is None else metric.effects
    is_positive = bool((np.isfinite(d) & (d > 0)).all())
    if G.shape != (columns, columns) or d.shape != (rows,) or not is_positive:
        found = f"{G.shape} and {d.shape}"
        expected = f"({columns}, {columns}), and {rows} numbers above 0"
        raise ArgumentError("low rank", "metric", found, expected, "collect them for this matrix")
    return (G + G.T) / 2, d


def _checked(name: str, array: Array) -> Array:
    good = isinstance(array, np.ndarray) and array.ndim == 2 and array.size > 0
    if not good or not np.isfinite(array).all():
        found = f"{array.dtype} {array.shape}" if good else type(array).__name__
        raise ArgumentError("low rank", name, found, "a matrix of finite numbers", "repair it")
    return array
