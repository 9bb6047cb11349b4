"""``tinyrwkv info``: what is in a file."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ...engine import backends
from ...errors import FormatError
from ...file.mapped import TensorFile, open_file
from ...program.program import Program
from ...units import show_size
from .. import options as shared
from ..formulas import describe
from ..terminal import printable

HELP = "show what is in a file, without loading it"
EXAMPLES = """\
examples:
  tinyrwkv info model.trwkv
  tinyrwkv info model.trwkv --program
      the operations of one token, a formula in every line
  tinyrwkv info model.trwkv --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument(
        "--program", action="store_true", help="show the operations of one token instead"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    with open_file(shared.path(options)) as file:
        if options.program and file.metadata["kind"] != "model":
            raise FormatError(
                file.path,
                "kind",
                "a state",
                "a model",
                "states have no program: leave out --program",
            )
        lines = list(describe(Program(file))) if options.program else []
        if options.json:
            print(
                json.dumps(_facts(file) | ({"program": lines} if options.program else {}), indent=1)
            )
        elif options.program:
            print("\n".join(lines))
        else:
            print(_text(file))
    return 0


def _facts(file: TensorFile) -> dict[str, Any]:
    return {
        "file": file.path,
        "file_bytes": len(file.bytes),
        "hash": file.hash,
        "metadata": file.metadata,
        "tensors": [tensor._asdict() for tensor in file.tensors.values()],
        "backends": backends.reasons(),
    }


def _text(file: TensorFile) -> str:
    head = [("file", file.path), ("size", show_size(len(file.bytes))), ("hash", file.hash)]
    rows = [*head, *((key, value) for key, value in file.metadata.items() if key != "compression")]
    for step in file.metadata.get("compression", ()):
        rows.append(("compression", f"{step['technique']}: {_brief(step['params'])}"))
        rows += [("", report)] if (report := _brief(step["report"])) else []
    rows += [(f"backend {name}", reason) for name, reason in backends.reasons().items()]
    lines = [
        f"{key:<16} {printable(value) if isinstance(value, str) else json.dumps(value)}".rstrip()
        for key, value in rows
    ]
    lines += [
        "",
        f"{'tensor':<38} {'type':<4} {'shape':<16} {'offset':>12} {'bytes':>12} {'crc-32':>8}",
    ]
    for tensor in file.tensors.values():
        shape = " x ".join(map(str, tensor.shape))
        place = f"{tensor.offset:>12} {tensor.nbytes:>12} {tensor.crc32:08x}"
        lines.append(f"{tensor.name:<38} {tensor.dtype:<4} {shape:<16} {place}")
    return "\n".join(lines)


def _brief(values: dict[str, Any]) -> str:
    """Return the single values; what there is of each layer and tensor only ``--json`` shows."""
    parts = []
    for key, value in values.items():
        if isinstance(value, float):
            value = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        if value is not None and not isinstance(value, dict | list):
            parts.append(f"{key} {value}")
    return ", ".join(parts)
