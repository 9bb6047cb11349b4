"""GPTQ: round a matrix to int4 so that its outputs change least, not its weights.

The error of a matrix W' in the place of W is what it does to the inputs x that occur. With their
second moments H = E[x x^T] it is::

    E|(W - W') x|^2 = tr((W - W') H (W - W')^T)

The weights of one input after the other are rounded. What rounding changes, the weights of the
inputs that are not rounded yet make up for, as far as they can. With U upper triangular and
H^-1 = U^T U this is, for j = 1, 2, ... (a column w_j of W has the weights of input j)::

    e      = (w_j - round(w_j)) / U_jj
    w_k    = w_k - U_jk e                   for all k > j

Each column adds ``|e|^2`` to the error. A group of 64 inputs gets its scales and zero points when
it is reached, by the weights that it has by then. Columns behind a group are changed only once,
when the whole group is rounded.

Source: E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers", 2022, arXiv:2210.17323, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.int4 import GROUP, order

from .round_int4 import Int4, check_weights, fit_groups, nearest, round_int4, spread

Array = np.ndarray

DAMPING = 0.01
"""Added to the diagonal of H, by its mean: inputs that seldom occur must not become huge."""

_OUTPUTS = 2048
"""Outputs at a time. Each is rounded without regard to the others."""


class Fit(NamedTuple):
    """A matrix in int4, and how far it is from the one before.

    Attributes
    ----------
    int4 : Int4
    error : float
        The root of its error, by that of zeros in its place.
    rounded_error : float
        The same if all weights are rounded to nearest.
    """

    int4: Int4
    error: float
    rounded_error: float


def gptq(weight: Array, moments: Array, damping: float = DAMPING) -> Fit:
    """Round a matrix to int4.

    Parameters
    ----------
    weight : ndarray, float32, shape (out, in)
        `in` is a multiple of 64.
    moments : ndarray, float64, shape (in, in)
        H = E[x x^T] of the inputs; may be singular. An input that never occurs is rounded to
        nearest.
    damping : float, optional

    Returns
    -------
    Fit
        No row has a larger error than rounding to nearest leaves.

    Raises
    ------
    ArgumentError
        int4 cannot hold the matrix, or the moments do not fit it.
    """
    check_weights(weight)
    check_moments(moments, weight.shape[1])
    rounded = round_int4(weight)
    found = Int4(*map(np.empty_like, rounded))
    by_group = order(weight.shape[1])
    U = inverse_root(moments[np.ix_(by_group, by_group)], damping)
    for first in range(0, len(weight), _OUTPUTS):
        some = slice(first, first + _OUTPUTS)
        columns = np.array(weight[some, by_group].T, np.float32)  # (in, some)
        q, scale, zero = _by_groups_of_inputs(columns, U)
        found.q[some, by_group] = q.T
        found.scale[some], found.zero[some] = scale.T, zero.T

    error = row_errors(weight - found.weights(), moments)
    rounded_error = row_errors(weight - rounded.weights(), moments)
    for best, other in zip(found, rounded, strict=True):
        np.copyto(best, other, where=(rounded_error < error)[:, None])
    error = np.minimum(error, rounded_error)
    whole = max(float(row_errors(weight, moments).sum()), 1e-30)
    return Fit(found, _root(error.sum() / whole), _root(rounded_error.sum() / whole))


def gptq_rows(rows: Array, moments: Array, damping: float = DAMPING) -> Fit:
    """Round a matrix to int4 that has the weights of one input in each row.

    Its groups lie along the outputs. So a row has scales and zero points of its own, which are
    found when its turn comes.

    Parameters
    ----------
    rows : ndarray, float32, shape (in, out)
        `out` is a multiple of 64.
    moments : ndarray, float64, shape (in, in)
    damping : float, optional

    Returns
    -------
    Fit
        Its int4 has the shape of `rows`, and its error is not larger than rounding to nearest
        leaves.

    Raises
    ------
    ArgumentError
        int4 cannot hold the matrix, or the moments do not fit it.
    """
    check_weights(rows)
    check_moments(moments, len(rows))
    U = inverse_root(moments, damping)
    rounded = round_int4(rows)
    found = _by_single_inputs(np.array(rows, np.float32), U)

    error = row_errors((rows - found.weights()).T, moments).sum()
    rounded_error = row_errors((rows - rounded.weights()).T, moments).sum()
    if rounded_error < error:
        found, error = rounded, rounded_error
    whole = max(float(row_errors(rows.T, moments).sum()), 1e-30)
    return Fit(found, _root(error / whole), _root(rounded_error / whole))


def inverse_root(moments: Array, damping: float) -> Array:
    """Return U, upper triangular, with H^-1 = U^T U for the damped H.

    With the inputs in reverse order, a Cholesky decomposition gives H = R R^T with R upper
    triangular. So U = R^-1.

    Parameters
    ----------
    moments : ndarray, float64, shape (in, in)
    damping : float

    Returns
    -------
    ndarray, float32, shape (in, in)

    Raises
    ------
    ArgumentError
        These are no second moments.
    """
    H = np.array(moments, np.float64)
    inputs = len(H)
    mean = H.trace() / inputs
    H.flat[:: inputs + 1] += damping * mean if mean > 0 else 1.0
    try:
        R = np.linalg.cholesky(H[::-1, ::-1])[::-1, ::-1]
    except np.linalg.LinAlgError:
        raise _refused("a direction with a negative mean square", "second moments") from None
    return np.triu(np.linalg.inv(R)).astype(np.float32)


def check_moments(moments: Array, inputs: int) -> None:
    """Refuse moments of another shape or with numbers that are not finite; ArgumentError."""
    if moments.shape != (inputs, inputs):
        expected = f"one of ({inputs}, {inputs})"
        raise _refused(f"moments of a shape of {moments.shape}", expected)
    if not np.isfinite(moments).all():
        raise _refused("moments that are not finite", "finite ones")


def _refused(found: str, expected: str) -> ArgumentError:
    fix = "collect the moments of this matrix again"
    sentence = f"gptq has {found}, but needs {expected}"
    return ArgumentError("gptq", "moments", found, expected, fix, sentence)


def row_errors(difference: Array, moments: Array) -> Array:
    """Return E|d x|^2 for each row d of a difference of matrices: float64, shape (out,)."""
    H = moments.astype(np.float32)
    errors = np.empty(len(difference))
    for first in range(0, len(difference), _OUTPUTS):
        some = difference[first : first + _OUTPUTS]
        errors[first : first + _OUTPUTS] = np.einsum("ij,ij->i", some @ H, some)
    return np.maximum(errors, 0)


def _by_groups_of_inputs(columns: Array, U: Array) -> tuple[Array, Array, Array]:
    """Round the columns of a matrix, which are the rows here, group by group.

    Parameters
    ----------
    columns : ndarray, float32, shape (in, out)
        Its numbers change.
    U : ndarray, float32, shape (in, in)

    Returns
    -------
    q : ndarray, uint8, shape (in, out)
    scale : ndarray, float16, shape (in / 64, out)
    zero : ndarray, uint8, shape (in / 64, out)
    """
    inputs, outputs = columns.shape
    q = np.empty((inputs, outputs), np.uint8)
    scale = np.empty((inputs // GROUP, outputs), np.float16)
    zero = np.empty(scale.shape, np.uint8)

    def begin(first: int, block: Array) -> None:
        scale[first // GROUP], zero[first // GROUP] = fit_groups(np.ascontiguousarray(block.T))

    def round_one(j: int, w: Array) -> Array:
        s, z = scale[j // GROUP], zero[j // GROUP]
        q[j] = nearest(w, s, z)
        return spread(q[j], s, z)

    _sweep(columns, U, begin, round_one)
    return q, scale, zero


def _by_single_inputs(rows: Array, U: Array) -> Int4:
    """Round a matrix with the weights of one input in each row; its numbers change."""
    inputs, outputs = rows.shape
    by_group = order(outputs)
    q = np.empty((inputs, outputs), np.uint8)
    scale = np.empty((inputs, outputs // GROUP), np.float16)
    zero = np.empty(scale.shape, np.uint8)

    def round_one(j: int, w: Array) -> Array:
        groups = w[by_group].reshape(-1, GROUP)
        scale[j], zero[j] = s, z = fit_groups(groups)
        of_groups = nearest(groups, s[:, None], z[:, None])
        q[j, by_group] = of_groups.reshape(-1)
        rounded = np.empty_like(w)
        rounded[by_group] = spread(of_groups, s[:, None], z[:, None]).reshape(-1)
        return rounded

    _sweep(rows, U, None, round_one)
    return Int4(q, scale, zero)


def _sweep(
    columns: Array,
    U: Array,
    begin: Callable[[int, Array], None] | None,
    round_one: Callable[[int, Array], Array],
) -> None:
    """Round one column after the other, and let the later ones make up for it.

    Parameters
    ----------
    columns : ndarray, float32, shape (in, out)
        Its numbers change.
    U : ndarray, float32, shape (in, in)
    begin : callable, optional
        Called as ``begin(first, block)`` before the columns of a block are rounded.
    round_one : callable
        Called as ``round_one(j, w)`` for each column; returns it rounded.
    """
    for first in range(0, len(columns), GROUP):
        block = columns[first : first + GROUP]
        after = first + len(block)
        own = U[first:after, first:after]
        errors = np.empty_like(block)
        if begin is not None:
            begin(first, block)
        for j, w in enumerate(block):
            # e = (w_j - round(w_j)) / U_jj;  w_k = w_k - U_jk e  for k > j
            errors[j] = (w - round_one(first + j, w)) / own[j, j]
            block[j + 1 :] -= own[j, j + 1 :, None] * errors[j]
        columns[after:] -= U[first:after, after:].T @ errors


def _root(x: float) -> float:
    return float(np.sqrt(x))
