"""A program in words: for every operation what it reads and its formula."""

from __future__ import annotations

from collections.abc import Iterator

from ..kernels import abi as op
from ..program.program import Program

FORMULAS = {
    op.EMBED: "x = emb[token]",
    op.NORM: "xn = (x - mean(x)) / sqrt(var(x) + 1e-5) * weight + bias",
    op.SHIFT: "x_j = xn + (xn_prev - xn) * mu_j",
    op.QUANTIZE: "q = round(x / s), s = max|x| / qmax",
    op.MATMUL: "y = W @ x",
    op.PREDICT: "y_f = relu(K_f . x)^2 where signs_f . x > threshold_f or the network says so, else 0",
    op.SPARSE: "x += gate * sum of rows f with x_f != 0: x_f W_f",
    op.WKV4: "wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q)); y = r * wkv",
    op.WKV5: "y = ln_x(r @ (S + diag(u) k v^T)) * g; S = diag(w) S + k v^T",
    op.WKV7: "S = diag(w) S + kk a (S^T -kk)^T + k v^T; y = (ln_x(r @ S) + (r . k r_k) v) * g",
    op.SELECT: "x = x[last token]",
    op.SYNC: "wait for the other threads",
    op.LEVEL: "z_i (+)= s scale_i (c_i . u - (2^bits - 1) / 2 sum(u)), u = round(q / 256)",
    op.PREVIEW: "z_i += mean . x + bias_i; score_i = round(16 (z_i + spread_i))",
    op.CHOOSE: "lowest = the least score that no more rows reach than are wanted",
    op.EXACT: "z_i = w_i . x where score_i >= lowest",
    op.GATHER: "logits[id] = z of its row",
}

_SIMPLE = ("{}", "sigmoid({})", "tanh({})", "silu({})", "relu({})^2")
ACTIVATIONS = (*_SIMPLE, "exp(-exp({}))", "exp(-0.60653 sigmoid({}))", "relu({})")


def describe(program: Program) -> Iterator[str]:
    """Yield one line for each operation: number, opcode, what it reads, its formula."""
    for i, (row, note) in enumerate(zip(program.rows, program.notes, strict=True)):
        formula = FORMULAS[row[0]]
        if row[0] == op.MATMUL:
            p = op.Fields[op.MATMUL](*row[1:])
            inner = "W @ x" + " + bias" * (p.bias != op.NONE) + " + diag * x" * (p.diag != op.NONE)
            formula = ACTIVATIONS[p.activation].format(inner)
            formula = ("y = {}", "x += {}", "x += gate * {}", "logits = {}")[p.mode].format(formula)
        yield f"{i:4d} {op.NAMES[row[0]]:<8} {note:<34} {formula}"
