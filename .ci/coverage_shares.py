"""Tell which share of the lines and branches of each package the tests run; fail below the bar.

``python .ci/coverage_shares.py coverage.json`` reads what ``coverage json`` wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("tinyrwkv", "converters")

LEAST = 95.0
"""Lines of each package that the tests must run, in percent."""


def share(files: dict[str, Any], package: str, ran: str, number: str) -> tuple[float, int]:
    """Return the percent of a package's lines or branches that ran, and their number."""
    sums = [about["summary"] for name, about in files.items() if Path(name).parts[0] == package]
    total = sum(one[number] for one in sums)
    return 100 * sum(one[ran] for one in sums) / max(total, 1), total


def main(path: str) -> int:
    """Print the shares; return 1 if those of the lines of a package are too small."""
    files = json.loads(Path(path).read_text("utf-8"))["files"]
    failed = 0
    for package in PACKAGES:
        percent, lines = share(files, package, "covered_lines", "num_statements")
        taken, branches = share(files, package, "covered_branches", "num_branches")
        failed += percent < LEAST
        print(
            f"{package}: {percent:.1f} % of {lines:,} lines, {taken:.1f} % of {branches:,} branches"
        )
    if failed:
        print(f"each package needs {LEAST:.0f} % of its lines")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
