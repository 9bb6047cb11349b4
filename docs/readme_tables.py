"""Write the tables of README.md from benchmarks/results: ``python docs/readme_tables.py``.

They stand between lines such as ``<!-- speed -->`` and ``<!-- end -->``. With --check nothing is
written, and the exit status is 1 where a table is not that of the results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def results(name: str) -> dict[str, Any]:
    """Return one of the result files."""
    found: dict[str, Any] = json.loads(
        (ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8")
    )
    return found


def speed() -> Iterator[str]:
    """Yield the lines of the table of tokens a second."""
    runs = results("tokens")["runs"]
    yield "| backend | threads | tokens/s | prompt of 256, tokens/s |"
    yield "|---|---|---|---|"
    for backend in dict.fromkeys(run["backend"] for run in runs):
        own = [run for run in runs if run["backend"] == backend]
        columns = (
            [f"{run[key]:.0f}" for run in own]
            for key in ("threads", "decode_tok_s", "prefill_tok_s")
        )
        yield f"| {backend} | {' | '.join(' / '.join(column) for column in columns)} |"


def compression() -> Iterator[str]:
    """Yield the lines of the table of what compression brings."""
    forms = results("compression")["models"]["rwkv5-world-66m.pth"]
    yield "| form | read a token | resident | nll | tokens/s |"
    yield "|---|---|---|---|---|"
    lite = next(name for name in forms if name.startswith("lite"))
    for name in ("f32", "int8", lite):
        form = forms[name]
        sizes = " | ".join(
            f"{form[key] / 1e6:.1f} MB" for key in ("touched_bytes", "resident_bytes")
        )
        yield f"| {name} | {sizes} | {form['nll']:.3f} | {form['decode_tok_s']:.0f} |"


def peers() -> Iterator[str]:
    """Yield the lines of the table of other engines, with one thread."""
    yield "| engine | tokens/s | prompt, tokens/s | resident | of that, private |"
    yield "|---|---|---|---|---|"
    for run in results("peers")["runs"]:
        is_twin = run["name"] == "tinyrwkv exact"  # the same bits from another file
        if run["threads"] == 1 and not is_twin:
            speeds = f"{run['decode_tok_s']:.0f} | {run['prefill_tok_s']:.0f}"
            sizes = " | ".join(f"{run[key] / 1e6:,.0f} MB" for key in ("rss", "anon"))
            yield f"| {run['engine']} | {speeds} | {sizes} |"


TABLES = {"speed": speed, "compression": compression, "peers": peers}


def written(text: str) -> str:
    """Return a README with the tables of the results."""
    for name, lines in TABLES.items():
        table = "\n".join(lines())
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, table=table: f"{found[1]}{table}\n{found[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"README.md: found {count} tables marked {name}, expected one")
    return text


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = README.read_text("utf-8")
    new = written(text)
    if new != text and args.check:
        print("README.md: a table is not that of benchmarks/results: python docs/readme_tables.py")
        return 1
    if new != text:
        README.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
