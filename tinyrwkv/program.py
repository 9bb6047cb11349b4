"""Turn a model file into a program: the operations of one token as numbers that the kernels walk.

A program is a table of int64, one row for each operation: an opcode, then the fields that ``opcodes.FIELDS`` names.
``weight``-like fields are byte offsets into the mapped file, the rest are byte offsets into workspaces: what every
thread needs whole it computes for itself in its private workspace (norms, token shifts, quantised activations);
what threads split by rows or heads lies in the shared one, with a SYNC between writing and reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import numpy as np

from . import opcodes as op
from .errors import FormatError
from .format import TensorFile
from .layout import SHIFTED, tensor_shapes

HEAD_ROWS = 8192
"""Rows of the head in one operation, so that a deadline is looked at in between."""


def qmax(cols: int) -> int:
    """Return the largest int16 activation for which a sum over `cols` int8 weights stays inside int32."""
    return min(32767, (2**31 - 1) // (127 * cols))


class Input(NamedTuple):
    """Activations as op.MATMUL reads them: where, floats between tokens, and the scales of quantised ones."""

    shared: int
    src: int
    stride: int
    scale: int


class Program:
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
        self.file, config = file, file.metadata
        self.config = config
        check_tensors(file)
        self.rows: list[list[int]] = []
        self.notes: list[str] = []
        self.layer_ends: list[int] = []
        self.shared_bytes, self.private_bytes = 0, 0
        self._buffers: dict[str, int] = {}
        C, arch = config["n_embd"], config["arch"]
        # Fixed places that the kernels know: ln_x_eps and a vector of ones in the shared workspace,
        # results of dot products and three rows for the wkv kernels in the private one.
        self.shared_bytes = 64 + 4 * C
        self.private_bytes = 4 * 64 * op.MAX_TOKENS + 12 * config["head_size"]
        self.private_bytes += -self.private_bytes % 64
        self.state_stride = 5 * C if arch == "v4" else 2 * C + C * config["head_size"]
        self.state_size = config["n_layer"] * self.state_stride
        mixes = len(SHIFTED[arch])
        self._private("xn", C)
        self._private("mixed", C * mixes)
        self._quantised_scales = self.private_bytes
        self.private_bytes += op.MAX_TOKENS * 4 * 8
        self._quantised, self._used, self._scales_used, self._most_used = self.private_bytes, 0, 0, 0
        self._emit(op.EMBED, "emb.weight", *self._matrix("emb.weight"), self._shared("x", C), C)
        self._sync()
        time_mix = {"v4": self._time_mix_v4, "v6": self._time_mix_v6, "v7": self._time_mix_v7}.get(
            arch, self._time_mix_v5
        )
        for layer in range(config["n_layer"]):
            time_mix(layer)
            self._channel_mix(layer)
            self.layer_ends.append(len(self.rows))
        self.select = len(self.rows)
        self._emit(op.SELECT, "x", self._shared("x", C), C)
        self._norm("ln_out")
        self._head()
        self.private_bytes += self._most_used  # the last region, grown as it was used
        self.table = np.array([row + [0] * (op.WIDTH - len(row)) for row in self.rows], np.int64)

    def initial_state(self) -> np.ndarray:
        """Return the state before the first token, float32, shape (state_size,)."""
        state = np.zeros(self.state_size, np.float32)
        if self.config["arch"] == "v4":
            state.reshape(self.config["n_layer"], 5, -1)[:, 4] = -1e30  # pp, a running maximum
        return state

    def describe(self) -> Iterator[str]:
        """Yield one line for each operation: number, opcode, what it reads, its formula."""
        for i, (row, note) in enumerate(zip(self.rows, self.notes, strict=True)):
            formula = op.FORMULAS[row[0]]
            if row[0] == op.MATMUL:
                field = dict(zip(op.FIELDS[op.MATMUL], row[1:], strict=True))
                inner = "W @ x + bias" if field["bias"] != op.NONE else "W @ x"
                formula = op.ACTIVATION_FORMULAS[field["activation"]].format(inner)
                formula = ("y = {}", "x += {}", "x += gate * {}", "logits = {}")[field["mode"]].format(formula)
            yield f"{i:4d} {op.NAMES[row[0]]:<8} {note:<34} {formula}"

    # ---- building ----

    def _emit(self, opcode: int, note: str, *fields: int) -> None:
        if len(fields) != len(op.FIELDS[opcode]):
            raise ValueError(f"{op.NAMES[opcode]} takes {op.FIELDS[opcode]}")
        self.rows.append([opcode, *map(int, fields)])
        self.notes.append(note)

    def _sync(self) -> None:
        self._emit(op.SYNC, "")
        self._used = self._scales_used = 0

    def _shared(self, name: str, width: int) -> int:
        if name not in self._buffers:
            self._buffers[name] = self.shared_bytes
            self.shared_bytes += op.MAX_TOKENS * width * 4
        return self._buffers[name]

    def _private(self, name: str, width: int) -> int:
        if name not in self._buffers:
            self._buffers[name] = self.private_bytes
            self.private_bytes += op.MAX_TOKENS * width * 4
        return self._buffers[name]

    def _vector(self, name: str) -> int:
        return self.file.tensors[name].offset

    def _matrix(self, name: str) -> tuple[int, int, int]:
        """Return (weight, scale, kind) of a matrix."""
        tensor = self.file.tensors[name]
        scale = self.file.tensors[name + ".scale"].offset if tensor.dtype == "i8" else op.NONE
        return tensor.offset, scale, op.KINDS[tensor.dtype]

    def _norm(self, name: str) -> None:
        C = self.config["n_embd"]
        weight, bias = self._vector(name + ".weight"), self._vector(name + ".bias")
        self._emit(op.NORM, name, self._shared("x", C), weight, bias, self._private("xn", C), C)

    def _shift(self, layer: int, part: str, tensor: str, count: int, delta: int = op.NONE) -> None:
        C = self.config["n_embd"]
        state = 4 * (layer * self.state_stride + (C if part == "ffn" else 0))
        name = f"blocks.{layer}.{part}.{tensor}"
        src, dst = self._private("xn", C), self._private("mixed", C)
        self._emit(op.SHIFT, name, src, state, self._vector(name), count, delta, dst, C)

    def _input(self, src: int, width: int, shared: bool) -> Input:
        """Prepare `width` activations of each token for op.MATMUL: quantised, where the weights are int8."""
        if self.config["dtype"] != "int8":
            return Input(int(shared), src, width, op.NONE)
        dst, scale = self._quantised + self._used, self._quantised_scales + self._scales_used
        self._used += op.MAX_TOKENS * 2 * width
        self._scales_used += op.MAX_TOKENS * 4
        self._most_used = max(self._most_used, self._used)
        self._emit(op.QUANTIZE, "", shared, src, width, width, dst, scale, qmax(width))
        return Input(0, dst, width, scale)

    def _mixed(self, j: int) -> Input:
        """Prepare the j-th result of token_shift."""
        C = self.config["n_embd"]
        return self._input(self._private("mixed", C) + j * op.MAX_TOKENS * 4 * C, C, shared=False)

    def _matmul(
        self,
        name: str,
        x: Input,
        dst: int,
        activation: int = op.IDENTITY,
        bias: int = op.NONE,
        mode: int = op.STORE,
        gate: int = op.NONE,
        unit: int = 1,
        first: int = 0,
        rows: int | None = None,
    ) -> None:
        """Emit dst (op)= activation(W @ x + bias) for rows first .. first + rows of a matrix."""
        weight, scale, kind = self._matrix(name)
        total, cols = self.file.tensors[name].shape
        rows = total if rows is None else rows
        weight += first * cols * (4, 2, 1)[kind]
        scale += 4 * first if scale != op.NONE else 0
        stride = self.config["vocab_size"] if mode == op.LOGITS else rows
        inputs = (x.shared, x.src, x.stride, x.scale)
        self._emit(
            op.MATMUL,
            name,
            weight,
            scale,
            kind,
            rows // unit,
            cols,
            unit,
            *inputs,
            dst,
            stride,
            activation,
            bias,
            mode,
            gate,
        )

    # ---- the versions ----

    def _time_mix_v4(self, layer: int) -> None:
        C, att = self.config["n_embd"], f"blocks.{layer}.att."
        self._norm(f"blocks.{layer}.ln1")
        self._shift(layer, "att", "token_shift", 3)
        for j, (name, activation) in enumerate(
            {"receptance": op.SIGMOID, "key": op.IDENTITY, "value": op.IDENTITY}.items()
        ):
            self._matmul(f"{att}{name}.weight", self._mixed(j), self._shared(name, C), activation)
        self._sync()
        r, k, v = (self._shared(name, C) for name in ("receptance", "key", "value"))
        state, y = 4 * (layer * self.state_stride + 2 * C), self._shared("y", C)
        decay, first = self._vector(att + "time_decay"), self._vector(att + "time_first")
        self._emit(op.WKV4, att + "wkv", r, k, v, decay, first, state, y, C)
        self._output(layer)

    def _time_mix_v5(self, layer: int) -> None:
        att = f"blocks.{layer}.att."
        self._norm(f"blocks.{layer}.ln1")
        self._shift(layer, "att", "token_shift", len(SHIFTED[self.config["arch"]]))
        gate = self._receptance_key_value_gate(layer)
        self._sync()
        self._wkv5(layer, gate, self._vector(att + "time_decay"), per_token=False)
        self._output(layer)

    def _time_mix_v6(self, layer: int) -> None:
        C, att = self.config["n_embd"], f"blocks.{layer}.att."
        self._norm(f"blocks.{layer}.ln1")
        self._shift(layer, "att", "time_maa_x", 1)
        five_rank = self.file.tensors[att + "time_maa_w1.weight"].shape[0]
        rank, low = five_rank // 5, self._shared("low", five_rank)
        self._matmul(att + "time_maa_w1.weight", self._mixed(0), low, op.TANH)
        self._sync()
        x, delta = self._input(low, five_rank, shared=True), self._shared("delta", 5 * C)
        for j in range(5):
            part = x._replace(src=x.src + j * rank * (2 if x.scale != op.NONE else 4))
            dst = delta + j * op.MAX_TOKENS * 4 * C
            self._matmul(att + "time_maa_w2.weight", part, dst, first=j * C, rows=C)
        self._sync()
        self._shift(layer, "att", "token_shift", 5, delta)
        gate = self._receptance_key_value_gate(layer)
        low_w = self._shared("low w", self.file.tensors[att + "time_decay_w1.weight"].shape[0])
        self._matmul(att + "time_decay_w1.weight", self._mixed(3), low_w, op.TANH)
        self._sync()
        decay, unit = self._shared("decay", C), self.config["head_size"]
        x = self._input(low_w, self.file.tensors[att + "time_decay_w1.weight"].shape[0], shared=True)
        bias = self._vector(att + "time_decay")
        self._matmul(att + "time_decay_w2.weight", x, decay, op.DECAY_V6, bias, unit=unit)
        self._wkv5(layer, gate, decay, per_token=True)
        self._output(layer)

    def _receptance_key_value_gate(self, layer: int) -> int:
        """Emit the four projections of v5 and v6; return the gate's buffer, op.NONE for v5.0."""
        C, shifted, att = self.config["n_embd"], SHIFTED[self.config["arch"]], f"blocks.{layer}.att."
        for j, name in enumerate(("receptance", "key", "value")):
            self._matmul(f"{att}{name}.weight", self._mixed(j), self._shared(name, C))
        if "g" not in shifted:
            return op.NONE
        self._matmul(att + "gate.weight", self._mixed(shifted.index("g")), self._shared("gate", C), op.SILU)
        return self._shared("gate", C)

    def _wkv5(self, layer: int, gate: int, decay: int, per_token: bool) -> None:
        C, att = self.config["n_embd"], f"blocks.{layer}.att."
        r, k, v = (self._shared(name, C) for name in ("receptance", "key", "value"))
        bonus, ln_x = self._vector(att + "bonus"), (self._vector(att + "ln_x.weight"), self._vector(att + "ln_x.bias"))
        state, y = 4 * (layer * self.state_stride + 2 * C), self._shared("y", C)
        heads = self.config["n_head"], self.config["head_size"]
        self._emit(op.WKV5, att + "wkv", r, k, v, gate, decay, per_token, bonus, *ln_x, state, y, *heads)

    def _time_mix_v7(self, layer: int) -> None:
        C, N, att = self.config["n_embd"], self.config["head_size"], f"blocks.{layer}.att."
        self._norm(f"blocks.{layer}.ln1")
        self._shift(layer, "att", "token_shift", 6)
        xr, xw, xk, xv, xa, xg = (self._mixed(j) for j in range(6))
        value = "value" if layer else "v_first"  # layer 0 leaves its value for the others
        for name, x, dst in (("receptance", xr, "receptance"), ("key", xk, "key"), ("value", xv, value)):
            self._matmul(f"{att}{name}.weight", x, self._shared(dst, C))
        low = {"w": (xw, op.TANH), "a": (xa, op.IDENTITY), "g": (xg, op.SIGMOID), "v": (xv, op.IDENTITY)}
        if layer == 0:
            del low["v"]
        for name, (x, activation) in low.items():
            rank = self.file.tensors[f"{att}{name}1.weight"].shape[0]
            self._matmul(f"{att}{name}1.weight", x, self._shared("low " + name, rank), activation)
        self._sync()
        for name, activation in {"w": op.DECAY_V7, "a": op.SIGMOID, "g": op.IDENTITY, "v": op.SIGMOID}.items():
            if name in low:
                rank = self.file.tensors[f"{att}{name}1.weight"].shape[0]
                x = self._input(self._shared("low " + name, rank), rank, shared=True)
                bias = op.NONE if name == "g" else self._vector(f"{att}{name}0")
                self._matmul(f"{att}{name}2.weight", x, self._shared(name, C), activation, bias, unit=N)
        r, k, v, w, a, g = (self._shared(name, C) for name in ("receptance", "key", value, "w", "a", "g"))
        v_gate = self._shared("v", C) if layer else op.NONE
        vectors = (self._vector(att + name) for name in ("k_k", "k_a", "r_k", "ln_x.weight", "ln_x.bias"))
        state, y = 4 * (layer * self.state_stride + 2 * C), self._shared("y", C)
        heads = self.config["n_head"], N
        v_first = self._shared("v_first", C)
        self._emit(op.WKV7, att + "wkv", r, k, v, w, a, g, v_gate, v_first, *vectors, state, y, *heads)
        self._output(layer)

    def _output(self, layer: int) -> None:
        C = self.config["n_embd"]
        self._sync()
        x = self._input(self._shared("y", C), C, shared=True)
        self._matmul(f"blocks.{layer}.att.output.weight", x, self._shared("x", C), mode=op.ADD)
        self._sync()

    def _channel_mix(self, layer: int) -> None:
        C, F, ffn = self.config["n_embd"], self.config["n_ffn"], f"blocks.{layer}.ffn."
        gated = self.config["arch"] != "v7"
        self._norm(f"blocks.{layer}.ln2")
        self._shift(layer, "ffn", "token_shift", 1 + gated)
        hidden, gate = self._shared("hidden", F), self._shared("ffn gate", C) if gated else op.NONE
        self._matmul(ffn + "key.weight", self._mixed(0), hidden, op.SQUARED_RELU)
        if gated:
            self._matmul(ffn + "receptance.weight", self._mixed(1), gate, op.SIGMOID)
        self._sync()
        x = self._input(hidden, F, shared=True)
        mode = op.GATED_ADD if gated else op.ADD
        self._matmul(ffn + "value.weight", x, self._shared("x", C), mode=mode, gate=gate)
        self._sync()

    def _head(self) -> None:
        C, V = self.config["n_embd"], self.config["vocab_size"]
        x = self._input(self._private("xn", C), C, shared=False)
        for first in range(0, V, HEAD_ROWS):
            rows = min(HEAD_ROWS, V - first)
            self._matmul("head.weight", x, 4 * first, mode=op.LOGITS, first=first, rows=rows)


