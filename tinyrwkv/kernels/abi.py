"""The operations that a program is made of: their numbers and their fields."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

MAX_TOKENS = 16
"""Tokens that one kernel call reads at most."""

UNIT, BLOCK = 256, 64
"""Rows of a previewed head that one thread looks at together; rows whose codes lie side by side."""

EMBED, NORM, SHIFT, QUANTIZE, MATMUL, PREDICT, SPARSE, WKV4, WKV5, WKV7, SELECT, SYNC = range(12)
LEVEL, PREVIEW, CHOOSE, EXACT, GATHER = range(12, 17)
_NAMES = "EMBED NORM SHIFT QUANTIZE MATMUL PREDICT SPARSE WKV4 WKV5 WKV7 SELECT SYNC LEVEL PREVIEW CHOOSE EXACT GATHER"
NAMES = dict(enumerate(_NAMES.split()))

_PRODUCT = (
    "weight scale kind units cols unit shared src stride src_scale "
    "dst dst_stride activation bias mode gate diag diag_src"
)
_NORM_STATE = "ln_weight ln_bias state dst heads size"
_FIELDS = {
    EMBED: "weight scale kind dst width",
    NORM: "src weight bias dst width",
    SHIFT: "src state mu count delta dst width",
    QUANTIZE: "shared src stride width dst dst_scale qmax",
    MATMUL: _PRODUCT,
    PREDICT: f"{_PRODUCT} row_bytes per_page reciprocal signs threshold sums network network_threshold",
    SPARSE: f"{_PRODUCT} row_bytes per_page reciprocal list",
    WKV4: "r k v decay first state dst width",
    WKV5: f"r k v g decay per_token bonus {_NORM_STATE}",
    WKV7: f"r k v w a g v_gate v_first k_k k_a r_k {_NORM_STATE}",
    SELECT: "src width",
    SYNC: "",
    LEVEL: "codes scales table rows bytes rank bits sums src src_scale dst dst_stride add",
    PREVIEW: "src mean bias spread ranges dst scores rows cols",
    CHOOSE: "wanted scores rows dst",
    EXACT: "weight scale cols src src_scale first rows dst dst_stride scores lowest",
    GATHER: "places src rows",
}
Fields: dict[int, Any] = {code: namedtuple(NAMES[code], fields) for code, fields in _FIELDS.items()}
FIELDS: dict[int, tuple[str, ...]] = {code: fields._fields for code, fields in Fields.items()}
WIDTH = 1 + max(map(len, FIELDS.values()))

F32, F16, INT8 = range(3)
KINDS = {"f32": F32, "f16": F16, "i8": INT8}
IDENTITY, SIGMOID, TANH, SILU, SQUARED_RELU, DECAY_V6, DECAY_V7, RELU = range(8)
STORE, ADD, GATED_ADD, LOGITS = range(4)

NONE = -1
"""A field that does not apply."""
