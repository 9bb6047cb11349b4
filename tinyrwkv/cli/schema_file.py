"""A JSON Schema in a file."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from ..errors import FormatError, os_errors

MOST_BYTES = 1 << 20


def read_schema(path: str) -> Any:
    """Return what is in a file of JSON; `JsonSchema` tells whether it is a schema.

    Raises
    ------
    FormatError
        The file cannot be read, is larger than 1 MiB, or is not JSON in UTF-8.
    """
    with os_errors(path, "read"):
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe may block for ever
            raise OSError("not a file but a folder, pipe or device")
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        found, expected = "more bytes", f"at most {MOST_BYTES:,}"
        sentence = f"{path} has more than {MOST_BYTES:,} bytes"
        raise FormatError(path, "file", found, expected, "give a shorter schema", sentence)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        expected = "JSON in UTF-8"
        fix = "give a file with a JSON Schema"
        sentence = f"{path} is not {expected}"
        raise FormatError(path, "file", "something else", expected, fix, sentence) from None
