"""Read calibration text through a model block by block, while the weights of the model change.

What goes into a block depends on the blocks before it. Each block is run when those are final; the
results for all tokens are kept in files. So every block is read only a few times, in a model of
any depth.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tinyrwkv import Model
from tinyrwkv.errors import os_errors
from tinyrwkv.kernels import abi as op

from ..judge.texts import WINDOW
from .collect import Moments
from .probe import Array, Probe, count_tokens

STREAM = "x"
"""The residual stream."""

V_FIRST = "v_first"
"""The value of layer 0, which the other layers of RWKV-7 read."""


class Walk:
    """The documents, and what has become of their tokens so far.

    Parameters
    ----------
    model : Model
        Float32. Its file may be written to between two calls: the kernels read it as it is.
    documents : sequence of token ids
        Each with the token 0 in front.
    folder : str
        Where its files lie; the caller removes it.

    Raises
    ------
    ArgumentError
        There is nothing to read.
    """

    def __init__(
        self, model: Model, documents: Sequence[Sequence[int] | Array], folder: str
    ) -> None:
        self.model = model
        self.tokens = count_tokens(documents)
        # Each window has a state of its own, as when texts are judged.
        self._windows = [
            np.array(document[start : start + WINDOW], np.int32)
            for document in documents
            for start in range(0, len(document), WINDOW)
        ]
        self._kept = self._find_kept(folder)

    def _find_kept(self, folder: str) -> dict[int, Array]:
        """Return what later blocks read of earlier ones: (T, C), by place in the workspace."""
        operations = self.model.program.operations
        places = {STREAM: operations[0].fields.dst}
        for operation in operations:
            if operation.opcode == op.WKV7:
                places[V_FIRST] = operation.fields.v_first
        shape = self.tokens, self.model.config["n_embd"]
        kept: dict[int, Array] = {}
        for name, place in places.items():
            path = os.path.join(folder, f"walk.{name}")
            with os_errors(path, "write"):
                kept[place] = np.memmap(path, np.float32, "w+", shape=shape)
        return kept

    def moments(self, part: str, layer: int | None, names: Iterable[str]) -> dict[str, Array]:
        """Return E[x x^T] of the inputs of some matrices of a block.

        Parameters
        ----------
        part : str
            Of an operation: "time_mix", "channel_mix" or "head".
        layer : int or None
        names : iterable of str

        Returns
        -------
        dict of str to ndarray, float64, shape (in, in)
        """
        found: dict[str, Array] = {}
        sums = {name: Moments(found, name) for name in names}
        probe = Probe(self.model, sums)
        self._run(probe, self._block(part, layer).start, probe.end, keep=False)
        for moment in sums.values():
            moment.finish(self.tokens)
        return found

    def inputs(self, part: str, layer: int | None, name: str, samples: int) -> Array:
        """Return what goes into a matrix of a block: float32, shape (n, in).

        Parameters
        ----------
        part, layer
            As in `moments`.
        name : str
        samples : int
            About so many tokens are taken, evenly spread.
        """
        step = max(1, self.tokens // samples)
        found: list[Array] = []
        read = 0

        def look(x: Array) -> None:
            nonlocal read
            found.append(x[-read % step :: step])
            read += len(x)

        probe = Probe(self.model, {name: look})
        self._run(probe, self._block(part, layer).start, probe.end, keep=False)
        return np.concatenate(found)

    def advance(self, part: str, layer: int | None = None) -> None:
        """Let all tokens go through a block, which is final now; "embedding" is the first one."""
        block = self._block(part, layer)
        self._run(Probe(self.model), block.start, block.stop, keep=True)

    def _block(self, part: str, layer: int | None) -> range:
        """Return the numbers of the operations of a block."""
        operations = self.model.program.operations
        numbers = [i for i, one in enumerate(operations) if (one.part, one.layer) == (part, layer)]
        return range(numbers[0], numbers[-1] + 1)

    def _run(self, probe: Probe, first: int, last: int, keep: bool) -> None:
        """Run operations for all tokens."""
        at = 0
        for window in self._windows:
            probe.begin()
            for start in range(0, len(window), op.MAX_TOKENS):
                chunk = window[start : start + op.MAX_TOKENS]
                here = slice(at, at + len(chunk))
                places = self._places(probe, len(chunk))
                for place, rows in places.items():
                    rows[:] = self._kept[place][here]
                probe.run(chunk, first, last)
                probe.step()
                if keep:
                    for place, rows in places.items():
                        self._kept[place][here] = rows
                at = here.stop

    def _places(self, probe: Probe, tokens: int) -> Mapping[int, Array]:
        """Return the rows of some tokens in the workspace, by place."""
        C = self.model.config["n_embd"]
        shared = probe.workspace.shared
        return {
            place: shared[place : place + 4 * tokens * C].view(np.float32).reshape(tokens, C)
            for place in self._kept
        }
