"""RWKV v4 to v7, one token at a time, in float32 NumPy: to be read, and to test the engine with.

Letters are those of the papers: v4 arXiv:2305.13048, v5 and v6 arXiv:2404.05892, v7
arXiv:2503.14456. Sizes:

- C channels, in H heads of N channels each (H * N = C);
- F channels inside the channel mix;
- V tokens in the vocabulary;
- D, the rank of a small pair of matrices.

Weights are those of a model file: matrices are [out, in]; the first layer norm is part of the
embedding, and the exp of v4's and v5's decays is already computed.

A time mix and a channel mix take their own tensors by name, the normed input x (C,), and x_prev
(C,), the normed input of the token before. A time mix also takes its part of the state and returns
the new one; `new_state` says what it holds. A channel mix has no state except x_prev.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .forms import DEEP_RANK, DEEP_TABLE, LIKE_V7
from .preview import Array, Tensors

# To be imported from here too: a head with a preview is part of the mathematics.
from .preview import even as even
from .preview import lowest_score as lowest_score
from .preview import preview as preview
from .preview import preview_logits as preview_logits
from .preview import steps as steps
from .preview import unpack as unpack

# The whole model


def forward(
    weights: Tensors, config: Mapping[str, Any], token: int, state: Array
) -> tuple[Array, Array]:
    """Read one token.

    ::

        x = emb[token]
        for each block:
            x = x + time_mix(LN(x; ln1))
            x = x + channel_mix(LN(x; ln2))
        logits = head @ LN(x; ln_out)                      or with a preview: `preview_logits`

    Parameters
    ----------
    weights : mapping of str to ndarray, float32
        The tensors of a model file by name, see ``quant.dequantize``.
    config : mapping
        The metadata of the model file.
    token : int
        From 0 to V - 1.
    state : ndarray, float32, shape (S,)
        The state after the tokens before, see `new_state`; it is not changed.

    Returns
    -------
    logits : ndarray, float32, shape (V,)
    new_state : ndarray, float32, shape (S,)
    """
    state_after = new_state(config)
    v_first = None
    x = weights["emb.weight"][token]  # (C,)
    for i in range(config["n_layer"]):
        block = part(weights, f"blocks.{i}.")
        before = layer_state(config, state, i)
        after = layer_state(config, state_after, i)  # views, to write to

        xx = layer_norm(x, block["ln1.weight"], block["ln1.bias"])  # (C,)
        out, after.mix[:], v_first = _time_mix(
            config, part(block, "att."), xx, before.att_x, before.mix, v_first
        )
        after.att_x[:] = xx
        x = x + out

        xx = layer_norm(x, block["ln2.weight"], block["ln2.bias"])  # (C,)
        ffn = part(block, "ffn.")
        if DEEP_TABLE in weights:
            ffn["own"] = weights[DEEP_TABLE][token, i]  # (n,)
        out = _channel_mix(config, ffn, xx, before.ffn_x)
        after.ffn_x[:] = xx
        x = x + out

    x = layer_norm(x, weights["ln_out.weight"], weights["ln_out.bias"])
    if "head.weight" in weights:
        return weights["head.weight"] @ x, state_after
    logits, _ = preview_logits(part(weights, "head."), x[None])  # (1, V)
    return logits[0], state_after


def _time_mix(
    config: Mapping[str, Any],
    att: Tensors,
    x: Array,
    x_prev: Array,
    state: Array,
    v_first: Array | None,
) -> tuple[Array, Array, Array | None]:
    """Apply the time mix of a model's version; `v_first` belongs to v7, the others pass it on."""
    arch = config["arch"]
    if arch in LIKE_V7:
        return time_mix_v7(att, x, x_prev, state, v_first, config["ln_x_eps"])
    if arch == "v4":
        return *time_mix_v4(att, x, x_prev, state), v_first
    if arch == "v6":
        return *time_mix_v6(att, x, x_prev, state, config["ln_x_eps"]), v_first
    return *time_mix_v5(att, x, x_prev, state, config["ln_x_eps"]), v_first