def check_tensors(file: TensorFile) -> None:
    """Compare the tensors of a model file with what its version needs.

    Raises
    ------
    FormatError
        A tensor is missing, unknown, or of the wrong type or shape.
    """
    config, ranks = file.metadata, dict[str, int]()
    expected = tensor_shapes(config)
    fix = "the file was not written by tinyrwkv-convert or is damaged; convert the checkpoint again"

    def fail(name: str, found: object, wanted: object) -> NoReturn:
        raise FormatError(file.path, name if name == "metadata" else f"tensor '{name}'", found, wanted, fix)

    if config["arch"] != "v4" and config["n_head"] * config["head_size"] != config["n_embd"]:
        fail("metadata", f"{config['n_head']} heads of {config['head_size']}", f"{config['n_embd']} channels in all")
    if config["arch"] != "v4" and config["head_size"] % 8:
        fail("metadata", f"heads of {config['head_size']}", "a multiple of 8, which the kernels work on at a time")
    dtype = {"f32": "f32", "f16": "f16", "int8": "i8"}[config["dtype"]]
    for name, shape in expected.items():
        if name not in file.tensors:
            fail(name, "nothing", f"a tensor of shape {shape}, which {config['arch']} models have")
        tensor = file.tensors[name]
        matrix = len(shape) == 2 and name.endswith(".weight")
        wanted = dtype if matrix else "f32"
        if tensor.dtype != wanted:
            fail(name, f"type {tensor.dtype}", f"type {wanted}")
        part, sizes = name.rsplit(".", 2)[0], list(shape)
        for i, (size, found) in enumerate(zip(shape, tensor.shape, strict=False)):
            if isinstance(size, str):
                times = 5 if size.startswith("5 ") else 1
                sizes[i] = times * ranks.setdefault(f"{part} {size.removeprefix('5 ')}", found // times)
        if list(tensor.shape) != sizes:
            fail(name, f"shape {tensor.shape}", f"shape {shape}")
        if wanted == "i8":
            scale = file.tensors.get(name + ".scale")
            if scale is None or scale.dtype != "f32" or scale.shape != tensor.shape[:1]:
                fail(
                    name + ".scale",
                    "nothing" if scale is None else f"{scale.dtype} {scale.shape}",
                    f"f32 {tensor.shape[:1]}",
                )
    known = (
        expected.keys()
        | {f"{name}.scale" for name in expected}
        | {f"tokenizer.{part}" for part in ("bytes", "starts", "ids")}
    )
    for name in file.tensors.keys() - known:
        fail(name, "a tensor", f"none of that name in a {config['arch']} model")
