"""Round a matrix to int4: for each group of 64 weights, the scale and zero point with least error.

``tinyrwkv.file.int4`` has the format::

    w ~ s (q - z),  q and z from 0 to 15, s float16

Scales are tried from the one whose 16 values span all weights of the group down to a fraction of
it. A smaller scale clips the largest weights and places the others more finely. The one with the
least squared error is then fitted once more to the values q that it gives::

    s = sum w (q - z) / sum (q - z)^2
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.int4 import GROUP, LARGEST, order, pack, unpack

from .on_grid import SMALLEST_SCALE, exact_rows

Array = np.ndarray

_SHRINK = np.concatenate([LARGEST / np.arange(8.0, LARGEST), np.linspace(1.0, 0.5, 26)])
_SHRINK = _SHRINK.astype(np.float32)[:, None]
"""The scales that are tried, by the one that spans all weights of a group: (tried, 1).

Those above 1 span them with 8 to 14 steps: weights that were in int4 before may not use all 15.
"""

LARGEST_SPAN = 65504 * LARGEST
"""What 16 values span with the largest float16 as their scale."""

_BLOCK = 1 << 18  # weights at a time
_GROUPS = 128  # groups that are fitted at a time: their temporaries stay in a cache


class Int4(NamedTuple):
    """A matrix in int4.

    Attributes
    ----------
    q : ndarray, uint8, shape (out, in)
        From 0 to 15.
    scale : ndarray, float16, shape (out, in / 64)
        Of each group, in the order of ``tinyrwkv.file.int4.order``.
    zero : ndarray, uint8, shape (out, in / 64)
        From 0 to 15.
    """

    q: Array
    scale: Array
    zero: Array

    def weights(self) -> Array:
        """Return s (q - z): float32, shape (out, in)."""
        by_group = order(self.q.shape[1])
        q = self.q[:, by_group].reshape(*self.scale.shape, GROUP)
        w = np.empty(self.q.shape, np.float32)
        w[:, by_group] = spread(q, self.scale[..., None], self.zero[..., None]).reshape(w.shape)
        return w

    def packed(self) -> Array:
        """Return the rows as a file has them: uint8, shape (out, row_bytes(in))."""
        return pack(*self)


def round_int4(weight: Array) -> Int4:
    """Round a matrix, each weight to the nearest value of its group.

    Parameters
    ----------
    weight : ndarray, float32, shape (out, in)
        `in` is a multiple of 64.

    Returns
    -------
    Int4
        A matrix whose weights are values of int4 already, such as a recovered one, keeps them
        exactly. A group of zeros has scale 0, and so has a group so small that its best scale is
        under 2^-15. No other scale is smaller than 2^-14.

    Raises
    ------
    ArgumentError
        The shape is wrong, a weight is not finite, or the weights of a group and 0 are further
        apart than 15 times 65504, the largest float16.

    Examples
    --------
    >>> weight = np.arange(-32, 32, dtype=np.float32)[None] / 16
    >>> rounded = round_int4(weight)
    >>> rounded.zero.tolist(), float(np.abs(rounded.weights() - weight).max()) < 0.15
    ([[8]], True)
    """
    check_weights(weight)
    exact = exact_rows(weight.astype(np.float32, copy=False))
    if exact is not None:
        return Int4(*unpack(exact))
    rows, columns = weight.shape
    by_group = order(columns)
    q = np.empty(weight.shape, np.uint8)
    scale = np.empty((rows, columns // GROUP), np.float16)
    zero = np.empty(scale.shape, np.uint8)
    for some in _blocks(rows, columns):
        block = weight[some, by_group].astype(np.float32).reshape(-1, GROUP)
        s, z = fit_groups(block)
        q[some, by_group] = nearest(block, s[:, None], z[:, None]).reshape(-1, columns)
        scale[some] = s.reshape(-1, columns // GROUP)
        zero[some] = z.reshape(-1, columns // GROUP)
    return Int4(q, scale, zero)


def fit_groups(groups: Array) -> tuple[Array, Array]:
    """Find the scale and the zero point of each group.

    Parameters
    ----------
    groups : ndarray, float32, shape (n, 64)

    Returns
    -------
    scale : ndarray, float16, shape (n,)
        At most 65504: what lies further out is clipped.
    zero : ndarray, uint8, shape (n,)
    """
    scale = np.empty(len(groups), np.float16)
    zero = np.empty(len(groups), np.uint8)
    for first in range(0, len(groups), _GROUPS):
        some = slice(first, first + _GROUPS)
        scale[some], zero[some] = _fit(groups[some])
    return scale, zero


def _fit(groups: Array) -> tuple[Array, Array]:
    """Do what `fit_groups` does for a few groups."""
    low = np.minimum(groups.min(axis=1), 0)  # (n,)
    span = np.maximum(groups.max(axis=1), 0) - low
    scales = _half(_SHRINK / LARGEST * span)  # (tried, n)
    zeros = np.rint(-np.minimum(_SHRINK, 1) * low * _inverse(scales))
    zeros = np.clip(zeros, 0, LARGEST).astype(np.uint8)
    errors = _errors(groups, scales, zeros)
    best = errors.argmin(axis=0), np.arange(len(groups))
    scale, zero = scales[best], zeros[best]
    # s = sum w (q - z) / sum (q - z)^2
    steps = nearest(groups, scale[:, None], zero[:, None]).astype(np.float32)
    steps -= zero[:, None]
    squares = np.einsum("ij,ij->i", steps, steps)
    products = np.einsum("ij,ij->i", groups, steps)
    fitted = _half(np.divide(products, squares, out=np.zeros_like(squares), where=squares > 0))
    is_better = _errors(groups, fitted, zero) < errors[best]
    return np.where(is_better, fitted, scale), zero


def nearest(w: Array, scale: Array, zero: Array) -> Array:
    """Return for each weight the q whose value s (q - z) is nearest: uint8, from 0 to 15.

    Parameters
    ----------
    w : ndarray, float32
    scale : ndarray, float16
        It and `zero` have shapes that NumPy spreads to that of `w`. With a scale of 0, q is z.
    zero : ndarray, uint8
    """
    steps = w * _inverse(scale)
    np.rint(steps, out=steps)
    steps += zero
    return np.clip(steps, 0, LARGEST, out=steps).astype(np.uint8)


def spread(q: Array, scale: Array, zero: Array) -> Array:
    """Return the weights s (q - z), float32; the shapes are as in `nearest`."""
    steps = q.astype(np.float32)
    steps -= zero
    steps *= scale.astype(np.float32)
    return steps


def check_weights(weight: Array) -> None:
    """Refuse a matrix that int4 cannot hold.

    Raises
    ------
    ArgumentError
        See `round_int4`.
    """
    if weight.ndim != 2 or weight.shape[1] % GROUP:
        found, expected = f"a shape of {weight.shape}", f"rows of a multiple of {GROUP} weights"
        raise _refused(found, expected, "leave this matrix in int8")
    by_group = order(weight.shape[1])
    for some in _blocks(*weight.shape):
        groups = weight[some, by_group].astype(np.float64).reshape(-1, GROUP)
        if not np.isfinite(groups).all():
            raise _refused("NaN or infinity", "finite weights", "repair the matrix")
        span = np.maximum(groups.max(axis=1), 0) - np.minimum(groups.min(axis=1), 0)
        if span.max(initial=0) > LARGEST_SPAN:
            found = f"weights {span.max():.6g} apart"
            raise _refused(found, f"at most {LARGEST_SPAN} in a group", "store int8 or f32")


def _refused(found: str, expected: str, fix: str) -> ArgumentError:
    sentence = f"int4 cannot hold this matrix: it has {found}, but must have {expected}"
    return ArgumentError("int4", "weight", found, expected, fix, sentence)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, columns))
    for first in range(0, rows, step):
        yield slice(first, first + step)


def _half(scale: Array) -> Array:
    """Return float16 scales: 0, or from 2^-14 to 65504."""
    raised = np.where(scale < SMALLEST_SCALE / 2, 0, np.maximum(scale, SMALLEST_SCALE))
    return np.minimum(raised, 65504).astype(np.float16)


def _inverse(scale: Array) -> Array:
    """Return 1 / s as float32, and 0 for a scale of 0."""
    s = scale.astype(np.float32)
    return np.divide(1, s, out=np.zeros_like(s), where=s > 0)


def _errors(groups: Array, scale: Array, zero: Array) -> Array:
    """Return the squared error of each group for scales (..., n): float32, shape (..., n)."""
    q = nearest(groups, scale[..., None], zero[..., None])
    error = spread(q, scale[..., None], zero[..., None])
    error -= groups
    found: Array = np.einsum("...ij,...ij->...i", error, error)
    return found
