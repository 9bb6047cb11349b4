"""Turn a model file into a program: the operations of one token as numbers that the kernels walk.

A program is a table of int64, one row for each operation: an opcode, then the fields that ``opcodes.FIELDS`` names.
``weight``-like fields are byte offsets into the mapped file, the rest are byte offsets into workspaces: what every
thread needs whole it computes for itself in its private workspace (norms, token shifts, quantised activations);
what threads split by rows or heads lies in the shared one, with a SYNC between writing and reading.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import numpy as np

from . import opcodes as op
from .errors import FormatError
from .format import TensorFile
from .layout import CODE_BITS, KEPT, MATRIX, PAGE, SHIFTED, code_qmax, tensor_shapes

TYPES = {"rows": "i8", "bundles": "i8", "signs": "u8", "ids": "i32", "wanted": "i32"}
"""What is stored in one type, whatever the type of the matrices: the last part of a name; codes are u8 as well."""

HEAD_ROWS = 8192
"""Rows of the head in one operation, so that a deadline is looked at in between."""


def qmax(cols: int) -> int:
    """Return the largest int16 activation for which a sum over `cols` int8 weights stays inside int32.

    Not above 127 * 256, so that its upper byte, rounded, is a byte again: PREDICT works on that.
    """
    return min(127 * 256, (2**31 - 1) // (127 * cols))


class Input(NamedTuple):
    """Activations as MATMUL reads them: where, elements between tokens, scales of quantised ones, the floats."""

    shared: int
    src: int
    stride: int
    scale: int
    floats: int


class Finish(NamedTuple):
    """What is done with a matrix product: dst (mode)= activation(W @ x + bias + diag * x)."""

    activation: int = op.IDENTITY
    bias: int = op.NONE
    mode: int = op.STORE
    gate: int = op.NONE
    diag: int = op.NONE
    diag_src: int = 0


PLAIN = Finish()


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
        self._waiting: list[tuple[str, int, int, int, Finish]] = []
        C, arch = config["n_embd"], config["arch"]
        # Fixed places that the kernels know: ln_x_eps and a vector of ones in the shared workspace,
        # results of dot products and three rows for the wkv kernels in the private one.
        self.shared_bytes = 64 + 4 * C
        self.private_bytes = 4 * 64 * op.MAX_TOKENS + 12 * config["head_size"]
        self.private_bytes += -self.private_bytes % 64
        self.state_stride = 5 * C if arch == "v4" else 2 * C + C * config["head_size"]
        self.state_size = config["n_layer"] * self.state_stride
        low = [t.shape[0] for t in file.tensors.values() if t.name.endswith(("1.weight", "weight.a"))]
        self._widest_rank = max(low, default=0)
        mixes = len(SHIFTED[arch])
        self._private("xn", C)
        self._private("mixed", C * mixes)
        # For the rows that some tokens need: their addresses and factors, and the bit planes of activations.
        self._list, self._planes = self.private_bytes, self.private_bytes + 16 * config["n_ffn"]
        self.private_bytes += 16 * config["n_ffn"] + 64 * -(-C // 64)
        self._quantised_scales = self.private_bytes
        self.private_bytes += op.MAX_TOKENS * 4 * 8
        self._quantised, self._used, self._scales_used, self._most_used = self.private_bytes, 0, 0, 0
        self._emit(op.EMBED, "emb.weight", *self._matrix("emb.weight"), self._shared("x", C), C)
        self._sync()
        versions = {"v4": self._time_mix_v4, "v6": self._time_mix_v6, "v7": self._time_mix_v7}
        time_mix = versions.get(arch, self._time_mix_v5)
        for layer in range(config["n_layer"]):
            self._norm(f"blocks.{layer}.ln1")
            time_mix(layer)
            self._channel_mix(layer)
            self.layer_ends.append(len(self.rows))
        self.select = len(self.rows)
        self._emit(op.SELECT, "x", self._shared("x", C), C)
        self._norm("ln_out")
        self._head()
        self.private_bytes += self._most_used  # the last region, grown as it was used
        self.table = np.array([row + [0] * (op.WIDTH - len(row)) for row in self.rows], np.int64)

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

    def _input(self, src: int, width: int, shared: bool, stride: int = 0, largest: int = 0) -> Input:
        """Prepare `width` activations of each token for op.MATMUL: quantised, where the weights are int8."""
        if self.config["dtype"] != "int8":
            return Input(int(shared), src, width, op.NONE, src)
        dst, scale = self._quantised + self._used, self._quantised_scales + self._scales_used
        self._used += op.MAX_TOKENS * 2 * width
        self._scales_used += op.MAX_TOKENS * 4
        self._most_used = max(self._most_used, self._used)
        self._emit(op.QUANTIZE, "", shared, src, stride or width, width, dst, scale, largest or qmax(width))
        return Input(0, dst, width, scale, src)

    def _mixed(self, j: int) -> Input:
        """Prepare the j-th result of token_shift."""
        C = self.config["n_embd"]
        return self._input(self._private("mixed", C) + j * op.MAX_TOKENS * 4 * C, C, shared=False)

    def _matmul(
        self, name: str, x: Input, dst: int, finish: Finish = PLAIN, unit: int = 1, part: tuple[int, int] | None = None
    ) -> None:
        """Emit the product with all rows of W, or (first, count) of them, split between threads by `unit` rows."""
        weight, scale, kind = self._matrix(name)
        total, cols = self.file.tensors[name].shape
        first, rows = part or (0, total)
        weight += first * cols * (4, 2, 1)[kind]
        scale += 4 * first if scale != op.NONE else 0
        stride = self.config["vocab_size"] if finish.mode == op.LOGITS else rows
        self._emit(op.MATMUL, name, weight, scale, kind, rows // unit, cols, unit, *x[:4], dst, stride, *finish)

    def _project(self, name: str, x: Input, dst: int, activation: int = op.IDENTITY) -> None:
        """Emit dst = activation(W @ x), of a factored W only the first factor: ``_second_factors`` does the rest."""
        inner, finish = PLAIN, Finish(activation)
        if name in self.file.tensors:
            return self._matmul(name, x, dst, finish)
        if (enhanced := name.removesuffix("weight") + "diag") in self.file.tensors:
            inner = Finish(op.SQUARED_RELU)
            finish = finish._replace(diag=self._vector(enhanced), diag_src=x.floats)
        self._factors(f"{name}.a", f"{name}.b", x, dst, inner, finish)

    def _factors(self, first: str, second: str, x: Input, dst: int, inner: Finish, finish: Finish) -> None:
        """Emit low = inner(A @ x); after the next SYNC follows dst = finish(B @ low)."""
        low, rank = self._shared(f"low {len(self._waiting)}", self._widest_rank), self.file.tensors[first].shape[0]
        self._matmul(first, x, low, inner)
        self._waiting.append((second, low, rank, dst, finish))

    def _second_factors(self, unit: int = 1) -> None:
        """Emit the second factors of the matrices since the last SYNC, split between threads by `unit` rows."""
        for name, low, rank, dst, finish in self._waiting:
            self._matmul(name, self._input(low, rank, shared=True), dst, finish, unit)
        self._waiting.clear()

    # ---- the versions ----

    def _time_mix_v4(self, layer: int) -> None:
        C, att = self.config["n_embd"], f"blocks.{layer}.att."
        self._shift(layer, "att", "token_shift", 3)
        r, k, v, y = (self._shared(name, C) for name in ("receptance", "key", "value", "y"))
        self._receptance_key_value(layer, op.SIGMOID)
        self._sync()
        self._second_factors()
        decay, first = self._vector(att + "time_decay"), self._vector(att + "time_first")
        self._emit(op.WKV4, att + "wkv", r, k, v, decay, first, self._wkv_state(layer), y, C)
        self._output(layer)

    def _time_mix_v5(self, layer: int) -> None:
        att = f"blocks.{layer}.att."
        self._shift(layer, "att", "token_shift", len(SHIFTED[self.config["arch"]]))
        gate = self._receptance_key_value_gate(layer)
        self._sync()
        self._second_factors(self.config["head_size"])
        self._wkv5(layer, gate, self._vector(att + "time_decay"), per_token=False)
        self._output(layer)

    def _time_mix_v6(self, layer: int) -> None:
        C, att = self.config["n_embd"], f"blocks.{layer}.att."
        self._shift(layer, "att", "time_maa_x", 1)
        five_ranks = self.file.tensors[att + "time_maa_w1.weight"].shape[0]
        low, delta = self._shared("low mix", five_ranks), self._shared("delta", 5 * C)
        self._matmul(att + "time_maa_w1.weight", self._mixed(0), low, Finish(op.TANH))
        self._sync()
        x = self._input(low, five_ranks, shared=True)
        for j in range(5):
            part = x._replace(src=x.src + j * (five_ranks // 5) * (2 if x.scale != op.NONE else 4))
            dst = delta + j * op.MAX_TOKENS * 4 * C
            self._matmul(att + "time_maa_w2.weight", part, dst, part=(j * C, C))
        self._sync()
        self._shift(layer, "att", "token_shift", 5, delta)
        gate, decay = self._receptance_key_value_gate(layer), self._shared("decay", C)
        factors, bias = (att + "time_decay_w1.weight", att + "time_decay_w2.weight"), self._vector(att + "time_decay")
        self._factors(*factors, self._mixed(3), decay, Finish(op.TANH), Finish(op.DECAY_V6, bias))
        self._sync()
        self._second_factors(self.config["head_size"])
        self._wkv5(layer, gate, decay, per_token=True)
        self._output(layer)

    def _receptance_key_value(self, layer: int, activation: int) -> None:
        for j, (name, function) in enumerate(
            (("receptance", activation), ("key", op.IDENTITY), ("value", op.IDENTITY))
        ):
            dst = self._shared(name, self.config["n_embd"])
            self._project(f"blocks.{layer}.att.{name}.weight", self._mixed(j), dst, function)

    def _receptance_key_value_gate(self, layer: int) -> int:
        """Emit the projections of v5 and v6; return the gate's buffer, NONE for v5.0."""
        C, shifted, att = self.config["n_embd"], SHIFTED[self.config["arch"]], f"blocks.{layer}.att."
        self._receptance_key_value(layer, op.IDENTITY)
        if "g" not in shifted:
            return op.NONE
        gate = self._shared("gate", C)
        self._project(att + "gate.weight", self._mixed(shifted.index("g")), gate, op.SILU)
        return gate

    def _wkv_state(self, layer: int) -> int:
        return 4 * (layer * self.state_stride + 2 * self.config["n_embd"])

    def _wkv5(self, layer: int, gate: int, decay: int, per_token: bool) -> None:
        C, att = self.config["n_embd"], f"blocks.{layer}.att."
        r, k, v, y = (self._shared(name, C) for name in ("receptance", "key", "value", "y"))
        bonus, ln_x = self._vector(att + "bonus"), (self._vector(att + "ln_x.weight"), self._vector(att + "ln_x.bias"))
        heads = self.config["n_head"], self.config["head_size"]
        state = self._wkv_state(layer)
        self._emit(op.WKV5, att + "wkv", r, k, v, gate, decay, per_token, bonus, *ln_x, state, y, *heads)

    def _time_mix_v7(self, layer: int) -> None:
        C, N, att = self.config["n_embd"], self.config["head_size"], f"blocks.{layer}.att."
        self._shift(layer, "att", "token_shift", 6)
        xr, xw, xk, xv, xa, xg = (self._mixed(j) for j in range(6))
        r, k, w, a = (self._shared(name, C) for name in ("receptance", "key", "w", "a"))
        g, v_first, y = (self._shared(name, C) for name in ("g", "v_first", "y"))
        v = self._shared("value", C) if layer else v_first  # layer 0 leaves its value for the others
        v_gate = self._shared("v", C) if layer else op.NONE
        self._project(att + "receptance.weight", xr, r)
        self._project(att + "key.weight", xk, k)
        self._project(att + "value.weight", xv, v)
        for name, x, dst, inner, activation in (
            ("w", xw, w, op.TANH, op.DECAY_V7),
            ("a", xa, a, op.IDENTITY, op.SIGMOID),
            ("g", xg, g, op.SIGMOID, op.IDENTITY),
            ("v", xv, v_gate, op.IDENTITY, op.SIGMOID),
        )[: 4 if layer else 3]:
            bias = op.NONE if name == "g" else self._vector(f"{att}{name}0")
            factors = f"{att}{name}1.weight", f"{att}{name}2.weight"
            self._factors(*factors, x, dst, Finish(inner), Finish(activation, bias))
        self._sync()
        self._second_factors(N)
        vectors = (self._vector(att + name) for name in ("k_k", "k_a", "r_k", "ln_x.weight", "ln_x.bias"))
        state, heads = self._wkv_state(layer), (self.config["n_head"], N)
        self._emit(op.WKV7, att + "wkv", r, k, v, w, a, g, v_gate, v_first, *vectors, state, y, *heads)
        self._output(layer)

    def _output(self, layer: int) -> None:
        C = self.config["n_embd"]
        self._sync()
        x = self._input(self._shared("y", C), C, shared=True)
        self._matmul(f"blocks.{layer}.att.output.weight", x, self._shared("x", C), Finish(mode=op.ADD))
        self._sync()

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
            per_page = PAGE // (2 * C) if bundles.shape[1] == PAGE else 0
            rows = (2 * C, per_page, 2**32 // per_page + 1 if per_page else 0)
            key_scale, value_scale = (self._vector(f"{bundles.name}.{part}_scale") for part in ("key", "value"))
            signs, threshold = (self._vector(f"{ffn}predictor.{part}") for part in ("signs", "threshold"))
            result = (hidden, F, *Finish(op.SQUARED_RELU))
            matrix = (bundles.offset, key_scale, op.INT8, F, C, 1)
            predictor = (signs, threshold, self._planes, *network)
            self._emit(op.PREDICT, bundles.name, *matrix, *xk[:4], *result, *rows, *predictor)
        else:
            self._matmul(ffn + "key.weight", xk, hidden, Finish(op.SQUARED_RELU))
        if gated:
            self._project(ffn + "receptance.weight", self._mixed(1), gate, op.SIGMOID)
        self._sync()
        values = self.file.tensors.get(ffn + "value.rows")
        unit = (64 if C % 64 == 0 else 8) if bundles or values else 1
        self._second_factors(unit)  # a thread's rows of the gate are those of the value that it multiplies
        x = self._input(hidden, F, shared=True)
        finish, out = Finish(mode=op.GATED_ADD if gated else op.ADD, gate=gate), self._shared("x", C)
        result = (out, C, *finish)
        if bundles:
            matrix = (bundles.offset + C, value_scale, op.INT8, C // unit, F, unit)
            self._emit(op.SPARSE, bundles.name, *matrix, *x[:4], *result, *rows, self._list)
        elif values:
            matrix = (values.offset, self._vector(values.name + ".scale"), op.INT8, C // unit, F, unit)
            self._emit(op.SPARSE, values.name, *matrix, *x[:4], *result, C, 0, 0, self._list)
        else:
            self._matmul(ffn + "value.weight", x, out, finish)
        self._sync()

    def _network(self, predictor: str, neurons: int) -> tuple[int, int]:
        """Emit scores = fc2 @ relu(fc1 @ x); return where they and their thresholds are, NONE without a network."""
        if predictor + "fc1.weight" not in self.file.tensors:
            return op.NONE, op.NONE
        low, scores = self._shared("low network", self._widest_rank), self._shared("scores", neurons)
        self._matmul(predictor + "fc1.weight", self._mixed(0), low, Finish(op.RELU))
        self._sync()
        width = self.file.tensors[predictor + "fc1.weight"].shape[0]
        self._matmul(predictor + "fc2.weight", self._input(low, width, shared=True), scores)
        return scores, self._vector(predictor + "mlp_threshold")

    def _head(self) -> None:
        C, V = self.config["n_embd"], self.config["vocab_size"]
        self.head_input = x = self._input(self._private("xn", C), C, shared=False)
        scores = self._preview(x) if "head.rows.weight" in self.file else ()
        for first in range(0, V, HEAD_ROWS):
            rows = min(HEAD_ROWS, V - first)
            if scores:
                weight, scale, _ = self._matrix("head.rows.weight")
                matrix = (weight, scale, self._vector("head.ids"), C, x.src, x.scale)
                self._emit(op.EXACT, "head.rows.weight", *matrix, first, rows, V, *scores)
            else:
                self._matmul("head.weight", x, 4 * first, Finish(mode=op.LOGITS), part=(first, rows))

    def _preview(self, x: Input) -> tuple[int, int]:
        """Emit the logits that the preview gives; return where scores are and the lowest of rows to read."""
        V, (R, C), used = self.config["vocab_size"], self.file.tensors["head.basis.weight"].shape, 0
        y, z = self._shared("head y", R), self._shared("head z", V)
        names = ("mean", "ids", "bias_codes", "spread_codes", "tables", "wanted")
        mean, ids, bias, spread, tables, wanted = (self._vector(f"head.{name}") for name in names)
        self._matmul("head.basis.weight", x, y, Finish(bias=self._vector("head.basis.bias")))
        self._emit(op.SYNC, "")  # without an end to the use of x
        for k, (rows, rank, bits) in enumerate(preview_levels(self.file)):
            q = self._input(y + 4 * used, rank, shared=True, stride=R, largest=code_qmax(rank, bits))
            codes, scales = self._vector(f"head.codes.{bits}"), self._vector(f"head.scale_codes.{bits}")
            level = (codes, scales, tables + 1024 * (2 + k), rows, rank * bits // 16, rank, bits)
            self._emit(op.LEVEL, f"head.codes.{bits}", *level, q.src, q.scale, z, V, k > 0)
            used += rank
        self._emit(op.PREVIEW, "head.ids", x.floats, mean, ids, bias, spread, tables, z, V, C)
        self._emit(op.SYNC, "")
        lowest = self._quantised_scales + self._scales_used
        self._emit(op.CHOOSE, "head.wanted", wanted, z, V, lowest)
        return z, lowest


def preview_levels(head: TensorFile) -> list[tuple[int, int, int]]:
    """Return (rows, rank, bits) of the codes of a head's preview."""
    levels = []
    for bits in CODE_BITS:
        if f"head.codes.{bits}" in head:
            rows, words = head.tensors[f"head.scale_codes.{bits}"].shape[0], head.tensors[f"head.codes.{bits}"].shape[1]
            levels.append((rows, words * 16 // bits, bits))
    return levels


def check_tensors(file: TensorFile) -> None:
    """Compare the tensors of a model file with what its version needs.

    Raises
    ------
    FormatError
        A tensor is missing, unknown, or of the wrong type or shape.
    """
    config, ranks, scales = file.metadata, dict[str, int](), set[str]()
    fix = "the file was not written by tinyrwkv-convert or is damaged; convert the checkpoint again"

    def fail(name: str, found: object, wanted: object) -> NoReturn:
        raise FormatError(file.path, name if name == "metadata" else f"tensor '{name}'", found, wanted, fix)

    if config["arch"] != "v4" and config["n_head"] * config["head_size"] != config["n_embd"]:
        fail("metadata", f"{config['n_head']} heads of {config['head_size']}", f"{config['n_embd']} channels in all")
    if config["arch"] != "v4" and config["head_size"] % 8:
        fail("metadata", f"heads of {config['head_size']}", "a multiple of 8, which the kernels work on at a time")
    for part, step in (("ffn.value.rows", 8), ("ffn.bundles", 64), ("head.rows.weight", 1)):
        if any(name.endswith(part) for name in file.tensors) and (config["n_embd"] % step or config["dtype"] != "int8"):
            found = f"{part} {config['n_embd']} wide, {config['dtype']}"
            fail("metadata", found, f"int8 and a multiple of {step}, which the kernels work on at a time")
    expected = tensor_shapes(config, file.tensors)
    expected |= {name: (config["n_embd"],) for name in KEPT if name in file.tensors}
    dtype = {"f32": "f32", "f16": "f16", "int8": "i8"}[config["dtype"]]
    for name, shape in expected.items():
        if name not in file.tensors:
            fail(name, "nothing", f"a tensor of shape {shape}, which {config['arch']} models have")
        tensor = file.tensors[name]
        wanted = dtype if len(shape) == 2 and MATRIX.search(name) else TYPES.get(name.rsplit(".", 1)[1], "f32")
        wanted = "u8" if "codes" in name else wanted
        if tensor.dtype != wanted:
            fail(name, f"type {tensor.dtype}", f"type {wanted}")
        part, sizes = name.rsplit(".", 2)[0], list(shape)
        for i, (size, length) in enumerate(zip(shape, tensor.shape, strict=False)):
            if isinstance(size, str):
                times = 5 if size.startswith("5 ") else 1
                sizes[i] = times * ranks.setdefault(f"{part} {size.removeprefix('5 ')}", length // times)
        if list(tensor.shape) != sizes:
            fail(name, f"shape {tensor.shape}", f"shape {shape}")
        if wanted == "i8" and not name.endswith(".bundles"):
            scales.add(name + ".scale")
            scale = file.tensors.get(name + ".scale")
            scaled = tensor.shape[1:] if name.endswith(".rows") else tensor.shape[:1]
            if scale is None or scale.dtype != "f32" or scale.shape != scaled:
                fail(f"{name}.scale", scale and f"{scale.dtype} {scale.shape}", f"f32 {scaled}")
    known = expected.keys() | scales | {f"tokenizer.{part}" for part in ("bytes", "starts", "ids")}
    for name in file.tensors.keys() - known:
        fail(name, "a tensor", f"none of that name in a {config['arch']} model")
    if "head.rows.weight" in file:
        levels, V, R = preview_levels(file), config["vocab_size"], file.tensors["head.basis.weight"].shape[0]
        for rows, rank, bits in levels:
            blocks = file.tensors[f"head.codes.{bits}"].shape[0]
            if rows > V or blocks != -(-rows // op.BLOCK) or not code_qmax(rank, bits):
                fail(f"head.codes.{bits}", f"{blocks} blocks, {rank} codes a row", f"those of {min(rows, V)} rows")
        if R != sum(rank for _, rank, _ in levels) or not np.array_equal(np.sort(file["head.ids"]), np.arange(V)):
            fail("head.ids", f"other ids, or a basis of rank {R}", "every token once, a rank for each code of a row")
