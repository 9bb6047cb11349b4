"""Merge an adapter that RWKV-PEFT trained into the tensors of its base model.

An adapter has two thin matrices A [r, in] and B [out, r] for some of the matrices W [out, in].

LoRA:  W + (alpha / r) B A
PiSSA: W + B A - B0 A0, with A0 and B0 of the file that the training began with

Its other tensors are whole ones, which take the place of the base's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError, UnsupportedError, show

from ..read.source import Source, SourceTensor
from .versions import Tensors, kind_of_tuning

USUAL_ALPHA = 16.0
"""The alpha of RWKV-PEFT's own script for merging; no file holds it."""

_PREFIX = re.compile(r"^(_forward_module|_orig_mod|module|model)\.")
_FACTOR = re.compile(r"(.+)\.lora_([AB])$")
_FIRST_FACTOR = re.compile(r"(.+)\.init_lora_([AB])$")

_OTHER_MODEL = "give the model that the adapter was trained on"


class Pair(NamedTuple):
    """The two factors of one matrix."""

    a: SourceTensor  # (r, in)
    b: SourceTensor  # (out, r)

    def product(self, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Return A and scale * B, float32."""
        return self.a.load(), self.b.load() * np.float32(scale)


class Merged(NamedTuple):
    """A model with an adapter in it.

    Attributes
    ----------
    tensors : dict of str to SourceTensor
        Under raw names.
    technique : str
        "lora" or "pissa".
    params, report : dict
        For the record in the metadata.
    """

    tensors: Tensors
    technique: str
    params: dict[str, Any]
    report: dict[str, Any]


def plain_name(name: str) -> str:
    """Return the name of a tensor without what training puts before it."""
    return _PREFIX.sub("", name)


def merge(
    base: str,
    tensors: Tensors,
    adapter: Source,
    alpha: float = USUAL_ALPHA,
    initial: Source | None = None,
) -> Merged:
    """Return the tensors of a model with an adapter merged into them.

    The matrices are merged when they are read, some rows at a time.

    Parameters
    ----------
    base : str
        The file of the model, for messages.
    tensors : dict of str to SourceTensor
        Of the model, under raw names.
    adapter : Source
    alpha : float
        Of a LoRA adapter.
    initial : Source, optional
        The initial file of a PiSSA adapter, which has no alpha.

    Returns
    -------
    Merged

    Raises
    ------
    UnsupportedError
        It is an adapter of another kind.
    FormatError
        It is no adapter, or not one of this model.
    """
    _check_kind(adapter)
    pairs, whole = _pairs(adapter, _FACTOR)
    first_pairs = {} if initial is None else _first_pairs(initial, pairs)
    result = dict(tensors)
    for name, tensor in whole.items():
        result[name] = _replaced(base, tensors, name, tensor)
    ranks = set()
    for name, pair in pairs.items():
        weight = _matrix(base, result, name, pair)
        rank = _rank(base, weight, pair)
        ranks.add(rank)
        if initial is None:
            terms = [(pair, alpha / rank)]
        else:
            _rank(base, weight, first_pairs[name])
            terms = [(pair, 1.0), (first_pairs[name], -1.0)]
        result[f"{name}.weight"] = _with_terms(weight, terms)
    params: dict[str, Any] = {"ranks": sorted(ranks)}
    if initial is None:
        params["alpha"] = alpha
    report = {"merged": len(pairs), "replaced": len(whole)}
    return Merged(result, "lora" if initial is None else "pissa", params, report)


def _check_kind(adapter: Source) -> None:
    """Refuse a file that is no LoRA or PiSSA adapter."""
    kind = kind_of_tuning(list(adapter.tensors))
    expected = "a LoRA or PiSSA adapter of RWKV-PEFT"
    if adapter.kind not in ("pth", "safetensors"):
        sentence = f"{adapter.path} is a {adapter.kind} file, not {expected}"
        fix = "give the .pth that the training wrote"
        raise FormatError(adapter.path, "adapter", adapter.kind, expected, fix, sentence)
    if kind == "a LoRA adapter":
        return
    if kind is None:
        sentence = f"{adapter.path} is no adapter: it has no lora_A and lora_B tensors"
        fix = "give the .pth that the training of the adapter wrote"
        raise FormatError(adapter.path, "adapter", "no factors", expected, fix, sentence)
    fix = "merge it with the program that trained it, and convert what it writes"
    if kind == "a tuned state":
        fix = f"write it to a state: tinyrwkv-convert {adapter.path} tuned.state --model MODEL"
    elif kind == "the initial file of a PiSSA adapter":
        fix = "give the adapter itself, and this file with --lora-init"
    sentence = f"{adapter.path} is {kind}, which can't be merged, only LoRA and PiSSA"
    raise UnsupportedError(adapter.path, "adapter", kind, expected, fix, sentence)


def _pairs(source: Source, factor: re.Pattern[str]) -> tuple[dict[str, Pair], Tensors]:
    """Return the factors by the name of their matrix without ".weight", and the other tensors."""
    halves: dict[str, dict[str, SourceTensor]] = {}
    others: Tensors = {}
    for old, tensor in source.tensors.items():
        name = plain_name(old)
        match = factor.match(name)
        place, key = others, name
        if match is not None:
            place, key = halves.setdefault(match[1], {}), match[2]
        if key in place:
            raise _second(tensor, name)
        place[key] = tensor
    for found in halves.values():
        if len(found) == 1:
            (tensor,) = found.values()
            sentence = f"{source.path}: tensor {show(tensor.name)} has no partner"
            fix = "the file is incomplete: save the adapter again"
            what = (source.path, f"tensor {show(tensor.name)}", "one factor", "A and B")
            raise FormatError(*what, fix, sentence)
    return {name: Pair(found["A"], found["B"]) for name, found in halves.items()}, others


def _second(tensor: SourceTensor, name: str) -> FormatError:
    what, found = f"tensor {show(tensor.name)}", f"a second {show(name)}"
    sentence = f"{tensor.path}: {what} is {found}"
    fix = "give an adapter that has it once"
    return FormatError(tensor.path, what, found, "one", fix, sentence)


def _first_pairs(initial: Source, pairs: dict[str, Pair]) -> dict[str, Pair]:
    """Return the factors that a PiSSA training began with, one pair for each of the adapter's."""
    found, _ = _pairs(initial, _FIRST_FACTOR)
    if not found:
        sentence = f"{initial.path} has no init_lora_A and init_lora_B tensors"
        fix = "give the file of initial factors that the PiSSA training wrote"
        what = (initial.path, "initial factors", "none", "init_lora_A and init_lora_B")
        raise FormatError(*what, fix, sentence)
    for name, pair in pairs.items():
        if name not in found:
            sentence = f"{initial.path} has no initial factors for {show(pair.a.name)}"
            fix = "give the initial file of the same training"
            what = (initial.path, show(name), "none", "init_lora_A and init_lora_B")
            raise FormatError(*what, fix, sentence)
    return found


def _replaced(base: str, tensors: Tensors, name: str, tensor: SourceTensor) -> SourceTensor:
    """Return a whole tensor that takes the place of one of the base."""
    what = f"tensor {show(tensor.name)}"
    if name.endswith(".att.time_state"):
        return tensor  # `check` leaves it out and says so
    if name not in tensors:
        sentence = f"{tensor.path}: {what} is no tensor of {base}"
        raise FormatError(
            tensor.path, what, "another name", "one of the base's", _OTHER_MODEL, sentence
        )
    shape = tensors[name].shape
    if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
        raise _misshapen(tensor, base, f"{shape}")
    return tensor


def _matrix(base: str, tensors: Tensors, name: str, pair: Pair) -> SourceTensor:
    """Return the matrix that a pair of factors is added to."""
    weight = tensors.get(f"{name}.weight")
    if weight is None or len(weight.shape) != 2:
        what = f"tensor {show(pair.a.name)}"
        matrix = show(f"{name}.weight")
        sentence = f"{pair.a.path}: {what} belongs to {matrix}, which is no matrix of {base}"
        found = (pair.a.path, what, "another matrix", "one of the base's")
        raise FormatError(*found, _OTHER_MODEL, sentence)
    return weight


def _rank(base: str, weight: SourceTensor, pair: Pair) -> int:
    """Return the rank of two factors; refuse them if they do not fit the matrix."""
    out, inputs = weight.shape
    rank = pair.a.shape[0] if pair.a.shape else 0
    if pair.a.shape != (rank, inputs) or rank < 1:
        raise _misshapen(pair.a, base, f"(r, {inputs})")
    if pair.b.shape != (out, rank):
        raise _misshapen(pair.b, base, f"({out}, {rank})")
    return rank


def _misshapen(tensor: SourceTensor, base: str, expected: str) -> FormatError:
    what = f"tensor {show(tensor.name)}"
    sentence = f"{tensor.path}: {what} has shape {tensor.shape}, but {base} needs {expected}"
    return FormatError(tensor.path, what, f"{tensor.shape}", expected, _OTHER_MODEL, sentence)


def _too_large(tensor: SourceTensor) -> FormatError:
    what = f"tensor {show(tensor.name)}"
    sentence = f"{tensor.path}: {what} makes weights that are not finite"
    fix = "its training diverged: take another adapter"
    return FormatError(tensor.path, what, "huge values", "usual ones", fix, sentence)


def _with_terms(weight: SourceTensor, terms: list[tuple[Pair, float]]) -> SourceTensor:
    """Return W + the sum of scale * B A, computed for a block of rows at a time."""

    def read() -> Iterator[np.ndarray]:
        factors = [pair.product(scale) for pair, scale in terms]
        first = 0
        for block in weight.blocks():  # (rows, in)
            last = first + len(block)
            merged = block
            for a, b in factors:
                merged = merged + b[first:last] @ a
            if not np.isfinite(merged).all():
                raise _too_large(terms[0][0].a)
            yield merged
            first = last

    return SourceTensor(weight.path, weight.name, weight.shape, read)
