"""What the compiled kernels and the rest of the code agree on: every number that both must know.

A program is a table of int64. One row is one operation: its opcode, then its fields. A call of the
kernels gets a block of int64 arguments and finds its data in two workspaces: the shared one, which
all threads use, and the private one, which each thread has for itself. This module needs no Numba.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from ..file import int4

MAX_TOKENS = 16
"""Most tokens that one call of the kernels reads."""

UNIT = 256
"""Rows of a previewed head that one thread looks at together."""

BLOCK = 64
"""Rows whose codes of a few bits lie side by side."""

PAGE = 4096
"""Bytes of a page of bundles, in which no row crosses the end."""

# Operations.

EMBED, NORM, SHIFT, QUANTIZE, MATMUL, PREDICT, SPARSE, WKV4, WKV5, WKV7, SELECT, SYNC = range(12)
LEVEL, PREVIEW, CHOOSE, EXACT, GATHER, DEEP = range(12, 18)

NONE = -1
"""The value of a field that does not apply."""

# Fields named weight, scale, bias and the like are offsets in the file; src, dst and the like are
# offsets in a workspace, src and dst of the shared one unless the operation says otherwise.
# A stride is a number of elements between two tokens.

_MATRIX = "weight scale kind units cols unit"  # units * unit rows; threads share out the units
# Of the shared workspace if `shared`, else the private one; src_sums are for int4.
_INPUT = "shared src stride src_scale src_sums"
_OUTPUT = "dst dst_stride activation bias mode gate diag diag_src"
_PRODUCT = f"{_MATRIX} {_INPUT} {_OUTPUT}"  # dst (mode)= activation(W @ x + bias + diag * x)
_PAGES = "row_bytes per_page reciprocal"  # where a row lies in pages; reciprocal = 2^32 / per_page
_PREDICTOR = "signs threshold sums network network_threshold"
_HEAD_NORM = "ln_weight ln_bias"
_STATE = "state dst heads size"  # `state` in bytes

_FIELDS = {
    EMBED: "weight scale kind dst width",
    NORM: "src weight bias dst width",
    SHIFT: "src state mu count delta dst width",
    QUANTIZE: "shared src stride width dst dst_scale dst_sums qmax",
    MATMUL: _PRODUCT,
    PREDICT: f"{_PRODUCT} {_PAGES} {_PREDICTOR}",
    SPARSE: f"{_PRODUCT} {_PAGES} list",
    WKV4: "r k v decay first state dst width",
    WKV5: f"r k v g decay per_token bonus {_HEAD_NORM} {_STATE}",
    WKV7: f"r k v w a g v_gate v_first k_k k_a r_k {_HEAD_NORM} {_STATE}",
    SELECT: "src width",
    SYNC: "",
    LEVEL: "codes scales table rows bytes rank bits sums src src_scale dst dst_stride add",
    PREVIEW: "src mean bias spread ranges dst scores rows cols",
    CHOOSE: "wanted scores rows dst",
    EXACT: "weight scale kind cols src src_scale src_sums first rows dst dst_stride scores lowest",
    GATHER: "places place_bytes src rows",
    DEEP: "weight kind row_bytes src stride rows cols dst",
}

_NAMES = (
    "EMBED NORM SHIFT QUANTIZE MATMUL PREDICT SPARSE WKV4 WKV5 WKV7 SELECT SYNC "
    "LEVEL PREVIEW CHOOSE EXACT GATHER DEEP"
)
NAMES = dict(enumerate(_NAMES.split()))
"""The name of each opcode."""

Fields: dict[int, Any] = {
    code: namedtuple(f"{NAMES[code]}_FIELDS", fields) for code, fields in _FIELDS.items()
}
"""For each opcode a named tuple of the fields of one operation."""

FIELDS: dict[int, tuple[str, ...]] = {code: fields._fields for code, fields in Fields.items()}
"""For each opcode the names of its fields, in order."""

WIDTH = 1 + max(map(len, FIELDS.values()))
"""Numbers in a row of a program: the opcode and the fields; shorter rows end with zeros."""

OPCODE_BYTES = 8
ROW_BYTES = 8 * WIDTH


def _places(code: int) -> Any:
    """Return the place of each field in the fields of an operation."""
    return Fields[code](*range(len(FIELDS[code])))


# The place of each field by its name: `fields[MATMUL_AT.cols]`. Numba folds them to numbers.
EMBED_AT = _places(EMBED)
NORM_AT = _places(NORM)
SHIFT_AT = _places(SHIFT)
QUANTIZE_AT = _places(QUANTIZE)
MATMUL_AT = _places(MATMUL)  # PREDICT and SPARSE begin with these fields too
PREDICT_AT = _places(PREDICT)
SPARSE_AT = _places(SPARSE)
WKV4_AT = _places(WKV4)
WKV5_AT = _places(WKV5)
WKV7_AT = _places(WKV7)
SELECT_AT = _places(SELECT)
LEVEL_AT = _places(LEVEL)
PREVIEW_AT = _places(PREVIEW)
CHOOSE_AT = _places(CHOOSE)
EXACT_AT = _places(EXACT)
GATHER_AT = _places(GATHER)
DEEP_AT = _places(DEEP)

# Values of fields.

F32, F16, INT8, INT4 = range(4)
KINDS = {"f32": F32, "f16": F16, "i8": INT8, "u8": INT4}
"""Kinds of weights, by the names that files give them; bytes of u8 are packed int4."""


def row_bytes(kind: int, cols: int) -> int:
    """Return the bytes of a row of weights of a kind."""
    return int4.row_bytes(cols) if kind == INT4 else (4, 2, 1)[kind] * cols


IDENTITY, SIGMOID, TANH, SILU, SQUARED_RELU, DECAY_V6, DECAY_V7, RELU = range(8)
"""Activations that a matrix product can end with."""

STORE, ADD, GATED_ADD, LOGITS, MULTIPLY = range(5)
"""Modes: what is done with a product. LOGITS stores it in the output of the call."""

# Arguments of a call: the place of each in a block of int64.

WEIGHTS, PROGRAM = 0, 1  # addresses of the mapped file and of the program's table
FIRST, LAST = 2, 3  # operations FIRST to LAST - 1 are run
TOKENS, IDS = 4, 5  # number of tokens, 1 to MAX_TOKENS; address of their ids, int32
OLD, NEW = 6, 7  # addresses of the states: one is read, the other written
SHARED, PRIVATE = 8, 9  # addresses of the workspaces
OUT, HEAD = 10, 11  # address of the logits; one of the three modes below
BEGIN, END = 12, 13  # this thread's part of the rows, as parts of WORK
THREADS, BARRIER = 14, 15  # number of threads; address of BARRIER_BYTES bytes, zero at first
TOUCHED = 16  # the kernels add the bytes of weights that only some tokens need
RANK = 17  # which of the threads this is, from 0
PATIENCE, LOOKS = 18, 19  # how often it may look for late ones; how often it has in this call
STATE_STEP = 20  # bytes from the state after a token to that of the next; 0 keeps the last alone
ARGUMENTS = 21
"""Number of arguments."""

NO_HEAD, HEAD_OF_LAST, HEAD_OF_ALL = range(3)
"""What SELECT keeps for the head: nothing runs it, the last token, every token."""

WORK_BITS = 16
WORK = 1 << WORK_BITS
"""All rows of an operation in BEGIN and END: a thread's part is counted in 65536ths."""

