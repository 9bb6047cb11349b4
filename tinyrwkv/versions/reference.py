"""RWKV v4 to v7, one token at a time, in float32 NumPy: the text to read and the oracle of the tests.

Letters as in the papers (v4 arXiv:2305.13048, v5 and v6 arXiv:2404.05892, v7 arXiv:2503.14456). Sizes: C channels,
F channels inside the channel mix, H heads of N channels (H * N = C), V tokens in the vocabulary, D rank of v6's mix.
Weights as in a model file: matrices [out, in]; the first layer norm and the exp of v4's and v5's decays are done.

A time mix or channel mix takes its own tensors by name, the normed input x (C,) and x_prev (C,), that of the token
before; a time mix also takes what it remembers, laid out as in `new_state`, and returns it renewed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .layout import CODE_BITS, code_qmax

Array = np.ndarray  # float32 everywhere
Tensors = Mapping[str, Array]


def forward(
    weights: Tensors, config: Mapping[str, Any], token: int, state: Array
) -> tuple[Array, Array]:
    """Read one token.

    ::

        x = emb[token]
        for each block:  x = x + time_mix(LN(x; ln1))
                         x = x + channel_mix(LN(x; ln2))
        logits = head @ LN(x; ln_out)                      or by a preview, see `preview_logits`

    Parameters
    ----------
    weights : mapping of str to ndarray, float32
        The tensors of a model file by name, see ``quant.dequantize``.
    config : mapping
        The metadata of the model file.
    token : int
        From 0 to V - 1.
    state : ndarray, float32, shape (S,)
        What is kept of the tokens before, see `new_state`; it is not changed.

    Returns
    -------
    logits : ndarray, float32, shape (V,)
    new_state : ndarray, float32, shape (S,)
    """
    arch, after = config["arch"], new_state(config)
    x, v_first = weights["emb.weight"][token], None  # (C,)
    for i in range(config["n_layer"]):
        block = part(weights, f"blocks.{i}.")
        att, ffn = part(block, "att."), part(block, "ffn.")
        att_x, ffn_x, memory = layer_state(config, state, i)
        new_att_x, new_ffn_x, new_memory = layer_state(config, after, i)

        xx = layer_norm(x, block["ln1.weight"], block["ln1.bias"])
        if arch == "v4":
            out, new_memory[:] = time_mix_v4(att, xx, att_x, memory)
        elif arch == "v6":
            out, new_memory[:] = time_mix_v6(att, xx, att_x, memory, config["ln_x_eps"])
        elif arch == "v7":
            out, new_memory[:], v_first = time_mix_v7(
                att, xx, att_x, memory, v_first, config["ln_x_eps"]
            )
        else:
            out, new_memory[:] = time_mix_v5(att, xx, att_x, memory, config["ln_x_eps"])
        x, new_att_x[:] = x + out, xx
        xx = layer_norm(x, block["ln2.weight"], block["ln2.bias"])
        out = channel_mix_v7(ffn, xx, ffn_x) if arch == "v7" else channel_mix(ffn, xx, ffn_x)
        x, new_ffn_x[:] = x + out, xx
    x = layer_norm(x, weights["ln_out.weight"], weights["ln_out.bias"])
    if "head.weight" in weights:
        return weights["head.weight"] @ x, after
    return preview_logits(part(weights, "head."), x[None])[0][0], after


def time_mix_v4(att: Tensors, x: Array, x_prev: Array, memory: Array) -> tuple[Array, Array]:
    """Average the values so far; recent ones and those with large keys count most.

    ::

        wkv_t = (sum_{i<t} e^((t-1-i)w + k_i) v_i + e^(u+k_t) v_t) / (sum_{i<t} e^((t-1-i)w + k_i) + e^(u+k_t))
        out = O @ (sigmoid(r) * wkv)

    The sums over the past are kept as aa e^pp and bb e^pp, pp being their largest exponent, so that none overflows.
    """
    aa, bb, pp = memory  # (C,) each
    xr, xk, xv = token_shift(x, x_prev, att["token_shift"])
    r, k, v = (
        project(att, "receptance", xr),
        project(att, "key", xk),
        project(att, "value", xv),
    )  # (C,) each
    w, u = att["time_decay"], att["time_first"]  # w < 0: a step back in time multiplies by e^w
    # q = max(pp, u + k);  wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q))
    q = np.maximum(pp, u + k)
    past, now = np.exp(pp - q), np.exp(u + k - q)
    wkv = (past * aa + now * v) / (past * bb + now)
    # q = max(pp + w, k);  aa = e^(pp+w-q) aa + e^(k-q) v;  bb = e^(pp+w-q) bb + e^(k-q);  pp = q
    q = np.maximum(pp + w, k)
    past, now = np.exp(pp + w - q), np.exp(k - q)
    return att["output.weight"] @ (sigmoid(r) * wkv), np.stack(
        [past * aa + now * v, past * bb + now, q]
    )


def time_mix_v5(
    att: Tensors, x: Array, x_prev: Array, S: Array, ln_x_eps: float
) -> tuple[Array, Array]:
    """Write key and value of each token into one matrix per head; read it with the receptance.

    ::

        y = r^T (diag(u) k v^T + S);  S' = diag(w) S + k v^T            per head
        out = O @ (GN(y; ln_x) * silu(G @ xg))

    v5.0 has no gate G. In v5.0 and v5.1 the channels of a head share one w and one u.
    """
    xr, xk, xv, *xg = token_shift(x, x_prev, att["token_shift"])  # (C,) each
    r, k, v = (
        project(att, "receptance", xr),
        project(att, "key", xk),
        project(att, "value", xv),
    )  # (C,) each
    y, S = read_and_write(S, r, k, v, att["time_decay"], att["bonus"])
    y = group_norm(y, att["ln_x.weight"], att["ln_x.bias"], ln_x_eps)  # (C,)
    if xg:
        y = y * silu(project(att, "gate", xg[0]))
    return att["output.weight"] @ y, S


def time_mix_v6(
    att: Tensors, x: Array, x_prev: Array, S: Array, ln_x_eps: float
) -> tuple[Array, Array]:
    """Do as v5.2, with token shift and decay that depend on the token.

    ::

        z = x + (x_prev - x) * maa_x;  m_j = W2_j @ tanh(W1_j @ z)         j = r, k, v, w, g
        x_j = x + (x_prev - x) * (token_shift_j + m_j)
        w = exp(-exp(time_decay + D2 @ tanh(D1 @ xw)))
    """
    dx = x_prev - x
    t = np.tanh(att["time_maa_w1.weight"] @ (x + dx * att["time_maa_x"])).reshape(5, -1)  # (5, D)
    m = np.einsum("jcd,jd->jc", att["time_maa_w2.weight"].reshape(5, x.size, -1), t)  # (5, C)
    xr, xk, xv, xw, xg = x + dx * (att["token_shift"] + m)  # (C,) each
    r, k, v = (
        project(att, "receptance", xr),
        project(att, "key", xk),
        project(att, "value", xv),
    )  # (C,) each
    d = att["time_decay"] + att["time_decay_w2.weight"] @ np.tanh(
        att["time_decay_w1.weight"] @ xw
    )  # (C,)
    y, S = read_and_write(S, r, k, v, np.exp(-np.exp(d)), att["bonus"])
    y = group_norm(y, att["ln_x.weight"], att["ln_x.bias"], ln_x_eps)  # (C,)
    return att["output.weight"] @ (y * silu(project(att, "gate", xg))), S


def read_and_write(
    S: Array, r: Array, k: Array, v: Array, w: Array, u: Array
) -> tuple[Array, Array]:
    """Return ``r^T (diag(u) k v^T + S)``, (H, N), and ``diag(w) S + k v^T``."""
    r, k, v, w, u = (each.reshape(S.shape[:2]) for each in (r, k, v, w, u))  # (C,) -> (H, N)
    kv = k[:, :, None] * v[:, None, :]  # (H, N, N): head, key, value
    y = np.einsum("hi,hij->hj", r, u[:, :, None] * kv + S)
    return y, w[:, :, None] * S + kv


def time_mix_v7(
    att: Tensors, x: Array, x_prev: Array, S: Array, v_first: Array | None, ln_x_eps: float
) -> tuple[Array, Array, Array]:
    """Replace, by one step of gradient descent, what the matrix holds under a key; then read it.

    ::

        w = exp(-e^(-1/2) sigmoid(w0 + W2 @ tanh(W1 @ xw)));  a = sigmoid(a0 + A2 @ A1 @ xa);  g = G2 @ sigmoid(G1 @ xg)
        kk = k * k_k / |k * k_k|  per head;  k = k * (1 + (a - 1) * k_a)
        v = v + (v_first - v) * sigmoid(v0 + V2 @ V1 @ xv)       v_first: v of layer 0, for this token
        S' = (diag(w) - (a * kk) kk^T) S + k v^T;  y = r^T S'                               per head
        out = O @ ((GN(y; ln_x) + (r . (r_k * k)) v) * g)
    """
    H, N, _ = S.shape  # head, key, value
    xr, xw, xk, xv, xa, xg = token_shift(x, x_prev, att["token_shift"])  # (C,) each
    r = project(att, "receptance", xr).reshape(H, N)
    k = project(att, "key", xk)  # (C,)
    v = project(att, "value", xv)  # (C,)
    w = att["w0"] + att["w2.weight"] @ np.tanh(att["w1.weight"] @ xw)  # (C,)
    w = np.exp(-math.exp(-0.5) * sigmoid(w)).reshape(H, N)
    a = sigmoid(att["a0"] + att["a2.weight"] @ (att["a1.weight"] @ xa))  # (C,)
    g = att["g2.weight"] @ sigmoid(att["g1.weight"] @ xg)  # (C,)
    kk = (k * att["k_k"]).reshape(H, N)
    kk = kk / np.maximum(np.sqrt((kk * kk).sum(axis=1, keepdims=True)), 1e-12)
    k = (k * (1 + (a - 1) * att["k_a"])).reshape(H, N)
    if v_first is None:
        v_first = v
    else:
        v = v + (v_first - v) * sigmoid(att["v0"] + att["v2.weight"] @ (att["v1.weight"] @ xv))
    v, a = v.reshape(H, N), a.reshape(H, N)
    held = np.einsum("hi,hij->hj", kk, S)  # kk^T S, (H, N): the value held under this key
    S = w[:, :, None] * S - (a * kk)[:, :, None] * held[:, None, :] + k[:, :, None] * v[:, None, :]
    y = np.einsum("hi,hij->hj", r, S)  # (H, N)
    y = group_norm(y, att["ln_x.weight"], att["ln_x.bias"], ln_x_eps)  # (C,)
    bonus = (r * k * att["r_k"].reshape(H, N)).sum(axis=1, keepdims=True) * v  # (H, N)
    return att["output.weight"] @ ((y + bonus.reshape(-1)) * g), S, v_first


def channel_mix(ffn: Tensors, x: Array, x_prev: Array) -> Array:
    """Sum the values whose keys match: ``sigmoid(R @ xr) * (V @ relu(K @ xk)^2)``."""
    xk, xr = token_shift(x, x_prev, ffn["token_shift"])
    k: Array = np.square(np.maximum(ffn["key.weight"] @ xk, 0))  # (F,)
    return sigmoid(project(ffn, "receptance", xr)) * (ffn["value.weight"] @ k)


def channel_mix_v7(ffn: Tensors, x: Array, x_prev: Array) -> Array:
    """Sum the values whose keys match: ``V @ relu(K @ xk)^2``."""
    (xk,) = token_shift(x, x_prev, ffn["token_shift"])
    k: Array = np.square(np.maximum(ffn["key.weight"] @ xk, 0))  # (F,)
    return ffn["value.weight"] @ k


def preview_logits(head: Tensors, x: Array) -> tuple[Array, Array]:
    """Return logits for n inputs x (n, C), exact for the rows that matter most, and which rows these are, (n, V) each.

    ::

        z_i = w_i . x    of the rows of highest score = z_i + log(variance of its error); of the others see `preview`
        logits = z[places]
    """
    z = preview(head, x)  # (n, V)
    scores = steps(z + even(head["ranges"][1], head["spread_codes"]))
    chosen = scores >= lowest_score(scores, int(head["wanted"][0]))
    for t, rows in enumerate(chosen):
        z[t, rows] = head["rows.weight"][rows] @ x[t]
    return z[:, head["places"]], chosen


def lowest_score(scores: Array, wanted: int) -> Array:
    """Return the least score in each row of scores (n, V) that at most so many reach, (n, 1)."""
    V = scores.shape[1]
    return (
        scores.min(axis=1, keepdims=True)
        if wanted >= V
        else np.sort(scores)[:, [V - 1 - max(wanted, 0)]] + 1
    )


def preview(head: Tensors, x: Array) -> Array:
    """Guess the logits of every row from a few bits of it, (n, V), likely tokens first.

    ::

        y = B x + b;  u = round(y / s), s = max|y| / qmax                             for each level
        z_i = mean . x + bias_i + sum of s scale_i (c_i . u - (2^bits - 1) / 2 sum(u))  over levels
    """
    z = even(head["ranges"][0], head["bias_codes"]) + (x @ head["mean"])[:, None]  # (n, V)
    y, first = x @ head["basis.weight"].T + head["basis.bias"], 0  # (n, R)
    for k, bits in enumerate(bits for bits in CODE_BITS if f"codes.{bits}" in head):
        scales = head["tables"][k][head[f"scale_codes.{bits}"]]  # (rows,)
        codes = unpack(head[f"codes.{bits}"], bits)[: len(scales)]  # (rows, rank)
        rank = codes.shape[1]
        s = np.abs(y[:, first : first + rank]).max(axis=1, keepdims=True) / np.float32(
            code_qmax(bits)
        )
        u = np.rint(
            256 * (y[:, first : first + rank] / np.where(s > 0, s, np.inf))
        )  # as the kernels have them: int16
        u = np.floor((u + 128) / 256)  # (n, rank)
        sums = u @ codes.astype(np.float32).T  # (n, rows), whole numbers
        sums -= np.float32((2**bits - 1) / 2) * u.sum(axis=1, keepdims=True)
        z[:, : len(scales)] += sums * (s * scales)
        first += rank
    return z


def unpack(codes: Array, bits: int) -> Array:
    """Return codes of `bits` bits, one in each uint8: (blocks, bytes, 64) to (rows, rank)."""
    side_by_side = codes.transpose(0, 2, 1)[..., None]  # (blocks, 64, bytes, 1)
    unpacked = (side_by_side >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8(2**bits - 1)
    return unpacked.reshape(-1, codes.shape[1] * 8 // bits)


def even(low_and_step: Array, codes: Array) -> Array:
    """Return numbers that lie at even distances: ``low + step * code``."""
    return low_and_step[0] + low_and_step[1] * codes.astype(np.float32)


def steps(x: Array) -> Array:
    """Round to multiples of 1/16, in whole numbers of them."""
    return np.rint(16 * np.clip(x, -2047, 2047)).astype(np.int16)


def project(tensors: Tensors, name: str, x: Array) -> Array:
    """Return ``W @ x``; of a factored matrix ``B @ A @ x``, of the enhanced form ``B @ relu(A @ x)^2 + diag * x``."""
    if f"{name}.weight" in tensors:
        return tensors[f"{name}.weight"] @ x
    low = tensors[f"{name}.weight.a"] @ x  # (R,)
    if f"{name}.diag" in tensors:
        return (
            tensors[f"{name}.weight.b"] @ np.square(np.maximum(low, 0))
            + tensors[f"{name}.diag"] * x
        )
    return tensors[f"{name}.weight.b"] @ low


def token_shift(x: Array, x_prev: Array, mu: Array) -> Array:
    """Mix in the token before, in n ways: ``x + (x_prev - x) * mu``, (n, C)."""
    return x + (x_prev - x) * mu


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


def new_state(config: Mapping[str, Any]) -> Array:
    """Return the state before the first token.

    Parameters
    ----------
    config : mapping
        The metadata of the model file.

    Returns
    -------
    state : ndarray, float32, shape (S,)
        For each layer in turn att_x (C,) and ffn_x (C,), the normed inputs of the last token, then what the time mix
        remembers: aa, bb and pp (C,) in v4, the matrices S (H, N, N) in the others. All zero but pp, which is -1e30.
    """
    C, is_v4 = config["n_embd"], config["arch"] == "v4"
    size = 5 * C if is_v4 else 2 * C + config["n_head"] * config["head_size"] ** 2
    state = np.zeros((config["n_layer"], size), np.float32)
    if is_v4:
        state[:, 4 * C :] = -1e30
    return state.reshape(-1)


def layer_state(config: Mapping[str, Any], state: Array, i: int) -> tuple[Array, Array, Array]:
    """Return views of one layer: att_x (C,), ffn_x (C,), memory (3, C) or (H, N, N)."""
    C, row = config["n_embd"], state.reshape(config["n_layer"], -1)[i]
    shape = (
        (3, C)
        if config["arch"] == "v4"
        else (config["n_head"], config["head_size"], config["head_size"])
    )
    return row[:C], row[C : 2 * C], row[2 * C :].reshape(shape)


def part(tensors: Tensors, prefix: str) -> dict[str, Array]:
    """Return the tensors below a prefix, by the rest of their name."""
    return {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
