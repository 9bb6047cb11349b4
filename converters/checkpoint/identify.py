"""From an open file of any format to a checkpoint that is known to be complete."""

from __future__ import annotations

from ..read.source import Source
from .names import raw_tensors
from .stated import check_stated
from .versions import Checkpoint, Tensors, check, refuse_variants


def identify(source: Source, tensors: Tensors | None = None) -> Checkpoint:
    """Find out which RWKV a checkpoint is, and check its tensors and what is said about them.

    Parameters
    ----------
    source : Source
    tensors : dict of str to SourceTensor, optional
        What stands in the place of the checkpoint's own tensors: those with an adapter in them.

    Returns
    -------
    Checkpoint

    Raises
    ------
    FormatError
        Tensors are missing, unknown, doubled or of the wrong shape, or contradict the settings.
    UnsupportedError
        It is a relative of RWKV that can't be run.
    """
    refuse_variants(source.path, list(source.tensors))
    checkpoint = check(source.path, raw_tensors(source) if tensors is None else tensors)
    check_stated(source.path, source.about.stated, checkpoint.sizes)
    return checkpoint
