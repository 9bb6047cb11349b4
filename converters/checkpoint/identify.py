"""From an open file of any format to a checkpoint that is known to be complete."""

from __future__ import annotations

from ..read.source import Source
from .names import raw_tensors
from .stated import check_stated
from .versions import Checkpoint, check, refuse_variants


def identify(source: Source) -> Checkpoint:
    """Find out which RWKV a checkpoint is, and check its tensors and what is said about them.

    Parameters
    ----------
    source : Source

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
    checkpoint = check(source.path, raw_tensors(source))
    check_stated(source.path, source.about.stated, checkpoint.sizes)
    return checkpoint