def _channel_mix(config: Mapping[str, Any], ffn: Tensors, x: Array, x_prev: Array) -> Array:
    """Apply the channel mix of a model's version."""
    mixes = {"v7": channel_mix_v7, "v7a": channel_mix_v7a, "v8-rc00": channel_mix_v8}
    mix = mixes.get(config["arch"], channel_mix)
    return mix(ffn, x, x_prev)


# RWKV-4


def time_mix_v4(att: Tensors, x: Array, x_prev: Array, state: Array) -> tuple[Array, Array]:
    """Average the values so far; recent ones and those with large keys count most.

    ::

                sum_{i<t} e^((t-1-i)w + k_i) v_i + e^(u+k_t) v_t
        wkv_t = ------------------------------------------------
                sum_{i<t} e^((t-1-i)w + k_i)     + e^(u+k_t)

        out = O @ (sigmoid(r) * wkv)

    The state holds the two sums over the past as aa e^pp and bb e^pp. The exponent pp is the
    largest so far, so neither aa nor bb overflows.
    """
    aa, bb, pp = state  # (C,) each
    xr, xk, xv = token_shift(x, x_prev, att["token_shift"])  # (C,) each
    r = project(att, "receptance", xr)  # (C,)
    k = project(att, "key", xk)  # (C,)
    v = project(att, "value", xv)  # (C,)
    w = att["time_decay"]  # (C,), below 0: each step back in time multiplies by e^w
    u = att["time_first"]  # (C,)

    # q   = max(pp, u + k)
    # wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q))
    q = np.maximum(pp, u + k)
    past = np.exp(pp - q)
    now = np.exp(u + k - q)
    wkv = (past * aa + now * v) / (past * bb + now)
    out = att["output.weight"] @ (sigmoid(r) * wkv)

    # q   = max(pp + w, k)
    # aa' = e^(pp+w-q) aa + e^(k-q) v
    # bb' = e^(pp+w-q) bb + e^(k-q)
    # pp' = q
    q = np.maximum(pp + w, k)
    past = np.exp(pp + w - q)
    now = np.exp(k - q)
    return out, np.stack([past * aa + now * v, past * bb + now, q])


# RWKV-5 and RWKV-6


def time_mix_v5(
    att: Tensors, x: Array, x_prev: Array, S: Array, ln_x_eps: float
) -> tuple[Array, Array]:
    """Write key and value of each token into one matrix per head; read it with the receptance.

    ::

        y   = r^T (diag(u) k v^T + S)                      per head
        S'  = diag(w) S + k v^T                            per head
        out = O @ (GN(y; ln_x) * silu(G @ xg))

    v5.0 has no gate G. In v5.0 and v5.1 the channels of a head share one w and one u.
    """
    xr, xk, xv, *xg = token_shift(x, x_prev, att["token_shift"])  # (C,) each
    r = project(att, "receptance", xr)  # (C,)
    k = project(att, "key", xk)  # (C,)
    v = project(att, "value", xv)  # (C,)

    y, S = read_and_write(S, r, k, v, att["time_decay"], att["bonus"])
    y = group_norm(y, att["ln_x.weight"], att["ln_x.bias"], ln_x_eps)  # (C,)
    if xg:
        y = y * silu(project(att, "gate", xg[0]))
    return att["output.weight"] @ y, S


