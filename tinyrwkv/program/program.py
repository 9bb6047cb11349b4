"""Turn a model file into a program: the operations of one token as numbers that the kernels walk.

A program is a table of int64, one row for each operation: an opcode, then the fields that ``abi.FIELDS`` names.
``weight``-like fields are byte offsets into the mapped file, the rest are byte offsets into workspaces: what every
thread needs whole it computes for itself in its private workspace (norms, token shifts, quantised activations);
what threads split by rows or heads lies in the shared one, with a SYNC between writing and reading.
"""

from __future__ import annotations

import numpy as np

from ..file.mapped import TensorFile
from ..file.table import FILE_PAGE
from ..kernels import abi as op
from ..versions.layout import SHIFTED, check_tensors, code_qmax, preview_levels
from .builder import Finish, Input
from .time_mix import TimeMix

HEAD_ROWS = 8192
"""Rows of the head in one operation, so that a deadline is looked at in between."""


class Program(TimeMix):
    """The operations of one token of a model, with the sizes of the memory they need.

    Parameters
    ----------
    file : TensorFile
        The model; every tensor's name, type and shape is checked against its version.

    Attributes
    ----------
    table : ndarray, int64, shape (operations, op.WIDTH)
    notes : list of str
        For each operation the tensor it reads, or what it makes.
    layer_ends : list of int
        Operation after each layer, a place where a token can pause.
    select : int
        The SELECT operation: before it the layers, after it the head.
    state_size : int
        Floats of a state.
    shared_bytes, private_bytes : int
        Bytes of the workspaces, the private one for each thread.

    Raises
    ------
    FormatError
        A tensor is missing, unknown, or of the wrong type or shape.
    """

    def __init__(self, file: TensorFile) -> None:
        check_tensors(file)
        super().__init__(file)
        C, config = self.C, self.config
        self._private("xn", C)
        self._private("mixed", C * len(SHIFTED[config["arch"]]))
        # For the rows that some tokens need: addresses, factors and sums; tables for every byte of codes.
        self._list, self._sums = (
            self.private_bytes,
            self.private_bytes + 12 * config["n_ffn"] + 4 * C,
        )
        codes = [
            C // 8,
            *(tensor.shape[1] for name, tensor in file.tensors.items() if "head.codes" in name),
        ]
        self.private_bytes = self._sums + 64 * max(codes)
        self._quantised_scales = self.private_bytes
        self.private_bytes += op.MAX_TOKENS * 4 * 8
        self._quantised = self.private_bytes
        self._emit(op.EMBED, "emb.weight", *self._matrix("emb.weight"), self._shared("x", C), C)
        self._sync()
        self.layer_ends: list[int] = []
        for layer in range(config["n_layer"]):
            self._time_mix(layer)
            self._channel_mix(layer)
            self.layer_ends.append(len(self.rows))
        self.select = len(self.rows)
        self._emit(op.SELECT, "x", self._shared("x", C), C)
        self._norm("ln_out")
        self._head()
        self.private_bytes += self._most_used  # the last region, grown as it was used
        self.table = np.array([row + [0] * (op.WIDTH - len(row)) for row in self.rows], np.int64)

    def _channel_mix(self, layer: int) -> None:
        C, F, ffn = self.config["n_embd"], self.config["n_ffn"], f"blocks.{layer}.ffn."
        gated = self.config["arch"] != "v7"
        self._norm(f"blocks.{layer}.ln2")
        self._shift(layer, "ffn", "token_shift", 1 + gated)
        hidden, gate = self._shared("hidden", F), self._shared("ffn gate", C) if gated else op.NONE
        network = self._network(ffn + "predictor.", F)
        xk = self._mixed(0)
        bundles = self.file.tensors.get(ffn + "bundles")
        if bundles:
            per_page = FILE_PAGE // (2 * C) if bundles.shape[1] == FILE_PAGE else 0
            rows = (2 * C, per_page, 2**32 // per_page + 1 if per_page else 0)
            key_scale, value_scale = (
                self._vector(f"{bundles.name}.{part}_scale") for part in ("key", "value")
            )
            signs, threshold = (
                self._vector(f"{ffn}predictor.{part}") for part in ("signs", "threshold")
            )
            result = (hidden, F, *Finish(op.SQUARED_RELU))
            matrix = (bundles.offset, key_scale, op.INT8, F, C, 1)
            predictor = (signs, threshold, self._sums, *network)
            self._emit(op.PREDICT, bundles.name, *matrix, *xk[:4], *result, *rows, *predictor)
        else:
            self._matmul(ffn + "key.weight", xk, hidden, Finish(op.SQUARED_RELU))
        if gated:
            self._project(ffn + "receptance.weight", self._mixed(1), gate, op.SIGMOID)
        self._sync()
        values = self.file.tensors.get(ffn + "value.rows")
        unit = (64 if C % 64 == 0 else 8) if bundles or values else 1
        self._second_factors(
            unit
        )  # a thread's rows of the gate are those of the value that it multiplies
        x = self._input(hidden, F, shared=True)
        finish, out = (
            Finish(mode=op.GATED_ADD if gated else op.ADD, gate=gate),
            self._shared("x", C),
        )
        result = (out, C, *finish)
        if bundles:
            matrix = (bundles.offset + C, value_scale, op.INT8, C // unit, F, unit)
            self._emit(op.SPARSE, bundles.name, *matrix, *x[:4], *result, *rows, self._list)
        elif values:
            matrix = (
                values.offset,
                self._vector(values.name + ".scale"),
                op.INT8,
                C // unit,
                F,
                unit,
            )
            self._emit(op.SPARSE, values.name, *matrix, *x[:4], *result, C, 0, 0, self._list)
        else:
            self._matmul(ffn + "value.weight", x, out, finish)
        self._sync()

    def _network(self, predictor: str, neurons: int) -> tuple[int, int]:
        """Emit scores = fc2 @ relu(fc1 @ x); return where they and their thresholds are, NONE without a network."""
        if predictor + "fc1.weight" not in self.file.tensors:
            return op.NONE, op.NONE
        low, scores = (
            self._shared("low network", self._widest_rank),
            self._shared("scores", neurons),
        )
        self._matmul(predictor + "fc1.weight", self._mixed(0), low, Finish(op.RELU))
        self._sync()
        width = self.file.tensors[predictor + "fc1.weight"].shape[0]
        self._matmul(predictor + "fc2.weight", self._input(low, width, shared=True), scores)
        self._sync()  # rows of a matrix are shared out otherwise than neurons
        return scores, self._vector(predictor + "mlp_threshold")

    def _head(self) -> None:
        C, V = self.config["n_embd"], self.config["vocab_size"]
        self.head_input = x = self._input(self._private("xn", C), C, shared=False)
        previewed = self._preview(x) if "head.rows.weight" in self.file else ()
        for first in range(0, V, HEAD_ROWS):
            rows = min(HEAD_ROWS, V - first)
            if previewed:
                matrix = (*self._matrix("head.rows.weight")[:2], C, x.src, x.scale)
                self._emit(op.EXACT, "head.rows.weight", *matrix, first, rows, *previewed)
            else:
                self._matmul(
                    "head.weight", x, 4 * first, Finish(mode=op.LOGITS), part=(first, rows)
                )
        if previewed:
            self._sync()
            self._emit(op.GATHER, "head.places", self._vector("head.places"), *previewed[:2])

    def _preview(self, x: Input) -> tuple[int, int, int, int]:
        """Emit the logits that the preview gives; return where they are, their number, and what chooses exact ones."""
        V, (R, C), used = self.config["vocab_size"], self.file.tensors["head.basis.weight"].shape, 0
        y, z, scores = (
            self._shared("head y", R),
            self._shared("head z", V),
            self._shared("head scores", V // 2 + 1),
        )
        names = ("mean", "bias_codes", "spread_codes", "ranges", "tables", "wanted")
        mean, bias, spread, ranges, tables, wanted = (
            self._vector(f"head.{name}") for name in names
        )
        self._matmul("head.basis.weight", x, y, Finish(bias=self._vector("head.basis.bias")))
        self._emit(op.SYNC, "")  # without an end to the use of x
        for k, (rows, rank, bits) in enumerate(preview_levels(self.file)):
            q = self._input(
                y + 4 * used, rank, shared=True, stride=R, largest=256 * code_qmax(bits)
            )
            codes, scales = (
                self._vector(f"head.codes.{bits}"),
                self._vector(f"head.scale_codes.{bits}"),
            )
            level = (
                codes,
                scales,
                tables + 1024 * k,
                rows,
                rank * bits // 8,
                rank,
                bits,
                self._sums,
            )
            self._emit(op.LEVEL, f"head.codes.{bits}", *level, q.src, q.scale, z, V, k > 0)
            self._emit(op.SYNC, "")
            used += rank
        self._emit(
            op.PREVIEW, "head.bias_codes", x.floats, mean, bias, spread, ranges, z, scores, V, C
        )
        self._emit(op.SYNC, "")
        lowest = self._quantised_scales + self._scales_used
        self._emit(op.CHOOSE, "head.wanted", wanted, scores, V, lowest)
        return z, V, scores, lowest
