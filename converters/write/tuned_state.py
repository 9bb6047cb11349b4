"""Write a tuned state of RWKV-PEFT, from a .pth of `time_state` tensors, as a state of a model."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

import tinyrwkv
from tinyrwkv import State
from tinyrwkv.errors import FormatError, UnsupportedError, show
from tinyrwkv.file.apart import check_apart
from tinyrwkv.file.output import STATE, check_output

from ..checkpoint.adapter import plain_name
from ..checkpoint.versions import TIME_STATE
from ..read.open import open_source
from ..read.source import Source, SourceTensor
from .convert import PathLike

_OTHER_MODEL = "give the model that the state was tuned for"


def write_tuned_state(input: PathLike, output: PathLike, model: PathLike) -> dict[str, Any]:
    """Write the state that a model begins with after state tuning.

    A file has one ``blocks.N.att.time_state`` for each layer, [H, value, key], for every version
    of RWKV. States here are [H, key, value], so the last two axes change places. The vectors of
    the token before are zeros, as in a new state.

    Parameters
    ----------
    input : str or path-like
        A .pth or .safetensors with these tensors; others beside them do not count.
    output : str or path-like
        For `State.load`. Only another state is replaced.
    model : str or path-like
        The .trwkv file of the model that the state was tuned for.

    Returns
    -------
    dict
        input, output, model, arch, n_layer, file_bytes and seconds.

    Raises
    ------
    TinyRWKVError
        The input is no tuned state, or not one of this model; or a file cannot be read or written.
    """
    begin = time.monotonic()
    input, output, model = map(os.fsdecode, (input, output, model))
    check_apart({"output": output}, {"input": input, "model": model})
    check_output(output, STATE)
    with tinyrwkv.load(model, backend="numpy") as owner, open_source(input) as source:
        state = owner.new_state()
        arch = state.origin["arch"]
        if arch == "v4":
            sentence = f"{model} is RWKV-4, which has no state that is tuned in this way"
            found = (model, "arch", arch, "RWKV-5, 6 or 7")
            raise UnsupportedError(*found, _OTHER_MODEL, sentence)
        _fill(state, _time_states(source), source.path)
        state.save(output)
    return {
        "input": input,
        "output": output,
        "model": model,
        "arch": arch,
        "n_layer": state.origin["n_layer"],
        "file_bytes": os.path.getsize(output),
        "seconds": round(time.monotonic() - begin, 3),
    }


def _time_states(source: Source) -> dict[int, SourceTensor]:
    """Return the tuned states of a file by layer."""
    found: dict[int, SourceTensor] = {}
    for name, tensor in source.tensors.items():
        match = TIME_STATE.search(plain_name(name))
        if match:
            found[int(match[1])] = tensor
    if not found:
        expected = "blocks.N.att.time_state"
        sentence = f"{source.path} has no tuned state: no tensor is called {expected}"
        fix = "give the .pth that state tuning wrote"
        raise FormatError(source.path, "tensors", "others", expected, fix, sentence)
    return found


def _fill(state: State, tensors: dict[int, SourceTensor], path: str) -> None:
    """Put tuned states into a new state; refuse them if they are of another model."""
    origin = state.origin
    L, C = origin["n_layer"], origin["n_embd"]
    H, N = origin["n_head"], origin["head_size"]
    if sorted(tensors) != list(range(L)):
        found, expected = f"{len(tensors)} layers, up to {max(tensors)}", f"layers 0 to {L - 1}"
        sentence = f"{path} has a tuned state for {found}, but the model has {expected}"
        raise FormatError(path, "layers", found, expected, _OTHER_MODEL, sentence)
    layers = state.data.reshape(L, -1)
    for layer, tensor in tensors.items():
        if tensor.shape != (H, N, N):
            what = f"tensor {show(tensor.name)}"
            sentence = f"{path}: {what} has shape {tensor.shape}, but the model needs {(H, N, N)}"
            found = f"{tensor.shape}"
            raise FormatError(path, what, found, f"{(H, N, N)}", _OTHER_MODEL, sentence)
        by_key = tensor.load().swapaxes(1, 2)  # (H, key, value)
        layers[layer, 2 * C :] = np.ascontiguousarray(by_key).reshape(-1)
