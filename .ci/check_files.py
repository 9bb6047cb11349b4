"""Check files as they are committed: ``python .ci/check_files.py FILE...``.

Without FILE it checks all that git would add. Text ends with one newline, and has no carriage
returns and no blanks at the ends of lines. Only what has to be large is large.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LARGEST = 200_000  # bytes

MAY_BE_LARGE = ("tinyrwkv/models/", "tinyrwkv/native/", "tests/golden/")


def problems(name: str, data: bytes) -> Iterator[str]:
    """Yield what is wrong with a file of this name, relative to the root, and these contents."""
    if len(data) > LARGEST and not name.startswith(MAY_BE_LARGE):
        found = f"{name} has {len(data):,} bytes, and {LARGEST:,} are the limit"
        yield f"{found}; is it meant to be in the repository?"
    if b"\0" in data or not data:
        return
    if b"\r" in data:
        yield f"{name}: has carriage returns, expected lines that end with a newline alone"
    if not data.endswith(b"\n") or data.endswith(b"\n\n"):
        yield f"{name}: expected exactly one newline at the end"
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.rstrip(b" \t") != line:
            yield f"{name}:{number}: blanks at the end of the line"


def main(names: list[str]) -> int:
    """Print every problem; return 1 if there is one."""
    if not names:
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    found = [problem for name in names for problem in problems(name, (ROOT / name).read_bytes())]
    print("\n".join(found) if found else f"{len(names)} files are in order")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
