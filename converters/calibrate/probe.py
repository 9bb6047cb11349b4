"""Run a model by its own kernels, and look at what goes into chosen products and comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tinyrwkv import Model
from tinyrwkv.engine.workspace import Workspace
from tinyrwkv.errors import ArgumentError
from tinyrwkv.kernels import abi as op

Array = np.ndarray
Look = Callable[[Array], None]


def count_tokens(documents: Sequence[Sequence[int] | Array]) -> int:
    """Return how many tokens documents have; ArgumentError if there are none."""
    tokens = sum(map(len, documents))
    if not tokens:
        fix, sentence = "give a text that is not empty", "there are no tokens to calibrate with"
        raise ArgumentError("calibrate", "documents", "no tokens", "at least one", fix, sentence)
    return tokens


class Probe:
    """Runs a model and looks at what goes into chosen matrices and what comes out.

    Parameters
    ----------
    model : Model
        It is read with its own backend.
    inputs, outputs : mapping of str to callable, optional
        Functions by the names of matrices. They are called with the inputs, float32, shape
        (T, in), or with the outputs after the activation, (T, out), of up to 16 tokens at a time.
        The matrices of the head have no outputs here.

    Raises
    ------
    ArgumentError
        The model has no such matrix.
    """

    def __init__(
        self,
        model: Model,
        inputs: Mapping[str, Look] | None = None,
        outputs: Mapping[str, Look] | None = None,
    ) -> None:
        self.model = model
        self.inputs = dict(inputs or {})
        self.outputs = dict(outputs or {})
        self.workspace = Workspace(model.program, model.backend.threads)
        self._old = np.empty(model.program.state_size, np.float32)
        self._new = np.empty_like(self._old)
        self._stops = self._find_stops()

    def _find_stops(self) -> list[int]:
        """Return the numbers of the operations that multiply by chosen matrices, in order."""
        asked = {*self.inputs, *self.outputs}
        stops: list[int] = []
        for i, operation in enumerate(self.model.program.operations):
            name = operation.label
            if operation.opcode not in (op.MATMUL, op.SPARSE) or name not in asked:
                continue
            asked.remove(name)
            stops.append(i)
            if name in self.outputs and operation.fields.mode != op.STORE:
                expected = "a matrix whose outputs are kept"
                sentence = f"the outputs of {name} are not kept"
                raise ArgumentError("Probe", "outputs", name, expected, "leave it out", sentence)
        if asked:
            name, fix = min(asked), "give the name of a dense matrix"
            sentence = f"the model has no matrix {name}"
            raise ArgumentError("Probe", "matrix", name, "one of the model's", fix, sentence)
        return stops

    def read(self, ids: Sequence[int] | Array) -> None:
        """Read a document from a new state.

        Parameters
        ----------
        ids : sequence of int
            With the token 0 in front.
        """
        tokens = self.model.check_tokens(ids)
        self.begin()
        for start in range(0, len(tokens), op.MAX_TOKENS):
            self._read_chunk(tokens[start : start + op.MAX_TOKENS])
            self.step()

    def begin(self) -> None:
        """Begin with a new state."""
        self._old[:] = self.model.program.initial_state()

    def step(self) -> None:
        """Go on from the state after the tokens of the last chunk."""
        self._old, self._new = self._new, self._old

    def _read_chunk(self, chunk: Array) -> None:
        """Read up to 16 tokens, and stop at the chosen products."""
        self.run(chunk, 0, max(self.model.program.select, self.end))

    @property
    def end(self) -> int:
        """The operation that follows the last one needed to look at the chosen products."""
        operations = self.model.program.operations
        return max(
            (stop + (operations[stop].label in self.outputs) for stop in self._stops), default=0
        )

    def run(self, chunk: Array, first: int, last: int) -> None:
        """Run operations `first` to `last` - 1 for some tokens, and look at the products there.

        Parameters
        ----------
        chunk : ndarray, int32, shape (T,)
            Up to 16 tokens.
        first, last : int
            All chosen products lie between them.
        """
        operations = self.model.program.operations
        stops_in_head = any(operations[stop].part == "head" for stop in self._stops)
        head = op.HEAD_OF_ALL if stops_in_head else op.NO_HEAD
        at = first
        for stop in self._stops:
            name = operations[stop].label
            self._run(at, stop, chunk, head)
            at = stop
            if name in self.inputs:
                self.inputs[name](self._input(stop, len(chunk)))
            if name in self.outputs:
                self._run(stop, stop + 1, chunk, head)
                at = stop + 1
                self.outputs[name](self._output(stop, len(chunk)))
        self._run(at, last, chunk, head)

    def _run(self, first: int, last: int, ids: Array, head: int) -> None:
        """Run operations `first` to `last` - 1."""
        if last > first:
            self.model.backend.run(
                self.workspace, first, last, ids, self._old, self._new, None, head
            )

    def _input(self, stop: int, tokens: int) -> Array:
        """Return what goes into a product, as floats, (T, in)."""
        fields = self.model.program.operations[stop].fields
        private = self.workspace.private[0]
        memory = self.workspace.shared if fields.shared else private
        is_quantised = fields.kind in (op.INT8, op.INT4)
        dtype = np.dtype(np.int16 if is_quantised else np.float32)
        flat = np.frombuffer(memory, dtype, tokens * fields.stride, fields.src)
        x = flat.reshape(tokens, -1)[:, : fields.cols]
        if not is_quantised:
            return x.copy()
        scale = np.frombuffer(private, np.float32, tokens, fields.src_scale)
        return x * scale[:, None]

    def _output(self, stop: int, tokens: int) -> Array:
        """Return what comes out of a product, (T, out)."""
        fields = self.model.program.operations[stop].fields
        count = tokens * fields.dst_stride
        flat = np.frombuffer(self.workspace.shared, np.float32, count, fields.dst)
        return flat.reshape(tokens, -1)[:, : fields.units * fields.unit].copy()
