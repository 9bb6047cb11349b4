"""Write the operations of a program one by one, and lay out the memory that they use."""

from __future__ import annotations

from typing import NamedTuple

from ..file.int4 import GROUP
from ..file.tensors import TensorFile
from ..kernels import abi as op
from ..versions.forms import QUANTISED, SHIFTED, matrix_shape
from ..versions.state_shape import layer_state_size
from .operations import Operation, Part

FLOATS = 4 * op.MAX_TOKENS
"""Bytes of one float32 for each token that a call may read."""

MOST_INPUTS = 8
"""The most inputs that may be quantised between two SYNCs; v7 needs six."""


def qmax(cols: int) -> int:
    """Return the largest int16 activation that keeps sums over `cols` int8 weights inside int32.

    It is at most 127 * 256. Its upper byte, rounded, is then a byte again, as PREDICT needs it.
    """
    return min(127 * 256, (2**31 - 1) // (127 * cols))


class Input(NamedTuple):
    """Activations as a matrix product reads them.

    Attributes
    ----------
    shared : int
        1 if they lie in the shared workspace, 0 if in the private one.
    src : int
        Where they lie.
    stride : int
        Elements from one token to the next.
    scale : int
        Where the scales of quantised activations lie; NONE if they are floats.
    sums : int
        Where the sums of quantised activations lie, one for each group of int4; NONE without any.
    floats : int
        Where the same activations lie as floats.
    """

    shared: int
    src: int
    stride: int
    scale: int
    sums: int
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


class Matrix(NamedTuple):
    """Where the weights and scales of a matrix lie in the file, and the kind of the weights."""

    weight: int
    scale: int
    kind: int


class SecondFactor(NamedTuple):
    """The second factor of a matrix, which has to wait for the first one.

    Its input is the product of the first factor: `rank` numbers for each token, at `src`.
    """

    name: str
    src: int
    rank: int
    dst: int
    finish: Finish


class Places:
    """The places of a workspace, given out one after the other.

    Parameters
    ----------
    first_free : int
        Bytes at the beginning that are in use already.

    Attributes
    ----------
    bytes : int
        The size of the workspace so far.
    """

    def __init__(self, first_free: int) -> None:
        self.bytes = first_free
        self._named: dict[str, int] = {}

    def reserve(self, size: int) -> int:
        """Return a new place of `size` bytes."""
        place = self.bytes
        self.bytes += size
        return place

    def floats(self, name: str, width: int) -> int:
        """Return the place of this name, `width` float32 for each token; new at the first call."""
        if name not in self._named:
            self._named[name] = self.reserve(FLOATS * width)
        return self._named[name]


class QuantisedInputs:
    """Places for quantised activations, which only live until the next SYNC.

    They lie at the end of the private workspace, and `finish` makes room for them.

    Parameters
    ----------
    private : Places
        The private workspace, complete except for these places.
    """

    def __init__(self, private: Places) -> None:
        self._private = private
        self._scales = private.reserve(MOST_INPUTS * FLOATS)
        self._scales_used = 0
        self._used = 0
        self._most_used = 0

    def activations(self, width: int) -> int:
        """Return a place for `width` int16 of each token."""
        place = self._private.bytes + self._used
        self._used += op.MAX_TOKENS * 2 * width
        self._most_used = max(self._most_used, self._used)
        return place

    def sums(self, groups: int) -> int:
        """Return a place for an int32 of each token and group."""
        place = self._private.bytes + self._used
        self._used += FLOATS * groups
        self._most_used = max(self._most_used, self._used)
        return place

    def number(self) -> int:
        """Return a place for one number of each token, a scale for example."""
        place = self._scales + self._scales_used
        self._scales_used += FLOATS
        return place

    def forget(self) -> None:
        """Let all places be used again."""
        self._used = 0
        self._scales_used = 0

    def finish(self) -> None:
        """Make the private workspace long enough for them all."""
        self._private.reserve(self._most_used)


class Builder:
    """The operations so far, and the workspaces that they use.

    `program`, `time_mix`, `channel_mix` and `head` say which operations these are.

    Parameters
    ----------
    file : TensorFile

    Attributes
    ----------
    operations : list of Operation
    shared, private : Places
        The workspace that all threads use, and the one that each has for itself.
    quantised : QuantisedInputs
    listed, tables : int
        Places in the private workspace: where SPARSE lists the rows that some tokens need, and
        where PREDICT and LEVEL put the tables of sums that they make for each byte of codes.
    """

    def __init__(self, file: TensorFile) -> None:
        self.file = file
        self.config = file.config
        self.C = self.config["n_embd"]
        self.operations: list[Operation] = []
        self._part: Part = "embedding"
        self._layer: int | None = None
        self._waiting: list[SecondFactor] = []
        self._widest_rank = max(_inner_ranks(file), default=0)
        self.shared = Places(op.fixed_shared_bytes(self.C))
        self.private = Places(op.fixed_private_bytes(self.config["head_size"]))
        self.private.floats("xn", self.C)
        self.private.floats("mixed", self.C * len(SHIFTED[self.config["arch"]]))
        self.listed = self.private.reserve(op.list_bytes(self.config["n_ffn"], self.C))
        self.tables = self.private.reserve(op.TABLE_BYTES * self._longest_codes())
        self.quantised = QuantisedInputs(self.private)

    def _longest_codes(self) -> int:
        """Return the most bytes of codes that a row of signs, or of a head's codes, has."""
        signs = self.C // 8  # one bit for each channel
        tensors = self.file.tensors.values()
        return max(signs, *(one.shape[1] for one in tensors if "head.codes" in one.name), 0)

    def begin(self, part: Part, layer: int | None = None) -> None:
        """Begin a part of the model: the operations that follow belong to it."""
        self._part = part
        self._layer = layer

    def emit(self, opcode: int, label: str = "", **fields: int) -> None:
        """Add an operation; its fields have the names that ``abi`` gives them."""
        numbers = {name: int(value) for name, value in fields.items()}
        complete = op.Fields[opcode](**numbers)
        self.operations.append(Operation(opcode, complete, label, self._part, self._layer))

    def pause(self) -> None:
        """Say that a call of the kernels may end here, so that a deadline can be checked."""
        self.operations[-1] = self.operations[-1]._replace(pausable=True)

    def sync(self, keep_inputs: bool = False) -> None:
        """Let the threads meet; quantised inputs end here, unless they are still needed."""
        self.emit(op.SYNC)
        if not keep_inputs:
            self.quantised.forget()

    def vector(self, name: str) -> int:
        """Return where a tensor lies in the file."""
        return self.file.tensors[name].offset

    def matrix(self, name: str) -> Matrix:
        """Return where a matrix lies, and its kind."""
        tensor = self.file.tensors[name]
        scale = self.vector(f"{name}.scale") if tensor.dtype == "i8" else op.NONE
        return Matrix(tensor.offset, scale, op.KINDS[tensor.dtype])

    def norm(self, name: str) -> None:
        """Add xn = layer_norm(x)."""
        self.emit(
            op.NORM,
            name,
            src=self.shared.floats("x", self.C),
            weight=self.vector(f"{name}.weight"),
            bias=self.vector(f"{name}.bias"),
            dst=self.private.floats("xn", self.C),
            width=self.C,
        )

    def shift(self, tensor: str, count: int, state: int, delta: int = op.NONE) -> None:
        """Add x_j = xn + (xn_prev - xn) * (mu_j + delta_j) for `count` rows mu_j of a tensor.

        Parameters
        ----------
        tensor : str
        count : int
        state : int
            Where in the state, in bytes, the xn of the token before lies.
        delta : int
            Where in the shared workspace the delta_j of each token lie; by default, they are 0.
        """
        self.emit(
            op.SHIFT,
            tensor,
            src=self.private.floats("xn", self.C),
            state=state,
            mu=self.vector(tensor),
            count=count,
            delta=delta,
            dst=self.private.floats("mixed", self.C),
            width=self.C,
        )

    def layer_state(self, layer: int) -> int:
        """Return where the state of a layer begins, in bytes from the beginning of the state."""
        return 4 * layer * layer_state_size(self.config)

    def input(
        self,
        src: int,
        width: int,
        shared: bool,
        stride: int | None = None,
        largest: int | None = None,
    ) -> Input:
        """Prepare activations for a matrix product: quantise them if the weights are.

        Parameters
        ----------
        src : int
            Where the floats lie.
        width : int
            Activations of each token.
        shared : bool
            Whether they lie in the shared workspace.
        stride : int, optional
            Floats from one token to the next; without it, `width`.
        largest : int, optional
            The largest quantised activation; without it, as `qmax` says.
        """
        if self.config["dtype"] not in QUANTISED:
            return Input(int(shared), src, width, op.NONE, op.NONE, src)
        dst = self.quantised.activations(width)
        scale = self.quantised.number()
        sums = op.NONE
        if self.config["dtype"] == "int4" and width % GROUP == 0:
            sums = self.quantised.sums(width // GROUP)
        self.emit(
            op.QUANTIZE,
            shared=shared,
            src=src,
            stride=stride or width,
            width=width,
            dst=dst,
            dst_scale=scale,
            dst_sums=sums,
            qmax=largest or qmax(width),
        )
        return Input(0, dst, width, scale, sums, src)

    def mixed_input(self, j: int) -> Input:
        """Prepare the j-th result of a token shift."""
        src = self.private.floats("mixed", self.C) + j * FLOATS * self.C
        return self.input(src, self.C, shared=False)

    def matmul(
        self,
        name: str,
        x: Input,
        dst: int,
        finish: Finish = PLAIN,
        unit: int = 1,
        part: tuple[int, int] | None = None,
        stride: int | None = None,
    ) -> None:
        """Add a matrix product.

        Parameters
        ----------
        name : str
            The matrix W.
        x : Input
        dst : int
            Where in the shared workspace the result goes; with LOGITS, where in the logits.
        finish : Finish
        unit : int
            Threads split the rows at multiples of this number.
        part : (int, int), optional
            The first row and the number of rows; without it, all.
        stride : int, optional
            Results from one token to the next; without it, as many as there are rows.
        """
        matrix = self.matrix(name)
        total, cols = matrix_shape(self.file.tensors[name])
        first, rows = part or (0, total)
        first_byte = matrix.weight + first * op.row_bytes(matrix.kind, cols)
        matrix = matrix._replace(weight=first_byte)
        if matrix.scale != op.NONE:
            matrix = matrix._replace(scale=matrix.scale + 4 * first)
        fields = product_fields(matrix, rows, cols, unit, x, dst, stride or rows, finish)
        self.emit(op.MATMUL, name, **fields)

    def project(self, name: str, x: Input, dst: int, activation: int = op.IDENTITY) -> None:
        """Add dst = activation(W @ x).

        If W is stored as two factors, add the product with the first one only: `second_factors`
        adds the rest.
        """
        finish = Finish(activation)
        if name in self.file.tensors:
            self.matmul(name, x, dst, finish)
            return
        inner = PLAIN
        diagonal = name.removesuffix("weight") + "diag"
        if diagonal in self.file.tensors:  # B @ relu(A @ x)^2 + diag * x
            inner = Finish(op.SQUARED_RELU)
            finish = finish._replace(diag=self.vector(diagonal), diag_src=x.floats)
        self.factors(f"{name}.a", f"{name}.b", x, dst, inner, finish)

    def factors(
        self, first: str, second: str, x: Input, dst: int, inner: Finish, finish: Finish
    ) -> None:
        """Add low = inner(A @ x).

        After the next SYNC, `second_factors` adds dst = finish(B @ low).
        """
        low = self.shared.floats(f"low {len(self._waiting)}", self._widest_rank)
        rank = self.file.tensors[first].shape[0]
        self.matmul(first, x, low, inner)
        self._waiting.append(SecondFactor(second, low, rank, dst, finish))

    def second_factors(self, unit: int = 1) -> None:
        """Add the products that wait for their first factor; threads split them by `unit` rows."""
        for factor in self._waiting:
            x = self.input(factor.src, factor.rank, shared=True)
            self.matmul(factor.name, x, factor.dst, factor.finish, unit)
        self._waiting.clear()

    def low(self, name: str) -> int:
        """Return a place in the shared workspace, large enough for the result of a first factor."""
        return self.shared.floats(name, self._widest_rank)


def product_fields(
    matrix: Matrix,
    rows: int,
    cols: int,
    unit: int,
    x: Input,
    dst: int,
    dst_stride: int,
    finish: Finish,
) -> dict[str, int]:
    """Return the fields of a matrix product by name; PREDICT and SPARSE begin with the same."""
    where = {"weight": matrix.weight, "scale": matrix.scale, "kind": matrix.kind}
    shape = {"units": rows // unit, "cols": cols, "unit": unit}
    activations = {"shared": x.shared, "src": x.src, "stride": x.stride}
    activations |= {"src_scale": x.scale, "src_sums": x.sums}
    result = {"dst": dst, "dst_stride": dst_stride, **finish._asdict()}
    return {**where, **shape, **activations, **result}


def _inner_ranks(file: TensorFile) -> list[int]:
    """Return the rank of every first factor."""
    return [
        tensor.shape[0]
        for tensor in file.tensors.values()
        if tensor.name.endswith(("1.weight", "weight.a"))
    ]