def time_mix_v6(
    att: Tensors, x: Array, x_prev: Array, S: Array, ln_x_eps: float
) -> tuple[Array, Array]:
    """Do the same as v5.2, with a token shift and a decay that depend on the token.

    ::

        z   = x + (x_prev - x) * maa_x
        m_j = W2_j @ tanh(W1_j @ z)                        j = r, k, v, w, g
        x_j = x + (x_prev - x) * (token_shift_j + m_j)
        w   = exp(-exp(time_decay + D2 @ tanh(D1 @ xw)))
    """
    dx = x_prev - x  # (C,)
    z = x + dx * att["time_maa_x"]  # (C,)
    W1 = att["time_maa_w1.weight"]  # (5 D, C)
    W2 = att["time_maa_w2.weight"].reshape(5, x.size, -1)  # (5, C, D)
    m = np.einsum("jcd,jd->jc", W2, np.tanh(W1 @ z).reshape(5, -1))  # (5, C)
    xr, xk, xv, xw, xg = x + dx * (att["token_shift"] + m)  # (C,) each

    r = project(att, "receptance", xr)  # (C,)
    k = project(att, "key", xk)  # (C,)
    v = project(att, "value", xv)  # (C,)
    g = silu(project(att, "gate", xg))  # (C,)
    D1 = att["time_decay_w1.weight"]  # (D, C)
    D2 = att["time_decay_w2.weight"]  # (C, D)
    w = np.exp(-np.exp(att["time_decay"] + D2 @ np.tanh(D1 @ xw)))  # (C,)

    y, S = read_and_write(S, r, k, v, w, att["bonus"])
    y = group_norm(y, att["ln_x.weight"], att["ln_x.bias"], ln_x_eps)  # (C,)
    return att["output.weight"] @ (y * g), S


def read_and_write(
    S: Array, r: Array, k: Array, v: Array, w: Array, u: Array
) -> tuple[Array, Array]:
    """Return ``y = r^T (diag(u) k v^T + S)`` and ``S' = diag(w) S + k v^T``, per head.

    S is (H, N, N), the others are (C,); y is (H, N).
    """
    H, N, _ = S.shape  # head, key, value
    r, k, v, w, u = (each.reshape(H, N) for each in (r, k, v, w, u))
    kv = k[:, :, None] * v[:, None, :]  # (H, N, N)
    y = np.einsum("hi,hij->hj", r, u[:, :, None] * kv + S)  # (H, N)
    return y, w[:, :, None] * S + kv


# RWKV-7


