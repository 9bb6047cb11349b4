"""The operations that a program is made of: their numbers, their fields, their formulas."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

MAX_TOKENS = 16
"""Tokens that one kernel call reads at most."""

EMBED, NORM, SHIFT, QUANTIZE, MATMUL, PREDICT, SPARSE, WKV4, WKV5, WKV7, SELECT, SYNC = range(12)

_PRODUCT = (
    *("weight", "scale", "kind", "units", "cols", "unit", "shared", "src", "stride", "src_scale"),
    *("dst", "dst_stride", "activation", "bias", "mode", "gate", "diag", "diag_src"),
)
FIELDS = {
    EMBED: ("weight", "scale", "kind", "dst", "width"),
    NORM: ("src", "weight", "bias", "dst", "width"),
    SHIFT: ("src", "state", "mu", "count", "delta", "dst", "width"),
    QUANTIZE: ("shared", "src", "stride", "width", "dst", "dst_scale", "qmax"),
    MATMUL: _PRODUCT,
    PREDICT: (
        *(*_PRODUCT, "row_bytes", "per_page", "reciprocal", "signs", "threshold", "planes"),
        *("network", "network_threshold"),
    ),
    SPARSE: (*_PRODUCT, "row_bytes", "per_page", "reciprocal", "list"),
    WKV4: ("r", "k", "v", "decay", "first", "state", "dst", "width"),
    WKV5: (
        *("r", "k", "v", "g", "decay", "per_token", "bonus"),
        *("ln_weight", "ln_bias", "state", "dst", "heads", "size"),
    ),
    WKV7: (
        *("r", "k", "v", "w", "a", "g", "v_gate", "v_first", "k_k", "k_a", "r_k"),
        *("ln_weight", "ln_bias", "state", "dst", "heads", "size"),
    ),
    SELECT: ("src", "width"),
    SYNC: (),
}

FORMULAS = {
    EMBED: "x = emb[token]",
    NORM: "xn = (x - mean(x)) / sqrt(var(x) + 1e-5) * weight + bias",
    SHIFT: "x_j = xn + (xn_prev - xn) * mu_j",
    QUANTIZE: "q = round(x / s), s = max|x| / qmax",
    MATMUL: "y = W @ x",
    PREDICT: "y_f = relu(K_f . x)^2 where signs_f . x > threshold_f or the network says so, else 0",
    SPARSE: "x += gate * sum of rows f with x_f != 0: x_f W_f",
    WKV4: "wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q)); y = r * wkv",
    WKV5: "y = ln_x(r @ (S + diag(u) k v^T)) * g; S = diag(w) S + k v^T",
    WKV7: "S = diag(w) S + kk a (S^T -kk)^T + k v^T; y = (ln_x(r @ S) + (r . k r_k) v) * g",
    SELECT: "x = x[last token]",
    SYNC: "wait for the other threads",
}

NAMES = dict(enumerate("EMBED NORM SHIFT QUANTIZE MATMUL PREDICT SPARSE WKV4 WKV5 WKV7 SELECT SYNC".split()))
Fields: dict[int, Any] = {code: namedtuple(NAMES[code], fields) for code, fields in FIELDS.items()}
WIDTH = 1 + max(map(len, FIELDS.values()))

F32, F16, INT8 = range(3)
KINDS = {"f32": F32, "f16": F16, "i8": INT8}
IDENTITY, SIGMOID, TANH, SILU, SQUARED_RELU, DECAY_V6, DECAY_V7, RELU = range(8)
STORE, ADD, GATED_ADD, LOGITS = range(4)
ACTIVATION_FORMULAS = (
    "{}",
    "sigmoid({})",
    "tanh({})",
    "silu({})",
    "relu({})^2",
    "exp(-exp({}))",
    "exp(-0.60653 sigmoid({}))",
    "relu({})",
)

NONE = -1
"""A field that does not apply."""
