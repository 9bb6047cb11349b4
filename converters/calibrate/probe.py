"""Runs a model by its own kernels and stops at chosen matrix products, to look at what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyrwkv import Model
from tinyrwkv.engine.backends import HEAD_OF_ALL, NO_HEAD, Workspace
from tinyrwkv.errors import ArgumentError
from tinyrwkv.kernels import abi as op

Array = np.ndarray
Look = Callable[[Array], None]


class Probe:
    """Runs a model and looks at what goes into chosen matrices and what comes out.

    Parameters
    ----------
    model : Model
        It is read with its own backend.
    inputs, outputs : mapping of str to callable, optional
        For the name of a matrix: called with the inputs, float32, shape (T, in), or with the outputs after the
        activation, (T, out), of up to 16 tokens at a time. The matrices of the head have no outputs here.

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
        self.model, self.inputs, self.outputs = model, dict(inputs or {}), dict(outputs or {})
        self.workspace = Workspace(model.program, model.backend.threads)
        self._old, self._new = (np.empty(model.program.state_size, np.float32) for _ in range(2))
        asked = {*self.inputs, *self.outputs}
        self._stops: list[tuple[int, str]] = []
        for i, (row, name) in enumerate(zip(model.program.rows, model.program.notes, strict=True)):
            if row[0] == op.MATMUL and name in asked:
                asked.remove(name)
                self._stops.append((i, name))
                if name in self.outputs and self._product(i).mode != op.STORE:
                    raise ArgumentError(
                        "Probe", "outputs", name, "a matrix whose outputs are kept", "leave it out"
                    )
        if asked:
            raise ArgumentError(
                "Probe",
                "matrix",
                min(asked),
                "one of the model's",
                "give the name of a dense matrix",
            )

    def read(self, ids: Sequence[int] | Array) -> None:
        """Read a document from a new state.

        Parameters
        ----------
        ids : sequence of int
            With the token 0 in front.
        """
        tokens, select = self.model.check_tokens(ids), self.model.program.select
        end = max((i for i, _ in self._stops), default=0)
        head = HEAD_OF_ALL if end > select else NO_HEAD
        self._old[:] = self.model.new_state().data
        for start in range(0, len(tokens), op.MAX_TOKENS):
            chunk, at = tokens[start : start + op.MAX_TOKENS], 0
            for stop, name in self._stops:
                self._run(at, stop, chunk, head)
                at = stop
                if name in self.inputs:
                    self.inputs[name](self._input(stop, len(chunk)))
                if name in self.outputs:
                    self._run(stop, stop + 1, chunk, head)
                    at = stop + 1
                    self.outputs[name](self._output(stop, len(chunk)))
            self._run(at, max(select, at), chunk, head)
            self._old, self._new = self._new, self._old

    def _run(self, first: int, last: int, ids: Array, head: int) -> None:
        if last > first:
            self.model.backend.run(
                self.workspace, first, last, ids, self._old, self._new, None, head
            )

    def _product(self, row: int) -> Any:
        return op.Fields[op.MATMUL](
            *self.model.program.rows[row][1 : 1 + len(op.FIELDS[op.MATMUL])]
        )

    def _input(self, row: int, tokens: int) -> Array:
        p = self._product(row)
        memory = self.workspace.shared if p.shared else self.workspace.private[0]
        dtype = np.dtype(np.int16 if p.kind == op.INT8 else np.float32)
        x = np.frombuffer(memory, dtype, tokens * p.stride, p.src).reshape(tokens, -1)[:, : p.cols]
        if p.kind != op.INT8:
            return x.copy()
        scale = np.frombuffer(self.workspace.private[0], np.float32, tokens, p.src_scale)
        return x * scale[:, None]

    def _output(self, row: int, tokens: int) -> Array:
        p = self._product(row)
        flat = np.frombuffer(self.workspace.shared, np.float32, tokens * p.dst_stride, p.dst)
        return flat.reshape(tokens, -1)[:, : p.units * p.unit].copy()
