"""Compile the kernels with Numba, once for each version of their source."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from numba import cfunc, types
from numba.core import event

from ..kernels.run import run
from ..native.load import source_hash
from ..notes import note


class _Teller(event.Listener):
    """Tells that Numba compiles; it does not if it finds the code that it kept."""

    def on_start(self, event: Any) -> None:
        note("compiling the kernels for this machine, once: this takes about 15 s")

    def on_end(self, event: Any) -> None:
        pass


@functools.cache
def compiled_run() -> Any:
    """Return the kernels' ``run`` as a ctypes function of one address; calls release the GIL.

    Numba keeps compiled code on disk. It notices changes of the file of this function, not of the
    files of the kernels. So the function closes over a hash of all their files: after a change of
    any of them it is another function.
    """
    version = int(source_hash()[:12], 16)
    signature = types.void(types.CPointer(types.int64))

    with event.install_listener("numba:compile", _Teller()):

        @cfunc(signature, cache=True, error_model="numpy", boundscheck=False)
        def entry(arguments: Any) -> None:
            if version:
                run(arguments)

    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(entry.address)