BARRIER_BYTES = 128

# Fixed places in the workspaces.

EPSILON = 0
"""In the shared workspace: ln_x_eps, a float32."""

ONES = 64
"""In the shared workspace: a vector of as many ones as the model has channels."""

ROWS = 64
"""Rows of a matrix product whose dot products with MAX_TOKENS tokens are finished together."""

PARTS = 4
"""Most parts of a matrix whose rows are read side by side."""

SCRATCH = 4 * ROWS * MAX_TOKENS * PARTS
"""In the private workspace: three vectors of a head for WKV7.

Before them are dot products of ROWS rows of PARTS parts, for MAX_TOKENS tokens.
"""

TABLE_BYTES = 64
"""Bytes of the tables of sums that LEVEL and PREDICT make for one byte of codes."""

SCALES = 256
"""Numbers in a table of the scales of LEVEL."""


def fixed_shared_bytes(channels: int) -> int:
    """Return the bytes of the fixed places in the shared workspace, which are its first ones."""
    return ONES + 4 * channels


def fixed_private_bytes(head_size: int) -> int:
    """Return the bytes of the fixed places in the private workspace, which are its first ones."""
    used = SCRATCH + 3 * 4 * head_size
    return used + -used % 64


def list_bytes(neurons: int, channels: int) -> int:
    """Return the bytes that the field `list` of SPARSE needs: addresses, factors, and sums."""
    return (8 + 4) * neurons + 4 * channels