def time_mix_v7(
    att: Tensors, x: Array, x_prev: Array, S: Array, v_first: Array | None, ln_x_eps: float
) -> tuple[Array, Array, Array]:
    """Correct what the matrix holds under a key, by one step of gradient descent; then read it.

    ::

        w   = exp(-e^(-1/2) sigmoid(w0 + W2 @ tanh(W1 @ xw)))     decay
        a   = sigmoid(a0 + A2 @ A1 @ xa)                          rate of the correction
        g   = G2 @ sigmoid(G1 @ xg)                               gate
        kk  = k * k_k / |k * k_k|                                 per head: the key to correct
        k'  = k * (1 + (a - 1) * k_a)                             the key to write
        v'  = v + (v_first - v) * sigmoid(v0 + V2 @ V1 @ xv)      v_first: v of layer 0
        S'  = (diag(w) - (a * kk) kk^T) S + k' v'^T               per head
        y   = r^T S'                                              per head
        out = O @ ((GN(y; ln_x) + (r . (r_k * k')) v') * g)

    Layer 0, where `v_first` is None, keeps its v and returns it for the layers after it.
    """
    H, N, _ = S.shape  # head, key, value
    xr, xw, xk, xv, xa, xg = token_shift(x, x_prev, att["token_shift"])  # (C,) each
    r = project(att, "receptance", xr).reshape(H, N)
    k = project(att, "key", xk)  # (C,)
    v = project(att, "value", xv)  # (C,)

    # w = exp(-e^(-1/2) sigmoid(w0 + W2 @ tanh(W1 @ xw)))
    low = np.tanh(att["w1.weight"] @ xw)  # (D,)
    w = sigmoid(att["w0"] + att["w2.weight"] @ low)  # (C,)
    w = np.exp(-math.exp(-0.5) * w).reshape(H, N)

    # a = sigmoid(a0 + A2 @ A1 @ xa)
    low = att["a1.weight"] @ xa  # (D,)
    a = sigmoid(att["a0"] + att["a2.weight"] @ low)  # (C,)

    # g = G2 @ sigmoid(G1 @ xg)
    low = sigmoid(att["g1.weight"] @ xg)  # (D,)
    g = att["g2.weight"] @ low  # (C,)

    # kk = k * k_k / |k * k_k|
    # k' = k * (1 + (a - 1) * k_a)
    kk = (k * att["k_k"]).reshape(H, N)
    norm = np.sqrt((kk * kk).sum(axis=1, keepdims=True))  # (H, 1)
    kk = kk / np.maximum(norm, 1e-12)
    k = k * (1 + (a - 1) * att["k_a"])  # (C,)

    # v' = v + (v_first - v) * sigmoid(v0 + V2 @ V1 @ xv)
    if v_first is None:
        v_first = v
    else:
        low = att["v1.weight"] @ xv  # (D,)
        share = sigmoid(att["v0"] + att["v2.weight"] @ low)  # (C,)
        v = v + (v_first - v) * share

    # S' = diag(w) S - (a * kk) (kk^T S) + k' v'^T
    # y  = r^T S'
    k, v, a = (each.reshape(H, N) for each in (k, v, a))
    found = np.einsum("hi,hij->hj", kk, S)  # kk^T S, (H, N): the value that S has under this key
    corrected = (a * kk)[:, :, None] * found[:, None, :]  # (H, N, N)
    written = k[:, :, None] * v[:, None, :]  # (H, N, N)
    S = w[:, :, None] * S - corrected + written
    y = np.einsum("hi,hij->hj", r, S)  # (H, N)

    # out = O @ ((GN(y; ln_x) + (r . (r_k * k')) v') * g)
    y = group_norm(y, att["ln_x.weight"], att["ln_x.bias"], ln_x_eps)  # (C,)
    r_k = att["r_k"].reshape(H, N)
    bonus = (r * k * r_k).sum(axis=1, keepdims=True) * v  # (H, N)
    y = y + bonus.reshape(-1)
    return att["output.weight"] @ (y * g), S, v_first


# Channel mixes


def channel_mix(ffn: Tensors, x: Array, x_prev: Array) -> Array:
    """Add up the values whose keys match, in v4 to v6.

    ::

        out = sigmoid(R @ xr) * (V @ relu(K @ xk)^2)
    """
    xk, xr = token_shift(x, x_prev, ffn["token_shift"])  # (C,) each
    r = sigmoid(project(ffn, "receptance", xr))  # (C,)
    k: Array = np.square(np.maximum(ffn["key.weight"] @ xk, 0))  # (F,)
    return r * (ffn["value.weight"] @ k)


def channel_mix_v7(ffn: Tensors, x: Array, x_prev: Array) -> Array:
    """Add up the values whose keys match, in v7.

    ::

        out = V @ relu(K @ xk)^2
    """
    (xk,) = token_shift(x, x_prev, ffn["token_shift"])  # (C,)
    k: Array = np.square(np.maximum(ffn["key.weight"] @ xk, 0))  # (F,)
    return ffn["value.weight"] @ k


def channel_mix_v7a(ffn: Tensors, x: Array, x_prev: Array) -> Array:
    """Weigh the keys that match by what the token is, in v7a (DeepEmbed).

    ::

        f   = s0 + S2 @ E^T @ S1 @ x                       E: the token's own matrix in this layer
        out = V @ (relu(K @ xk)^2 * f)
    """
    E = ffn["own"].reshape(DEEP_RANK, DEEP_RANK)
    low = ffn["s1.weight"] @ x  # (D,), of x as it is: no token is mixed in
    f = ffn["s0"] + ffn["s2.weight"] @ (low @ E)  # (F,)
    (xk,) = token_shift(x, x_prev, ffn["token_shift"])  # (C,)
    k: Array = np.square(np.maximum(ffn["key.weight"] @ xk, 0))  # (F,)
    return ffn["value.weight"] @ (k * f)


