"""States after system texts, kept on disk, so that each of these texts is read only once."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from ..errors import TinyRWKVError
from ..file.output import remove_litter
from ..file.sha256 import sha256
from ..paths import cache_folder
from ..state import State
from ..state_file import data_bytes, smallest_dtype
from ..version import VERSION

if TYPE_CHECKING:
    from ..model import Model

LIMIT = 64 << 20
"""Bytes of all entries together.

As int8, room for 103 states of a model of 0.1 B parameters, 19 of 1.5 B, or 7 of 7 B.
"""


class PromptCache:
    """A folder of state files, each named by a hash of the model, the text and what computed it.

    Nothing here fails. If the folder cannot be used, nothing is kept. A damaged entry counts as
    missing.

    Parameters
    ----------
    folder : path, optional
        By default the user's cache folder. If there is none, ``.tinyrwkv-cache`` beside each
        model.
    limit : int
        Most bytes of all entries together. The entries that were used longest ago go first.
    dtype : str, optional
        Type of the states, as for `State.save`. By default the smallest that does no harm: int8,
        but f32 for RWKV-4.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        limit: int = LIMIT,
        dtype: str | None = None,
    ) -> None:
        self.folder = cache_folder() if folder is None else os.fsdecode(folder)
        self.limit = limit
        self.dtype = dtype

    def _dtype(self, model: Model) -> str:
        return self.dtype or smallest_dtype(model.config)

    def path(self, model: Model, text: str) -> str:
        """Return the path of the state after a text, whether it is kept or not."""
        folder = self.folder or os.path.join(os.path.dirname(model.path), ".tinyrwkv-cache")
        # The compiled kernels agree in every bit with each other. NumPy rounds differently.
        rounding = "numpy" if model.backend.name == "numpy" else "compiled"
        about = f"{VERSION} {model.hash} {rounding} {self._dtype(model)}"
        key = f"{about}\n{text}".encode("utf-8", "surrogatepass")
        return os.path.join(folder, f"{sha256(key).hexdigest()[:40]}.state")

    def get(self, model: Model, text: str) -> State | None:
        """Return the state after a text; None if it is not kept or its file is damaged."""
        path = self.path(model, text)
        try:
            state = State.load(path, model)
        except TinyRWKVError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return state

    def put(self, model: Model, text: str, state: State) -> None:
        """Keep the state after a text, and remove those that were used longest ago."""
        dtype = self._dtype(model)
        if data_bytes(state, dtype) > self.limit:
            return
        path = self.path(model, text)
        with contextlib.suppress(OSError, TinyRWKVError):
            folder = os.path.dirname(path)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # a damaged entry
            state.save(path, dtype)
            self._remove_oldest(folder)

    def _remove_oldest(self, folder: str) -> None:
        entries = _entries(folder)
        total = sum(entry.size for entry in entries)
        for entry in sorted(entries):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
                total -= entry.size


class _Entry(NamedTuple):
    """A file of the cache; the one that was used longest ago is the smallest."""

    used_ns: int
    size: int
    path: str


def _entries(folder: str) -> list[_Entry]:
    """Return the files of the cache; remove what killed processes have left."""
    entries = []
    for name in os.listdir(folder):
        entry, of_other_run, _ = name.partition(".tmp-")
        if of_other_run:
            remove_litter(os.path.join(folder, entry))
        elif name.endswith(".state"):
            with contextlib.suppress(OSError):
                path = os.path.join(folder, name)
                about = os.stat(path)
                entries.append(_Entry(about.st_mtime_ns, about.st_size, path))
    return entries
