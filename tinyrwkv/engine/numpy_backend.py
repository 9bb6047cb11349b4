"""Run a program with NumPy alone: one function for each operation, reading the mapped weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels import abi as op
from ..program.program import Program
from . import numpy_head, numpy_matmul, numpy_pointwise, numpy_sparse, numpy_wkv
from .numpy_call import Call
from .workspace import Workspace

FORMS: dict[int, Callable[[Call, Any], None]] = {
    op.EMBED: numpy_pointwise.embed,
    op.NORM: numpy_pointwise.norm,
    op.SHIFT: numpy_pointwise.shift,
    op.QUANTIZE: numpy_pointwise.quantize,
    op.MATMUL: numpy_matmul.matmul,
    op.PREDICT: numpy_sparse.predict,
    op.SPARSE: numpy_sparse.sparse,
    op.WKV4: numpy_wkv.wkv4,
    op.WKV5: numpy_wkv.wkv5,
    op.WKV7: numpy_wkv.wkv7,
    op.SELECT: numpy_pointwise.select,
    op.SYNC: numpy_pointwise.sync,
    op.LEVEL: numpy_head.level,
    op.PREVIEW: numpy_head.preview,
    op.CHOOSE: numpy_head.choose,
    op.EXACT: numpy_head.exact,
    op.GATHER: numpy_head.gather,
    op.DEEP: numpy_pointwise.deep,
}
"""By opcode, the function that runs the operation; it takes the call and the fields."""


class NumpyBackend:
    """Runs a program with NumPy, in the thread that calls it.

    Parameters
    ----------
    program : Program
    """

    name = "numpy"
    threads = 1
    exact_chunks = False  # NumPy multiplies a vector and a matrix in different orders

    def __init__(self, program: Program) -> None:
        self.program = program
        self.forms = [FORMS[operation.opcode] for operation in program.operations]

    def run(
        self,
        workspace: Workspace,
        first: int,
        last: int,
        ids: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
        out: np.ndarray | None,
        head: int,
    ) -> None:
        """Run operations ``first`` to ``last - 1``, see ``workspace.Backend``."""
        call = Call(self.program, workspace, ids, old, new, out, head)
        with np.errstate(all="ignore"):
            for i in range(first, last):
                self.forms[i](call, self.program.operations[i].fields)
