"""Convert a checkpoint to a .trwkv file, one tensor at a time."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import tinyrwkv
from tinyrwkv.chat.templates import template as find_template
from tinyrwkv.errors import ArgumentError, UnsupportedError
from tinyrwkv.file.apart import check_apart
from tinyrwkv.file.config import Config
from tinyrwkv.file.int4 import GROUP
from tinyrwkv.file.output import check_output
from tinyrwkv.file.writer import MODEL, Writer
from tinyrwkv.versions.layout import check_widths

from ..checkpoint.adapter import USUAL_ALPHA, merge
from ..checkpoint.identify import identify
from ..checkpoint.names import is_flash_linear_attention, raw_tensors
from ..checkpoint.versions import Tensors, refuse_variants
from ..read.open import open_source
from ..read.source import Source
from .content import Content, Copy, DeepTable, Recipe
from .deep_table import encode_table
from .encode import DTYPES, Loss, encode
from .from_trwkv import from_trwkv
from .kept import find_kept
from .parts import SCALES, is_int4, split_parts
from .recipe import recipes
from .temporary import remove_folders
from .vocab import WORLD, WORLD_ROWS, Vocabulary, pack_vocab, read_vocab
from .whole import ModelWriter

Progress = Callable[[int, int], None]
Step = Callable[[int], None]
PathLike = str | os.PathLike[str]

_CHUNK = 1 << 20

OTHERS = (".safetensors", ".pth", ".pt", ".bin", ".ggml", ".json", ".txt")
"""Endings of files that are not model files."""


class Adapter(NamedTuple):
    """An adapter of RWKV-PEFT to merge into a checkpoint.

    Attributes
    ----------
    path : str or path-like
    alpha : float or None
        Of LoRA; None for 16, which RWKV-PEFT merges with.
    initial : str or path-like or None
        The initial file of a PiSSA adapter, which has no alpha.
    """

    path: PathLike
    alpha: float | None = None
    initial: PathLike | None = None


def convert(
    input: PathLike,
    output: PathLike,
    dtype: str = "int8",
    vocab: PathLike | None = None,
    ln_x_eps: float | None = None,
    template: str | None = None,
    license: str | None = None,
    progress: Progress | None = None,
    adapter: Adapter | None = None,
    parts: str = "body",
    keep: str | None = None,
) -> dict[str, Any]:
    """Convert a checkpoint to a model file.

    Parameters
    ----------
    input : str or path-like
        A .pth, .safetensors, .gguf, rwkv.cpp .bin or .trwkv file; the index or any part of one in
        several files; or the folder of a checkpoint.
    output : str or path-like
        Gets its name only when it is complete.
    dtype : str
        Of the matrices: "int8" (one scale per row), "f16", "f32", or "int4" (rounded to nearest, a
        scale and a zero point per group of 64 weights; `compress` loses less).
    vocab : str or path-like, optional
        A vocabulary in BlinkDL's format. Default: the one that the .gguf, .trwkv or folder has.
        Without any the model takes tokens, not text.
    ln_x_eps : float, optional
        Epsilon of the group norm of RWKV-5 to 7. Default: 64e-5, as these models are trained.
    template : str, optional
        Name of the chat template to use by default.
    license : str, optional
        Licence of the weights, for the record.
    progress : callable, optional
        Called as ``progress(done, total)``.
    adapter : Adapter, optional
        LoRA or PiSSA, to merge into the checkpoint.
    parts : str, optional
        What becomes int4 if `dtype` is that: "body" means the large matrices of the layers,
        "body,head" the head too, "all" also the embedding. The other matrices become int8.
    keep : str, optional
        Matrices among these parts that hold values of int4 already, such as recovered ones, keep
        them, though `dtype` is "int8": if there are any, the file is one of int4.

    Returns
    -------
    dict
        What was found and written; every value is plain JSON.

    Raises
    ------
    TinyRWKVError
        The input or an argument is wrong; nothing is left under the name of the output.
    """
    begin = time.monotonic()
    input, output = os.fsdecode(input), os.fsdecode(output)
    check_arguments(input, output, vocab, dtype, ln_x_eps, template, license, adapter)
    split_parts(parts)
    remove_folders(output)
    with open_source(input) as source, contextlib.ExitStack() as stack:
        if source.kind == "trwkv":
            _refuse_adapter(input, adapter)
            content = from_trwkv(source.files[0], dtype, vocab is not None)
        else:
            content = _from_checkpoint(source, adapter, stack)
        metadata = content.metadata
        if dtype == "int4":
            _check_groups(source.path, content.tensors, parts)
        check_widths(source.path, cast(Config, {**metadata, "dtype": dtype}), ())
        vocabulary = _vocabulary(source, vocab, metadata["vocab_size"])
        work = source.size + sum(tensor.work for tensor in content.tensors)
        step = _steps(progress, work)
        metadata["source"] = _origin(source, metadata, license, step)
        metadata["dtype"] = dtype
        version = getattr(tinyrwkv, "__version__", "")
        metadata["created_by"] = f"tinyrwkv-convert {version}".strip()
        if ln_x_eps is not None:
            metadata["ln_x_eps"] = float(ln_x_eps)
        if template is not None:
            metadata["template"] = template
        with ModelWriter(output, metadata) as writer:
            kept = _write(writer, content.tensors, dtype, parts, step, keep)
            if vocabulary is not None:
                _write_vocabulary(writer, vocabulary)
            metadata, names = dict(writer.metadata), set(writer.tensors)
    has_tokenizer = "tokenizer.ids" in names
    notes = [*content.notes, *_about_kept(kept)]
    notes += [] if has_tokenizer else _without_tokenizer(source, metadata["vocab_size"])
    return {
        "input": input,
        "output": output,
        "format": source.kind,
        **metadata,
        "tensors": len(names),
        "tokenizer": has_tokenizer,
        "file_bytes": os.path.getsize(output),
        "notes": notes,
        "seconds": round(time.monotonic() - begin, 3),
    }


def _without_tokenizer(source: Source, vocab_size: int) -> list[str]:
    """Return what to tell about a model that has no vocabulary."""
    fix = "--vocab FILE adds one"
    if vocab_size == WORLD_ROWS:
        fix = f"{vocab_size:,} rows are those of World models: add --vocab world"
    notes = [f"no vocabulary: the model takes and gives tokens, not text; {fix}"]
    if source.about.unusable:
        notes.append(
            f"{source.about.unusable} was not used: a vocabulary must be the only one, "
            f"and have the form of {WORLD}"
        )
    return notes


def _check_groups(path: str, tensors: list[Recipe | DeepTable | Copy], parts: str) -> None:
    """Refuse a model with no matrix that can be cut into groups of int4; UnsupportedError."""
    if not any(
        isinstance(tensor, Copy)
        or (isinstance(tensor, Recipe) and is_int4(tensor.name, tensor.raw[0].shape[-1], parts))
        for tensor in tensors
    ):
        found, expected = "narrower ones", f"matrices as wide as a multiple of {GROUP}"
        sentence = f"{path} has no {expected}, which could become int4"
        raise UnsupportedError(path, "int4", found, expected, "store int8", sentence)


def _origin(
    source: Source, metadata: dict[str, Any], license: str | None, step: Step
) -> dict[str, str]:
    """Return what the metadata say about the checkpoint: its name, its hash and its licence."""
    name = os.path.basename(os.path.abspath(source.path))
    found = {"name": _plain(name), "sha256": _sha256(source, step)}
    origin: dict[str, str] = metadata.get("source", found)
    if license is None and source.kind != "trwkv":
        license = _plain(source.about.license) or None
    return origin if license is None else {**origin, "license": license}


def _plain(text: str) -> str:
    """Return text as the metadata may have it."""
    return re.sub("[^ -~]", "?", text)[:200]


def check_arguments(
    input: str,
    output: str,
    vocab: PathLike | None,
    dtype: str,
    ln_x_eps: float | None,
    template: str | None,
    license: str | None,
    adapter: Adapter | None = None,
) -> None:
    """Refuse arguments of `convert` that are out of range, before anything is read.

    Raises
    ------
    ArgumentError
        One of them is.
    """
    if dtype not in DTYPES:
        expected = "one of " + ", ".join(DTYPES)
        sentence = f"there is no dtype {dtype}"
        raise ArgumentError("arguments", "dtype", dtype, expected, f"choose {expected}", sentence)
    if ln_x_eps is not None and not 0 < ln_x_eps <= 1:
        expected = "a number above 0, at most 1"
        sentence = f"ln_x_eps is {ln_x_eps}, but must be {expected}"
        raise ArgumentError("arguments", "ln_x_eps", ln_x_eps, expected, "64e-5 is usual", sentence)
    if template is not None:
        find_template(template)
    if license is not None and not (0 < len(license) <= 200 and license == _plain(license)):
        found, expected = ascii(license[:80]), "1 to 200 printable ASCII characters"
        sentence = f"the license is {found}, but must be {expected}"
        fix = "give one such as Apache-2.0"
        raise ArgumentError("arguments", "license", found, expected, fix, sentence)
    inputs = {"input": input, "vocabulary": vocab}
    if adapter is not None:
        _check_alpha(adapter)
        inputs |= {"adapter": adapter.path, "initial file": adapter.initial}
    check_apart({"output": output}, inputs)
    _check_name(output)
    check_output(output, MODEL)


def _check_name(output: str) -> None:
    """Refuse a name that promises a file of another format."""
    stem, ending = os.path.splitext(os.path.basename(output))
    if ending.lower() in OTHERS:
        sentence = f"{output} would be a .trwkv file under the name of a {ending} file"
        what = (output, "file", f"the ending {ending}", ".trwkv")
        raise ArgumentError(*what, f"call it {stem}.trwkv", sentence)


def _check_alpha(adapter: Adapter) -> None:
    if adapter.alpha is None:
        return
    if adapter.initial is not None:
        sentence = "a PiSSA adapter has no alpha"
        what = ("arguments", "alpha", adapter.alpha, "none for PiSSA", "leave --lora-alpha out")
        raise ArgumentError(*what, sentence)
    if not (math.isfinite(adapter.alpha) and adapter.alpha > 0):
        expected = "a number above 0"
        sentence = f"the alpha of a LoRA adapter is {adapter.alpha}, but must be {expected}"
        what = ("arguments", "alpha", adapter.alpha, expected, "give the alpha of its training")
        raise ArgumentError(*what, sentence)


def _refuse_adapter(path: str, adapter: Adapter | None) -> None:
    """Refuse to merge an adapter into a model file."""
    if adapter is not None:
        sentence = f"{path} is a converted model: an adapter is merged into the checkpoint itself"
        fix = "give the .pth that the adapter was trained on"
        raise UnsupportedError(path, "input", "a .trwkv file", "a checkpoint", fix, sentence)


def _from_checkpoint(
    source: Source, adapter: Adapter | None, stack: contextlib.ExitStack
) -> Content:
    """Return what a model file gets from a checkpoint of any foreign format."""
    tensors, record = None, dict[str, Any]()
    if adapter is not None:
        refuse_variants(source.path, list(source.tensors))
        tensors, record = _merged(source, raw_tensors(source), adapter, stack)
    checkpoint = identify(source, tensors)
    # v5 is trained with eps 1e-5 on x / 8, which is 64e-5 on x. flash-linear-attention multiplies
    # by the size of a head.
    by_head = is_flash_linear_attention(source)
    eps = checkpoint.sizes.head_size * 1e-5 if by_head else 64e-5
    metadata = {"kind": "model", **checkpoint.config, "ln_x_eps": eps, **record}
    notes = list(checkpoint.notes)
    if adapter is not None and adapter.alpha is None and adapter.initial is None:
        notes.append(
            f"the adapter's alpha is taken to be {USUAL_ALPHA:g}; --lora-alpha sets another"
        )
    return Content(metadata, [*recipes(checkpoint)], notes)


def _vocabulary(source: Source, vocab: PathLike | None, vocab_size: int) -> Vocabulary | None:
    """Return the vocabulary: the given one, else that of the checkpoint; None if there is none."""
    if vocab is None:
        vocab = source.about.vocab
    if vocab is not None:
        return read_vocab(vocab, vocab_size)
    if source.about.tokens is not None:
        return pack_vocab(source.path, source.about.tokens(), vocab_size)
    return None


def _merged(
    source: Source, tensors: Tensors, adapter: Adapter, stack: contextlib.ExitStack
) -> tuple[Tensors, dict[str, Any]]:
    """Return tensors with an adapter in them, and what the metadata say about it."""
    opened = stack.enter_context(open_source(adapter.path))
    initial = None
    if adapter.initial is not None:
        initial = stack.enter_context(open_source(adapter.initial))
    alpha = USUAL_ALPHA if adapter.alpha is None else float(adapter.alpha)
    merged = merge(source.path, tensors, opened, alpha, initial)
    name = _plain(os.path.basename(opened.path))
    params = {"adapter": name, "sha256": _sha256(opened, lambda done: None), **merged.params}
    done = {"technique": merged.technique, "params": params, "report": merged.report}
    return merged.tensors, {"compression": [done]}


def _steps(progress: Progress | None, total: int) -> Step:
    """Return a function that adds to what is done and tells the progress."""
    done = 0

    def step(amount: int) -> None:
        nonlocal done
        done += amount
        if progress is not None:
            progress(done, total)

    return step


def _sha256(source: Source, step: Step) -> str:
    """Return the hash of a checkpoint: that of its files one after another."""
    digest = hashlib.sha256()
    for file in source.files:
        for start in range(0, file.size, _CHUNK):
            part = file.read(start, min(_CHUNK, file.size - start), "file")
            digest.update(part.data)
            step(len(part))
    return digest.hexdigest()


def _write(
    writer: Writer,
    tensors: list[Recipe | DeepTable | Copy],
    dtype: str,
    parts: str,
    step: Step,
    keep: str | None,
) -> int:
    """Write all tensors; note in the metadata what a smaller type cost.

    Return how many matrices kept their values of int4.
    """
    loss = Loss()
    encoded = False
    kept = 0
    for tensor in tensors:
        if isinstance(tensor, Copy):
            shape = tensor.tensor.shape
            writer.add_blocks(tensor.name, shape, tensor.blocks(), tensor.page_aligned)
        elif isinstance(tensor, DeepTable):
            encode_table(writer, tensor, dtype, loss, step)
            encoded = True
            continue
        elif keep is not None and (found := find_kept(tensor, keep)) is not None:
            writer.add(found.name, found.rows, page_aligned=found.name.endswith(".rows"))
            kept += 1
        else:
            encode(writer, tensor, dtype, loss, parts)
            encoded = True
        step(tensor.work)
    if encoded and dtype != "f32":
        params = {"int8": {"scale": "one per row"}, "int4": {"parts": parts, **SCALES}}
        _note(writer, dtype, params.get(dtype, {}), loss.report())
    if kept:
        writer.metadata["dtype"] = "int4"
        _note(writer, "int4", {"parts": keep, **SCALES}, {"kept": kept})
    return kept


def _note(writer: Writer, technique: str, params: dict[str, Any], report: dict[str, Any]) -> None:
    """Note in the metadata what was done."""
    done = {"technique": technique, "params": params, "report": report}
    writer.metadata["compression"] = [*writer.metadata.get("compression", []), done]


def _about_kept(kept: int) -> list[str]:
    """Return what to tell about matrices that kept their values of int4."""
    matrices = "1 matrix holds" if kept == 1 else f"{kept} matrices hold"
    return [f"{matrices} values of int4 already, and these were kept"] if kept else []


def _write_vocabulary(writer: Writer, vocabulary: Vocabulary) -> None:
    for name, array in vocabulary._asdict().items():
        writer.add(f"tokenizer.{name}", array)
