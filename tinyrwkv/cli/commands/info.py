"""``tinyrwkv info``: what is in a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from ...engine.reasons import reasons
from ...errors import FormatError
from ...file.mapped import TensorFile, open_file
from ...program.program import Program
from ...units import show_size
from ...versions.layout import check_tensors
from .. import options as shared
from ..formulas import describe
from ..terminal import printable

HELP = "show what is in a file, without loading it"
EXAMPLES = """\
examples:
  tinyrwkv info model.trwkv
  tinyrwkv info model.trwkv --tensors
      list every tensor too: its type, shape, place and checksum
  tinyrwkv info model.trwkv --program
      show the operations of one token, with their formulas
  tinyrwkv info model.trwkv --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor too")
    parser.add_argument(
        "--program", action="store_true", help="show the operations of one token instead"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    with open_file(shared.path(options)) as file:
        program = _program(file) if options.program else None
        if options.json:
            print(json.dumps(_facts(file, program), indent=1))
        elif program is not None:
            print("\n".join(program))
        else:
            print("\n".join(_lines(file, options.tensors)))
    return 0


def _program(file: TensorFile) -> list[str]:
    """Return a line for each operation."""
    if file.metadata["kind"] != "model":
        fix = "states have no program: leave out --program"
        sentence = f"{file.path} is a state, not a model"
        raise FormatError(file.path, "kind", "a state", "a model", fix, sentence)
    check_tensors(file)
    return list(describe(Program(file)))


def _facts(file: TensorFile, program: list[str] | None) -> dict[str, Any]:
    facts = {
        "file": file.path,
        "file_bytes": len(file.bytes),
        "hash": file.hash,
        "metadata": file.metadata,
        "tensors": [tensor._asdict() for tensor in file.tensors.values()],
        "backends": reasons(),
    }
    if program is not None:
        facts["program"] = program
    return facts


def _lines(file: TensorFile, list_tensors: bool) -> Iterator[str]:
    for key, value in _rows(file):
        yield f"{key:<16} {_shown(value)}".rstrip()
    if not list_tensors:
        yield f"{'tensors':<16} {_counts(file)}; --tensors lists them"
        return
    yield ""
    yield f"{'tensor':<38} {'type':<4} {'shape':<16} {'offset':>12} {'bytes':>12} {'crc-32':>8}"
    for tensor in file.tensors.values():
        shape = " x ".join(map(str, tensor.shape))
        place = f"{tensor.offset:>12} {tensor.nbytes:>12} {tensor.crc32:08x}"
        yield f"{tensor.name:<38} {tensor.dtype:<4} {shape:<16} {place}"


def _counts(file: TensorFile) -> str:
    """Return how many tensors there are, and the bytes of each type."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    largest_first = sorted(sizes.items(), key=lambda item: -item[1])
    types = ", ".join(f"{show_size(size)} of {dtype}" for dtype, size in largest_first)
    return f"{len(file.tensors)}: {types}"


def _rows(file: TensorFile) -> Iterator[tuple[str, Any]]:
    """Yield the lines before the tensors: a name and a value."""
    yield "file", file.path
    yield "size", show_size(len(file.bytes))
    yield "hash", file.hash
    for key, value in file.metadata.items():
        if key != "compression":
            yield key, value
    for step in file.metadata.get("compression", ()):
        yield "compression", f"{step['technique']}: {_brief(step['params'])}"
        report = _brief(step["report"])
        if report:
            yield "", report
    for name, reason in reasons().items():
        yield f"backend {name}", reason


def _shown(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)


def _brief(values: dict[str, Any]) -> str:
    """Return the single values. Only ``--json`` shows the values of each layer and tensor."""
    parts = []
    for key, value in values.items():
        if isinstance(value, float):
            value = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        if value is not None and not isinstance(value, dict | list):
            parts.append(f"{key} {value}")
    return ", ".join(parts)
