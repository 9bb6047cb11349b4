"""Convert a checkpoint to a .trwkv file, one tensor at a time."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from typing import Any

import tinyrwkv
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.mapped import Writer

from ..checkpoint.names import canonical, is_fla
from ..checkpoint.versions import check, refuse_variants
from ..read.open import open_source
from ..read.source import Source
from .encode import DTYPES, Loss, store
from .from_trwkv import Copy, repack
from .recipe import Entry, plan
from .vocab import Vocabulary, read_vocab

Progress = Callable[[int, int], None]
PathLike = str | os.PathLike[str]


def convert(
    input: PathLike,
    output: PathLike,
    dtype: str = "int8",
    vocab: PathLike | None = None,
    ln_x_eps: float | None = None,
    template: str | None = None,
    license: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Convert a checkpoint to a model file.

    Parameters
    ----------
    input : str or path-like
        A .pth, .safetensors, .gguf, rwkv.cpp .bin or .trwkv file.
    output : str or path-like
        Gets its name only when it is complete.
    dtype : str
        Of the matrices: "int8" (one scale per row), "f16" or "f32".
    vocab : str or path-like, optional
        A vocabulary in BlinkDL's format; without it the model takes tokens, not text.
    ln_x_eps : float, optional
        Epsilon of the group norm of RWKV-5 to 7. Default: 64e-5, as these models are trained.
    template : str, optional
        Name of the chat template to use by default.
    license : str, optional
        Licence of the weights, for the record.
    progress : callable, optional
        Called as ``progress(done, total)``.

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
    check_arguments(input, output, vocab, dtype, ln_x_eps, template, license)
    with open_source(input) as source:
        entries: list[Entry | Copy]
        if source.kind == "trwkv":
            metadata, entries = repack(source.file, dtype, vocab is not None)
            notes: list[str] = []
        else:
            metadata, entries, notes = _plan(source)
        vocabulary = None if vocab is None else read_vocab(vocab, metadata["vocab_size"])
        step = _steps(progress, source.file.size + sum(_size(entry) for entry in entries))
        found = {"name": _plain(os.path.basename(input)), "sha256": _sha256(source, step)}
        metadata["source"] = metadata.get("source", found)
        if license is None and source.kind != "trwkv":
            license = _plain(str(source.settings.get("license") or "")) or None
        if license is not None:
            metadata["source"] = {**metadata["source"], "license": license}
        metadata |= {
            "dtype": dtype,
            "created_by": f"tinyrwkv-convert {getattr(tinyrwkv, '__version__', '')}".strip(),
        }
        metadata |= {} if ln_x_eps is None else {"ln_x_eps": float(ln_x_eps)}
        metadata |= {} if template is None else {"template": template}
        with Writer(output, metadata) as writer:
            loss = _write(writer, entries, dtype, step)
            if vocabulary is not None:
                _write_vocabulary(writer, vocabulary)
            if loss is not None:
                steps = writer.metadata.get("compression", [])
                params = {"scale": "one per row"} if dtype == "int8" else {}
                writer.metadata["compression"] = [
                    *steps,
                    {"technique": dtype, "params": params, "report": loss},
                ]
            metadata, names = dict(writer.metadata), set(writer.tensors)
    has_tokenizer = "tokenizer.ids" in names
    if not has_tokenizer:
        notes.append(
            "no vocabulary: the model takes and gives tokens, not text; --vocab FILE adds one"
        )
    return {
        **{"input": input, "output": output, "format": source.kind, **metadata},
        **{
            "tensors": len(names),
            "tokenizer": has_tokenizer,
            "file_bytes": os.path.getsize(output),
            "notes": notes,
        },
        "seconds": round(time.monotonic() - begin, 3),
    }


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
) -> None:
    """Refuse arguments of `convert` that are out of range, before anything is read: ArgumentError."""
    if dtype not in DTYPES:
        raise ArgumentError(
            "arguments", "dtype", dtype, "one of " + ", ".join(DTYPES), "choose one of these"
        )
    if ln_x_eps is not None and not 0 < ln_x_eps <= 1:
        raise ArgumentError(
            "arguments", "ln_x_eps", ln_x_eps, "a number above 0, at most 1", "64e-5 is usual"
        )
    if template is not None and not re.fullmatch("[A-Za-z0-9_.-]{1,64}", template):
        raise ArgumentError(
            "arguments", "template", ascii(template), "the name of a template", "such as chat"
        )
    if license is not None and not (0 < len(license) <= 200 and license == _plain(license)):
        found, expected = ascii(license[:80]), "1 to 200 printable ASCII characters"
        raise ArgumentError("arguments", "license", found, expected, "such as Apache-2.0")
    for path in (input, *([] if vocab is None else [os.fsdecode(vocab)])):
        try:
            same = os.path.realpath(path) == os.path.realpath(output) or os.path.samefile(
                path, output
            )
        except (OSError, ValueError):
            same = False  # one of them does not exist
        if same:
            raise ArgumentError(
                "arguments", "output", output, "another file than the input", "choose a new name"
            )


def _plan(source: Source) -> tuple[dict[str, Any], list[Entry | Copy], list[str]]:
    """Return the metadata, the tensors to make, and notes, for a checkpoint of any foreign format."""
    refuse_variants(source.path, list(source.tensors))
    checkpoint = check(source.path, canonical(source), source.kind)
    # v5 is trained with eps 1e-5 on x / 8, which is 64e-5 on x; flash-linear-attention goes by the head size.
    eps = checkpoint.config["head_size"] * 1e-5 if is_fla(source) else 64e-5
    return (
        {"kind": "model", **checkpoint.config, "ln_x_eps": eps},
        [*plan(checkpoint)],
        checkpoint.notes,
    )


def _size(entry: Entry | Copy) -> int:
    if isinstance(entry, Copy):
        return entry.tensor.nbytes
    size = 1
    for n in entry.raw[0].shape:
        size *= n
    return size * len(entry.raw)


def _steps(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0

    def step(amount: int) -> None:
        nonlocal done
        done += amount
        if progress is not None:
            progress(done, total)

    return step


def _sha256(source: Source, step: Callable[[int], None]) -> str:
    digest, chunk = hashlib.sha256(), 1 << 20
    for start in range(0, source.file.size, chunk):
        part = source.file.read(start, min(chunk, source.file.size - start), "file")
        digest.update(part.data)
        step(len(part))
    return digest.hexdigest()


def _write(
    writer: Writer, entries: list[Entry | Copy], dtype: str, step: Callable[[int], None]
) -> dict[str, Any] | None:
    """Write all tensors; return the loss of those stored in a smaller type, None if there are none."""
    loss, lossy = Loss(), False
    for entry in entries:
        if isinstance(entry, Copy):
            writer.add(entry.name, entry.load(), page_aligned=entry.page_aligned)
        else:
            store(writer, entry, dtype, loss)
            lossy = dtype != "f32"
        step(_size(entry))
    return loss.report() if lossy else None


def _write_vocabulary(writer: Writer, vocabulary: Vocabulary) -> None:
    for name, array in vocabulary._asdict().items():
        writer.add(f"tokenizer.{name}", array)
