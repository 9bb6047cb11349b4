"""The card of the bundled model says what is measured, and what the file was made from."""

from __future__ import annotations

import csv
import itertools
import re

import pytest

import tinyrwkv
from benchmarks import categories
from converters.judge.metrics import exact_match
from converters.judge.scripts import count_misses
from tests.helpers.places import ROOT
from tinyrwkv.robot.scripts import Scripts

CARD = (ROOT / "docs" / "model-card.md").read_text("utf-8")


def test_the_categories_are_those_of_the_file() -> None:
    *parts, together = categories.categories()
    assert (parts[0].first, parts[-1].last) == (together.first, together.last) == (1, 200)
    assert all(one.last + 1 == next_one.first for one, next_one in itertools.pairwise(parts))


@pytest.mark.slow
def test_the_figures_are_measured() -> None:
    model = tinyrwkv.load()
    if model.backend.name != "native":
        pytest.skip("the figures are of the native kernels")
    text = (categories.DATA / "commands-human.txt").read_text("utf-8")
    free = exact_match(model, text)
    grammar = exact_match(model, text, constraint=Scripts())
    table = CARD.split("<!-- categories -->\n")[1].split("\n<!-- end -->")[0]
    assert table.split("\n") == list(categories.table(free, grammar))
    rows = [line.split("|")[2:4] for line in CARD.splitlines() if line.count("|") == 6]
    told = [[float(cell.strip(" %")) for cell in row] for row in rows if "%" in row[0]]
    found = [{"right": one.accuracy, **count_misses(one)}.values() for one in (free, grammar)]
    assert told == [
        [pytest.approx(100 * share) for share in row] for row in zip(*found, strict=True)
    ]


def test_every_book_is_listed_once() -> None:
    with open(ROOT / "docs" / "training-books.csv", encoding="utf-8", newline="") as file:
        books = list(csv.DictReader(file))
    assert len({(book["author"], book["title"]) for book in books}) == len(books)
    (told,) = re.findall(r"(\d+) books", CARD)
    assert int(told) == len(books)


def test_the_card_names_what_the_file_was_made_from() -> None:
    source = tinyrwkv.load().config["source"]
    assert f"checkpoint `{source['name']}`" in CARD
    assert f"--license {source['license']}" in CARD
    licence = (ROOT / "tinyrwkv" / "models" / "LICENSE-MODEL").read_text("utf-8")
    assert "Copyright (c) 2019 Perception, Control and Cognition Lab" in licence
