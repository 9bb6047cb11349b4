"""Run the official ``rwkv`` package on a raw checkpoint: ``python official.py IN.npz OUT.npz``.

The package decides at import which versions it can load, so every checkpoint gets a process of its
own. That also lets an interpreter with torch serve tests that run in one without.

IN holds the tensors by their raw names, ``version``, ``tokens`` and ``dtype``, the type of the .pth
that the package reads. OUT gets ``logits`` (T, V), one row for each token, and the state after the
last token, each tensor in the package's own orientation: ``att_x`` and ``ffn_x`` (L, C), and
``aa``, ``bb``, ``pp`` (L, C) for v4, ``wkv`` (L, H, key, value) for v5 and v6, (L, H, value, key)
for v7.

The package does not run v7a and v8-rc00: ``deep_torch`` does, by the formulas of BlinkDL's demos.

Tensors ``blocks.N.att.time_state`` are the state to begin with. The package reads them for v5 and
v6; for v7 it has no code, so they are put into the state that it begins with, as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def run_official(
    raw: Mapping[str, np.ndarray],
    version: str,
    tokens: Sequence[int],
    dtype: str = "float32",
    python: str = sys.executable,
    checkpoint: str | os.PathLike[str] | None = None,
) -> dict[str, np.ndarray]:
    """Return what the package computes with strategy 'cpu fp32', see above.

    Parameters
    ----------
    raw : mapping of str to ndarray, float32
        Tensors by their names in a BlinkDL checkpoint.
    version : str
        One of ``checkpoints.VERSIONS``.
    tokens : sequence of int
        Passed one at a time.
    dtype : str
        float32 or bfloat16: how the checkpoint is saved.
    python : str
        An interpreter that has torch and rwkv.
    checkpoint : str or path-like, optional
        Where to leave the .pth. Default: nowhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder, "in.npz"), Path(folder, "out.npz")
        arrays: dict[str, Any] = {**raw, "tokens": tokens, "version": version, "dtype": dtype}
        np.savez(given, **arrays)
        done = subprocess.run([python, __file__, given, answer], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        if checkpoint is not None:
            shutil.copyfile(Path(folder, "checkpoint.pth"), checkpoint)
        with np.load(answer) as out:
            return dict(out)


def official_version(python: str = sys.executable) -> str:
    """Return the versions of rwkv and torch that an interpreter has, or an empty string."""
    code = (
        "from importlib.metadata import version; "
        "print('rwkv', version('rwkv'), 'torch', version('torch'))"
    )
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def _tuned_v7(raw: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Take the tuned states out of a checkpoint; return them by layer."""
    names = [name for name in raw if name.endswith(".time_state")]
    return [raw.pop(f"blocks.{layer}.att.time_state") for layer in range(len(names))]


def _answer_deep(
    raw: dict[str, np.ndarray], tokens: list[int], answer: str, torch: Any, path: str, kind: Any
) -> None:
    """Write what the formulas of BlinkDL's demos give: the package does not run these versions."""
    from deep_torch import run_deep  # type: ignore[import-not-found]

    tensors = {name: torch.from_numpy(x).to(kind) for name, x in raw.items()}
    torch.save(tensors, path)
    np.savez(answer, **run_deep({name: x.float() for name, x in tensors.items()}, tokens))


def main(given: str, answer: str) -> None:
    """Do the work in the child process."""
    with np.load(given) as arrays:
        raw = dict(arrays)
    tokens = raw.pop("tokens").tolist()
    version, dtype = str(raw.pop("version")), str(raw.pop("dtype"))
    os.environ.update(RWKV_V7_ON=str(int(version == "v7")), RWKV_JIT_ON="0", RWKV_CUDA_ON="0")

    import torch  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    tuned = _tuned_v7(raw) if version == "v7" else []
    path = Path(given).with_name("checkpoint")  # the package appends .pth
    kind = getattr(torch, dtype)
    if version in ("v7a", "v8-rc00"):
        _answer_deep(raw, tokens, answer, torch, f"{path}.pth", kind)
        return
    tensors = {name: torch.from_numpy(x).to(kind) for name, x in raw.items()}
    torch.save(tensors, f"{path}.pth")
    from rwkv.model import RWKV  # type: ignore[import-not-found]

    model = RWKV(str(path), "cpu fp32")
    logits: list[np.ndarray] = []
    state: Any = model.generate_zero_state() if tuned else None
    for layer, array in enumerate(tuned):
        state[3 * layer + 1] = torch.from_numpy(array)
    for token in tokens:
        out, state = model.forward([token], state)
        logits.append(out.numpy())

    names = ("att_x", "aa", "bb", "pp", "ffn_x") if version == "v4" else ("att_x", "wkv", "ffn_x")
    by_name = {name: torch.stack(state[i :: len(names)]).numpy() for i, name in enumerate(names)}
    np.savez(answer, logits=np.stack(logits), **by_name)


if __name__ == "__main__":
    main(*sys.argv[1:])
