"""The recurrences of the time mixes for whole windows: parallel within chunks of a few tokens.

Shapes: B windows, T tokens, H heads of N channels. A window is cut into M chunks of L tokens, and
only the states between chunks are computed one after the other. Within a chunk, c_t is the sum of
log w over its tokens up to t, so that what token i wrote has decayed by exp(c_t - c_i) after t.
"""

from __future__ import annotations

from typing import Any

import torch

Tensor = Any
"""A torch.Tensor: torch is an extra, so its types are not known everywhere."""

CHUNK = 16
"""Tokens of a chunk, at most. RWKV-7 multiplies exp(-c_i), and its c stays above -0.61 L."""


def scan(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, u: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """Read and write the states of RWKV-5 and 6.

    ::

        y_t = r_t^T (diag(u) k_t v_t^T + S)
        S   = diag(w_t) S + k_t v_t^T

    Parameters
    ----------
    r, k, v : Tensor, shape (B, T, H, N)
    log_w : Tensor, shape (B, T, H, N) or (1, 1, H, N)
        Below 0.
    u : Tensor, shape (H, N)
    S : Tensor, shape (B, H, N, N)
        Before the first token; rows are keys.

    Returns
    -------
    y : Tensor, shape (B, T, H, N)
    S : Tensor, shape (B, H, N, N)
    """
    B, T, H, N = r.shape
    L = _chunk(T)
    if log_w.shape[:2] == (1, 1):  # then all chunks decay alike: B and M are 1 below
        log_w = log_w.expand(1, L, H, N)
    r, k, v, log_w = (_chunks(each, L) for each in (r, k, v, log_w))  # (B, M, H, L, N)
    c = log_w.cumsum(-2)
    before = c - log_w  # c_{t-1}

    # A_ti = sum_n r_tn exp(c_{t-1} - c_i)_n k_in for i < t; r_t (u k_t) for i = t
    # Every exponent is at most 0, so nothing overflows however fast a channel forgets.
    later = torch.ones(L, L, dtype=torch.bool, device=r.device).triu()
    exponent = before[..., :, None, :] - c[..., None, :, :]  # (B, M, H, L, L, N)
    decay = exponent.masked_fill(later[..., None], -1e30).exp()
    products = r[..., :, None, :] * decay * k[..., None, :, :]
    now = (r * u[:, None] * k).sum(-1)  # (B, M, H, L)
    A = products.sum(-1) + torch.diag_embed(now)  # (B, M, H, L, L)

    # S_{m+1} = diag(exp(c_L)) S_m + sum_i exp(c_L - c_i) k_i v_i^T
    last = c[..., -1:, :]
    forget = (last - c).exp()
    written = (forget * k).transpose(-1, -2) @ v  # (B, M, H, N, N)
    kept = last.exp().transpose(-1, -2)
    kept = kept.expand(B, T // L, H, N, 1)
    states = []
    for keep, write in zip(kept.unbind(1), written.unbind(1), strict=True):
        states.append(S)
        S = keep * S + write
    read = r * before.exp()
    y = read @ torch.stack(states, 1) + A @ v
    return _whole(y), S


def scan_v7(
    r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, kk: Tensor, a: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """Read and write the states of RWKV-7.

    ::

        S   = (diag(w_t) - (a_t * kk_t) kk_t^T) S + k_t v_t^T
        y_t = r_t^T S

    A token needs u_t = kk_t^T S, the value under its key. Within a chunk, u depends on u of the
    tokens before by a triangular system:

    ::

        u_t = kk_t^T diag(exp(c_{t-1})) S_0
              + sum_{i<t} kk_t^T diag(exp(c_{t-1} - c_i)) (k_i v_i^T - (a_i kk_i) u_i^T)

    Parameters
    ----------
    r, k, v, kk, a : Tensor, shape (B, T, H, N)
    log_w : Tensor, shape (B, T, H, N)
        From -0.61 to 0.
    S : Tensor, shape (B, H, N, N)
        Before the first token; rows are keys.

    Returns
    -------
    y : Tensor, shape (B, T, H, N)
    S : Tensor, shape (B, H, N, N)
    """
    N = r.shape[-1]
    L = _chunk(r.shape[1])
    r, k, v = (_chunks(each, L) for each in (r, k, v))
    kk, a, log_w = (_chunks(each, L) for each in (kk, a, log_w))
    c = log_w.cumsum(-2)  # (B, M, H, L, N)
    b = a * kk
    read = r * c.exp()
    found = kk * (c - log_w).exp()
    back = (-c).exp()
    k_back = (k * back).transpose(-1, -2)  # (B, M, H, N, L)
    b_back = (b * back).transpose(-1, -2)

    # (1 + tril(kk b)) u = kk S_0 + tril(kk k) v, solved for both terms at once: u = U1 S_0 + U0
    system = (found @ b_back).tril(-1) + torch.eye(L, device=r.device)
    own = (found @ k_back).tril(-1) @ v
    right = torch.cat([found, own], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    U1 = solved[..., :N]
    U0 = solved[..., N:]

    last = c[..., -1:, :]
    forget = (last - c).exp()
    kept = last.exp().transpose(-1, -2)  # (B, M, H, N, 1)
    written = (forget * k).transpose(-1, -2) @ v
    removed = (forget * b).transpose(-1, -2)
    states = []
    corrections = []
    chunks = (each.unbind(1) for each in (kept, written, removed, U1, U0))
    for keep, write, remove, from_state, known in zip(*chunks, strict=True):
        states.append(S)
        u = from_state @ S + known
        corrections.append(u)
        S = keep * S + write - remove @ u
    u = torch.stack(corrections, 1)
    y = read @ torch.stack(states, 1)
    y = y + (read @ k_back).tril() @ v
    y = y - (read @ b_back).tril() @ u
    return _whole(y), S


def _chunk(T: int) -> int:
    """Return the largest size of a chunk that divides T."""
    return next(size for size in range(CHUNK, 0, -1) if T % size == 0)


def _chunks(x: Tensor, L: int) -> Tensor:
    """Cut (B, T, H, N) into (B, M, H, L, N)."""
    B, T, H, N = x.shape
    return x.reshape(B, T // L, L, H, N).transpose(2, 3)


def _whole(y: Tensor) -> Tensor:
    """Join (B, M, H, L, N) to (B, T, H, N)."""
    B, M, H, L, N = y.shape
    return y.transpose(2, 3).reshape(B, M * L, H, N)
