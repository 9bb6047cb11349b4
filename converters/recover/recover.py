"""Recover what rounding the body of a checkpoint to int4 has lost, by distillation."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from tinyrwkv.errors import ArgumentError

from . import unfinished
from .base import Base
from .body import body
from .network import Network
from .predictor import fit_choosers
from .scan import Tensor
from .settings import Settings
from .start import Given, read_given, starts
from .student import Student
from .trained import Trained, about
from .training import Loss, Training
from .windows import Windows, sample_windows, split_held_out, text_windows

Tell = Callable[[str, int, int], None]

FIT = 16
"""Windows of the text, and as many of the samples, that predictors are fitted to, at most."""

PARTS = 1000
"""Of the bar that shows how far the training is."""

WAY = 3
"""Rises when a training that was begun before would go on in another way."""


def recover(
    base: Base,
    settings: Settings,
    *,
    text: str | None = None,
    vocab: str | None = None,
    device: str = "cpu",
    start: str | None = None,
    unfinished_path: str | None = None,
    tell: Tell,
) -> Trained:
    """Train the body of a checkpoint in int4.

    Parameters
    ----------
    base : Base
        The teacher, and what the student begins as.
    settings : Settings
    text, vocab : str, optional
        Calibration text, and the file of the vocabulary that it is encoded with. Without a text,
        all windows are written by the teacher.
    device : str
        "cuda" or "cpu".
    start : str, optional
        A model file in int4 that was made from the checkpoint, to begin with.
    unfinished_path : str, optional
        The training is written here once a minute, and continued if it is there. The file is
        removed at the end.
    tell : callable
        Called as ``tell(stage, done, total)``.

    Returns
    -------
    Trained

    Raises
    ------
    ArgumentError
        A setting is out of range, there is nothing to train on, or there is no such device.
    FormatError
        The text or the vocabulary can't be used, or the unfinished training is of something else.
    """
    settings.check()
    settings = settings.on(_checked(device))
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    matrices = _matrices(base, settings)
    windows = _text_windows(base, text, vocab, settings.seed)
    given = None if start is None else read_given(start)
    identity = _identity(base, settings, windows, given)
    saved = None if unfinished_path is None else unfinished.load(unfinished_path, identity)

    teacher = {name: torch.from_numpy(one).to(device) for name, one in base.tensors.items()}
    if saved is None:
        samples = _samples(_network(base), teacher, settings, tell)
    else:
        samples = saved["samples"].numpy()
    text_part, sampled_part, held_out = _split(windows, samples)
    student = Student(teacher, starts(base.tensors, matrices, device, given), matrices)
    network = _network(base)
    if settings.keep < 1:
        tell("neurons", 0, 1)
        _choose_neurons(network, student, (text_part, sampled_part), settings)
    training = Training(network, teacher, student, Windows(text_part, sampled_part), settings)

    tell("judge", 0, 2)
    if saved is None:
        original, before = training.judge(held_out)
    else:
        original, before = (Loss(*pair) for pair in saved["losses"])
        training.restore(saved)
    extra = {"samples": torch.from_numpy(samples), "losses": [list(original), list(before)]}
    write = None
    if unfinished_path is not None:
        write = partial(unfinished.save, unfinished_path, identity)
    training.run(_Watch(write, extra, tell))
    tell("judge", 1, 2)
    _, after = training.judge(held_out)
    report = {
        "held_out_tokens": held_out[:, 1:].size,
        "nll_teacher": original.nll,
        "nll_before": before.nll,
        "nll_after": after.nll,
        "kl_before": before.kl,
        "kl_after": after.kl,
        **training.report(),
        "windows_of_text": len(windows),
        "windows_of_samples": len(samples),
        "device": _name(device),
    }
    unfinished.remove(unfinished_path)
    told = about(base, settings._asdict(), report)
    return Trained(told, student.rows(), student.trained_vectors())


def _choose_neurons(
    network: Network, student: Student, parts: Sequence[np.ndarray], settings: Settings
) -> None:
    """Let only some neurons of a network count, from now on; fit to each part of the windows."""
    random = np.random.default_rng(settings.seed)
    drawn = [windows[random.permutation(len(windows))[:FIT]] for windows in parts]
    with torch.no_grad():
        weights = student.weights()
    choosers = fit_choosers(network, weights, np.concatenate(drawn), settings.keep)
    network.choosers = {ffn: one.kept for ffn, one in choosers.items()}


def _network(base: Base) -> Network:
    sizes = base.sizes
    return Network(sizes.arch, sizes.n_layer, sizes.n_head, base.ln_x_eps)


class _Watch:
    """Show the progress after each step, and write the training now and then.

    Parameters
    ----------
    write : callable, optional
        Gets what is to be written.
    extra : dict
        What is written beside the training.
    tell : callable
    """

    def __init__(
        self, write: Callable[[dict[str, Any]], None] | None, extra: dict[str, Any], tell: Tell
    ) -> None:
        self._write = write
        self._extra = extra
        self._tell = tell
        self._written = time.monotonic()

    def __call__(self, training: Training) -> None:
        loss = f"train, KL {training.curve[-1][1]:.4f}" if training.curve else "train"
        self._tell(loss, int(PARTS * training.share), PARTS)
        if self._write is not None and time.monotonic() - self._written > unfinished.EVERY:
            self._write({**training.saved(), **self._extra})
            self._written = time.monotonic()


def _checked(device: str) -> str:
    """Refuse a device that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        found, expected = "no GPU that PyTorch can use", "one"
        sentence = f"--device cuda needs a GPU, but there is {found}"
        raise ArgumentError("recover", "device", found, expected, "give --device cpu", sentence)
    return device


