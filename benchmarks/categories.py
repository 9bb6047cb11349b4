"""Judge a model on the instructions of tests/data/commands-human.txt, category by category.

    python benchmarks/categories.py [MODEL]

The table is that of docs/model-card.md. The categories are those of tests/data/README.md. The
misses are counted as ``tinyrwkv-convert eval --commands`` counts them.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from converters.judge.metrics import Matches, exact_match  # noqa: E402
from converters.judge.scripts import kind_of_miss  # noqa: E402
from tinyrwkv import load  # noqa: E402
from tinyrwkv.robot.scripts import UNKNOWN, Scripts  # noqa: E402

DATA = ROOT / "tests" / "data"
KINDS = ("right", "wrong_actions", "unknown", "no_script")
COLUMNS = ("right", "wrong action", "`unknown()`")
HEADING = ("category", "of", *COLUMNS, "no script", *(f"grammar: {name}" for name in COLUMNS))


class Category(NamedTuple):
    """Some of the documents of the file: the first and the last one, from 1."""

    name: str
    first: int
    last: int


def categories() -> Iterator[Category]:
    """Yield the categories that tests/data/README.md lists, and all of them together."""
    text = (DATA / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+)-(\d+) \| ([^|]+) \| \d+ \|$", text, re.MULTILINE)
    for first, last, name in rows:
        yield Category(name.partition(",")[0], int(first), int(last))
    yield Category("**all**", 1, int(rows[-1][1]))


def count(matches: Matches, category: Category) -> dict[str, int]:
    """Return how many answers of a category are of each kind."""
    size = category.last - category.first + 1
    counts = dict.fromkeys(KINDS, 0) | {"right": size}
    for entry in matches.wrong:
        if category.first <= entry["document"] <= category.last:
            counts[kind_of_miss(entry["answer"])] += 1
            counts["right"] -= 1
    return counts


def table(free: Matches, grammar: Matches) -> Iterator[str]:
    """Yield the lines of the table: free, then under the grammar."""
    yield row(HEADING)
    yield row(["---"] * len(HEADING)).replace(" ", "")
    for category in categories():
        counted = [
            *(count(free, category)[kind] for kind in KINDS),
            *(count(grammar, category)[kind] for kind in KINDS[:-1]),
        ]
        size = category.last - category.first + 1
        yield row([category.name, size, *counted])


def row(cells: Iterable[object]) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def actions_for_unknown(matches: Matches) -> int:
    """Return how many wrong actions answer an instruction that has no script."""
    return sum(
        entry["expected"] == UNKNOWN and kind_of_miss(entry["answer"]) == "wrong_actions"
        for entry in matches.wrong
    )


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="a .trwkv file; by default the bundled model")
    model = load(parser.parse_args(argv).model)
    text = (DATA / "commands-human.txt").read_text("utf-8")
    free = exact_match(model, text)
    grammar = exact_match(model, text, constraint=Scripts())
    print("\n".join(table(free, grammar)))
    print("\nwrong actions where unknown() is right:", end=" ")
    print(f"{actions_for_unknown(free)}, under the grammar {actions_for_unknown(grammar)}")


if __name__ == "__main__":
    main()