def channel_mix_v8(ffn: Tensors, x: Array, x_prev: Array) -> Array:
    """Weigh the sum of the values by what the token is, in v8 rc00.

    ::

        out = e * (V @ relu(K @ xk)^2)                     e: the token's own vector in this layer
    """
    return ffn["own"] * channel_mix_v7(ffn, x, x_prev)


# What the blocks share


def token_shift(x: Array, x_prev: Array, mu: Array) -> Array:
    """Mix in the token before, in n ways: ``x + (x_prev - x) * mu``, (n, C)."""
    return x + (x_prev - x) * mu


def project(tensors: Tensors, name: str, x: Array) -> Array:
    """Multiply x with a matrix, whole or in factors.

    ::

        W @ x
        B @ A @ x                                          of low rank
        B @ relu(A @ x)^2 + diag * x                       of low rank, enhanced
    """
    if f"{name}.weight" in tensors:
        return tensors[f"{name}.weight"] @ x
    A = tensors[f"{name}.weight.a"]  # (D, in)
    B = tensors[f"{name}.weight.b"]  # (out, D)
    low = A @ x  # (D,)
    if f"{name}.diag" in tensors:
        return B @ np.square(np.maximum(low, 0)) + tensors[f"{name}.diag"] * x
    return B @ low


def layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Return ``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last axis."""
    centred: Array = x - x.mean(axis=-1, keepdims=True)
    deviation: Array = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    return centred / deviation * weight + bias


def group_norm(y: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Normalise each head of y (H, N) by itself, then lay the heads in one row: (C,)."""
    H, N = y.shape
    return layer_norm(y, weight.reshape(H, N), bias.reshape(H, N), eps).reshape(-1)


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + e^-x)``."""
    exp: Array = np.exp(-np.maximum(x, -80))  # e^89 overflows; sigmoid(-80) is 1e-35
    return 1.0 / (1.0 + exp)


def silu(x: Array) -> Array:
    """Return ``x * sigmoid(x)``."""
    return x * sigmoid(x)


# The state, and tensors by name


class LayerState(NamedTuple):
    """The state of one layer, as views of the whole state."""

    att_x: Array
    """The time mix's normed input of the last token, (C,)."""

    ffn_x: Array
    """The channel mix's normed input of the last token, (C,)."""

    mix: Array
    """The time mix's own state: aa, bb and pp (3, C) in v4, S (H, N, N) in the others."""


def new_state(config: Mapping[str, Any]) -> Array:
    """Return the state before the first token.

    Parameters
    ----------
    config : mapping
        The metadata of the model file.

    Returns
    -------
    state : ndarray, float32, shape (S,)
        The fields of `LayerState`, layer by layer. All are zero, except v4's pp, which is -1e30.
    """
    C = config["n_embd"]
    is_v4 = config["arch"] == "v4"
    mix_size = 3 * C if is_v4 else config["n_head"] * config["head_size"] ** 2
    state = np.zeros((config["n_layer"], 2 * C + mix_size), np.float32)
    if is_v4:
        state[:, 4 * C :] = -1e30  # pp
    return state.reshape(-1)


def layer_state(config: Mapping[str, Any], state: Array, i: int) -> LayerState:
    """Return views of layer i of a state."""
    C = config["n_embd"]
    shape: tuple[int, ...] = (config["n_head"], config["head_size"], config["head_size"])
    if config["arch"] == "v4":
        shape = (3, C)
    row = state.reshape(config["n_layer"], -1)[i]
    return LayerState(row[:C], row[C : 2 * C], row[2 * C :].reshape(shape))


def part(tensors: Tensors, prefix: str) -> dict[str, Array]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
