"""Write the operations of a program one by one, and give the memory that they use its places."""

from __future__ import annotations

from typing import NamedTuple

from ..file.mapped import TensorFile
from ..kernels import abi as op
from ..versions.reference import new_state


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


class Builder:
    """The operations so far, and the buffers that they use; `Program` says which operations these are.

    Parameters
    ----------
    file : TensorFile
    """

    def __init__(self, file: TensorFile) -> None:
        self.file, self.config, self.C = file, file.metadata, file.metadata["n_embd"]
        self.rows: list[list[int]] = []
        self.notes: list[str] = []
        self.state_size = new_state(self.config).size
        self.state_stride = self.state_size // self.config["n_layer"]
        # Fixed places that the kernels know: ln_x_eps and a vector of ones in the shared workspace,
        # results of dot products and three rows for the wkv kernels in the private one.
        self.shared_bytes = 64 + 4 * self.C
        self.private_bytes = 4 * 64 * op.MAX_TOKENS + 12 * self.config["head_size"]
        self.private_bytes += -self.private_bytes % 64
        self._buffers: dict[str, int] = {}
        # Quantised activations and their scales, to the end of the private workspace: used anew after each SYNC.
        self._quantised_scales, self._quantised, self._used, self._scales_used, self._most_used = (
            0,
            0,
            0,
            0,
            0,
        )
        self._waiting: list[tuple[str, int, int, int, Finish]] = []
        ranks = [
            t.shape[0] for t in file.tensors.values() if t.name.endswith(("1.weight", "weight.a"))
        ]
        self._widest_rank = max(ranks, default=0)

    def _emit(self, opcode: int, note: str, *fields: int) -> None:
        self.rows.append([opcode, *map(int, op.Fields[opcode](*fields))])
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
        weight, bias = self._vector(name + ".weight"), self._vector(name + ".bias")
        self._emit(
            op.NORM,
            name,
            self._shared("x", self.C),
            weight,
            bias,
            self._private("xn", self.C),
            self.C,
        )

    def _shift(self, layer: int, part: str, tensor: str, count: int, delta: int = op.NONE) -> None:
        state = 4 * (layer * self.state_stride + (self.C if part == "ffn" else 0))
        name = f"blocks.{layer}.{part}.{tensor}"
        src, dst = self._private("xn", self.C), self._private("mixed", self.C)
        self._emit(op.SHIFT, name, src, state, self._vector(name), count, delta, dst, self.C)

    def _input(
        self, src: int, width: int, shared: bool, stride: int = 0, largest: int = 0
    ) -> Input:
        """Prepare `width` activations of each token for op.MATMUL: quantised, where the weights are int8."""
        if self.config["dtype"] != "int8":
            return Input(int(shared), src, width, op.NONE, src)
        dst, scale = self._quantised + self._used, self._quantised_scales + self._scales_used
        self._used += op.MAX_TOKENS * 2 * width
        self._scales_used += op.MAX_TOKENS * 4
        self._most_used = max(self._most_used, self._used)
        self._emit(
            op.QUANTIZE, "", shared, src, stride or width, width, dst, scale, largest or qmax(width)
        )
        return Input(0, dst, width, scale, src)

    def _mixed(self, j: int) -> Input:
        """Prepare the j-th result of token_shift."""
        return self._input(
            self._private("mixed", self.C) + j * op.MAX_TOKENS * 4 * self.C, self.C, shared=False
        )

    def _matmul(
        self,
        name: str,
        x: Input,
        dst: int,
        finish: Finish = PLAIN,
        unit: int = 1,
        part: tuple[int, int] | None = None,
    ) -> None:
        """Emit the product with all rows of W, or (first, count) of them, split between threads by `unit` rows."""
        weight, scale, kind = self._matrix(name)
        total, cols = self.file.tensors[name].shape
        first, rows = part or (0, total)
        weight += first * cols * (4, 2, 1)[kind]
        scale += 4 * first if scale != op.NONE else 0
        stride = self.config["vocab_size"] if finish.mode == op.LOGITS else rows
        self._emit(
            op.MATMUL,
            name,
            weight,
            scale,
            kind,
            rows // unit,
            cols,
            unit,
            *x[:4],
            dst,
            stride,
            *finish,
        )

    def _project(self, name: str, x: Input, dst: int, activation: int = op.IDENTITY) -> None:
        """Emit dst = activation(W @ x), of a factored W only the first factor: ``_second_factors`` does the rest."""
        inner, finish = PLAIN, Finish(activation)
        if name in self.file.tensors:
            return self._matmul(name, x, dst, finish)
        if (enhanced := name.removesuffix("weight") + "diag") in self.file.tensors:
            inner = Finish(op.SQUARED_RELU)
            finish = finish._replace(diag=self._vector(enhanced), diag_src=x.floats)
        self._factors(f"{name}.a", f"{name}.b", x, dst, inner, finish)

    def _factors(
        self, first: str, second: str, x: Input, dst: int, inner: Finish, finish: Finish
    ) -> None:
        """Emit low = inner(A @ x); after the next SYNC follows dst = finish(B @ low)."""
        low, rank = (
            self._shared(f"low {len(self._waiting)}", self._widest_rank),
            self.file.tensors[first].shape[0],
        )
        self._matmul(first, x, low, inner)
        self._waiting.append((second, low, rank, dst, finish))

    def _second_factors(self, unit: int = 1) -> None:
        """Emit the second factors of the matrices since the last SYNC, split between threads by `unit` rows."""
        for name, low, rank, dst, finish in self._waiting:
            self._matmul(name, self._input(low, rank, shared=True), dst, finish, unit)
        self._waiting.clear()
