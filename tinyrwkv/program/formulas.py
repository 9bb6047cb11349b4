"""What each operation of a program computes, and which functions write and run it, in words."""

from __future__ import annotations

from typing import NamedTuple

from ..kernels import abi as op


class Words(NamedTuple):
    """What is said of all operations with one opcode.

    Attributes
    ----------
    formula : str
        What it computes.
    emitter : str
        The function in ``program`` that writes it, as module.function or module.class.method.
    kernel : str
        The function in ``kernels`` that runs it, as module.function. Text, since Numba may be
        missing.
    numpy_form : str
        The function in ``engine`` that runs it with NumPy, as module.function.
    """

    formula: str
    emitter: str
    kernel: str
    numpy_form: str


FORMULAS: dict[int, Words] = {
    op.EMBED: Words(
        "x = emb[token]",
        emitter="program.embedding",
        kernel="pointwise.embed",
        numpy_form="numpy_pointwise.embed",
    ),
    op.NORM: Words(
        "xn = (x - mean(x)) / sqrt(var(x) + 1e-5) * weight + bias",
        emitter="builder.Builder.norm",
        kernel="pointwise.norm",
        numpy_form="numpy_pointwise.norm",
    ),
    op.SHIFT: Words(
        "x_j = xn + (xn_prev - xn) * mu_j",
        emitter="builder.Builder.shift",
        kernel="pointwise.shift",
        numpy_form="numpy_pointwise.shift",
    ),
    op.QUANTIZE: Words(
        "q = round(x / s), s = max|x| / qmax",
        emitter="builder.Builder.input",
        kernel="pointwise.quantize",
        numpy_form="numpy_pointwise.quantize",
    ),
    op.MATMUL: Words(
        "y = W @ x",
        emitter="builder.Builder.matmul",
        kernel="matmul.matmul",
        numpy_form="numpy_matmul.matmul",
    ),
    op.PREDICT: Words(
        "y_f = relu(K_f . x)^2 where signs_f . x > threshold_f or the network says so, else 0",
        emitter="channel_mix.predicted_key",
        kernel="sparse.predict",
        numpy_form="numpy_sparse.predict",
    ),
    op.SPARSE: Words(
        "x += gate * sum of rows f with x_f != 0: x_f W_f",
        emitter="channel_mix.sparse_value",
        kernel="sparse.sparse",
        numpy_form="numpy_sparse.sparse",
    ),
    op.WKV4: Words(
        "wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q)); y = r * wkv",
        emitter="time_mix.TimeMix.wkv4",
        kernel="wkv.wkv4",
        numpy_form="numpy_wkv.wkv4",
    ),
    op.WKV5: Words(
        "y = ln_x(r @ (S + diag(u) k v^T)) * g; S = diag(w) S + k v^T",
        emitter="time_mix.TimeMix.wkv5",
        kernel="wkv.wkv5",
        numpy_form="numpy_wkv.wkv5",
    ),
    op.WKV7: Words(
        "S = diag(w) S + kk a (S^T -kk)^T + k v^T; y = (ln_x(r @ S) + (r . k r_k) v) * g",
        emitter="time_mix.TimeMix.wkv7",
        kernel="wkv.wkv7",
        numpy_form="numpy_wkv.wkv7",
    ),
    op.SELECT: Words(
        "x = x[last token]",
        emitter="head.head",
        kernel="pointwise.select",
        numpy_form="numpy_pointwise.select",
    ),
    op.SYNC: Words(
        "wait for the other threads",
        emitter="builder.Builder.sync",
        kernel="run.wait",
        numpy_form="numpy_pointwise.sync",
    ),
    op.LEVEL: Words(
        "z_i (+)= s scale_i (c_i . u - (2^bits - 1) / 2 sum(u)), u = round(q / 256)",
        emitter="head.Preview.level",
        kernel="head.level",
        numpy_form="numpy_head.level",
    ),
    op.PREVIEW: Words(
        "z_i += mean . x + bias_i; score_i = round(16 (z_i + spread_i))",
        emitter="head.Preview.scores",
        kernel="head.preview",
        numpy_form="numpy_head.preview",
    ),
    op.CHOOSE: Words(
        "lowest = the least score that no more rows reach than are wanted",
        emitter="head.Preview.choose",
        kernel="head.choose",
        numpy_form="numpy_head.choose",
    ),
    op.EXACT: Words(
        "z_i = w_i . x where score_i >= lowest",
        emitter="head.Preview.exact",
        kernel="head.exact",
        numpy_form="numpy_head.exact",
    ),
    op.GATHER: Words(
        "logits[id] = z of its row",
        emitter="head.gather",
        kernel="head.gather",
        numpy_form="numpy_head.gather",
    ),
    op.DEEP: Words(
        "y = x @ M, M of this token in this layer",
        emitter="channel_mix.own_matrix",
        kernel="pointwise.deep",
        numpy_form="numpy_pointwise.deep",
    ),
}
