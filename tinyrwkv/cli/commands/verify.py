"""``tinyrwkv verify``: compare a file with its checksums, and find weights that are not finite."""

from __future__ import annotations

import argparse
import json
import time

from ...errors import TinyRWKVError
from ...file.mapped import open_file
from ...file.verify import verify
from ...units import show_size
from .. import options as shared
from ..terminal import Progress

HELP = "compare every byte of a file with its checksums, and find weights that are not finite"
EXAMPLES = """\
examples:
  tinyrwkv verify model.trwkv
  tinyrwkv verify model.trwkv --json
      print "ok", and the "error" if that is false; the exit status says it too
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    path = shared.path(options)
    begin = time.monotonic()
    try:
        with open_file(path) as file, Progress("verify") as progress:
            verify(file, progress)
            size = len(file.bytes)
            count = len(file.tensors)
    except TinyRWKVError as error:
        if options.json:
            print(json.dumps({"file": path, "ok": False, "error": str(error)}, indent=1))
        raise
    seconds = time.monotonic() - begin
    if options.json:
        report = {
            "file": path,
            "ok": True,
            "tensors": count,
            "file_bytes": size,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(report, indent=1))
    else:
        found = f"{count} tensors, {show_size(size)}, {seconds:.1f} s"
        print(f"{path}: every checksum is right: {found}")
    return 0