def _name(device: str) -> str:
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def _matrices(base: Base, settings: Settings) -> dict[str, bool]:
    matrices = body(base.tensors, settings.values)
    if not matrices:
        found, expected = f"a width of {base.sizes.n_embd}", "a multiple of 64"
        sentence = f"{base.path} has {found}, but int4 needs {expected}"
        raise ArgumentError("recover", "checkpoint", found, expected, "keep int8", sentence)
    return matrices


def _text_windows(base: Base, text: str | None, vocab: str | None, seed: int) -> np.ndarray:
    if text is None:
        return np.empty((0, 512), np.int32)
    if vocab is None:
        sentence = "a calibration text needs a vocabulary to encode it with"
        fix = "give --vocab"
        raise ArgumentError("recover", "vocab", "nothing", "a vocabulary", fix, sentence)
    return text_windows(text, vocab, base.sizes.vocab_size, seed)


def _identity(
    base: Base,
    settings: Settings,
    windows: np.ndarray,
    given: Given | None,
) -> dict[str, Any]:
    """Return what must be the same for a training to go on."""
    options = {f"--{name}": value for name, value in settings._asdict().items()}
    return {
        "checkpoint": base.sha256,
        "way of training": WAY,
        **options,
        "--start": _hash((given or Given()).rows.values()),
        "calibration text": _hash([windows]),
    }


def _hash(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def _samples(
    network: Network, teacher: dict[str, Tensor], settings: Settings, tell: Tell
) -> np.ndarray:
    """Let the teacher write windows, as many at a time as its device does well."""
    count = settings.samples or 0
    device = teacher["head.weight"].device
    generator = torch.Generator(device).manual_seed(settings.seed)
    at_once = 2048 if device.type == "cuda" else 64
    parts = [np.empty((0, 512), np.int32)]
    for first in range(0, count, at_once):
        size = min(at_once, count - first)

        def show(done: int, total: int, first: int = first, size: int = size) -> None:
            tell("samples", first * total + done * size, count * total)

        parts.append(sample_windows(network, teacher, size, generator, show))
    return np.concatenate(parts)


def _split(text: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return text and samples to train on, and windows to judge by, of the text if there is one."""
    if len(text):
        text, held_out = split_held_out(text)
        return text, samples, held_out
    if len(samples) < 2:
        found, expected = "no text and fewer than 2 samples", "windows to train on"
        sentence = f"there is nothing to train on: {found}"
        fix = "give --calibrate, or more --samples"
        raise ArgumentError("recover", "samples", found, expected, fix, sentence)
    samples, held_out = split_held_out(samples)
    return text, samples, held_out
