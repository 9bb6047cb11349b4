"""The page of pictures: whole, well-formed, from nothing outside, with the report's numbers."""

from __future__ import annotations

import html.parser
import json
import os
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from converters import cli
from converters.compress.presets import PRESETS
from converters.report import svg
from tests.helpers.conversions import run
from tinyrwkv.cli import cli as tinyrwkv_cli
from tinyrwkv.file.system import LINUX
from tinyrwkv.units import show_size

VOID = ("meta", "br", "link")
NUMBERS = st.floats(0, 1e9, allow_nan=False)


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order, and collects attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize(
    ("options", "headings"),
    [
        (["--preset", "exact"], ["Loss", "Neurons by layer"]),
        (
            ["--rank-budget", "70%", "--sparse-ffn", "predict"],
            ["Loss by technique", "Spectra and ranks", "Neurons by layer"],
        ),
    ],
)
def test_a_page(files, capsys, tmp_path, options, headings):
    paths = files()
    assert run(paths, *options, "--report", str(tmp_path / "report.html")) == 0
    told = json.loads(capsys.readouterr().out)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for heading in ("Bytes of weights read for a token", "Bytes in the file", *headings):
        assert heading in page.words
    assert not re.search(r"https?:|<script|@import|url\(", text)
    assert not [value for name, value in page.attributes if name in ("src", "href")]
    assert "prefers-color-scheme: dark" in text
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["compression"] == told["compression"]
    assert numbers["figures"] == told["figures"]
    assert told["report"] == [str(tmp_path / "report.html"), str(tmp_path / "report.json")]
    for step in told["compression"]:
        if "nll_delta" in step["report"]:
            assert f"{step['report']['nll_delta']:+.4f}" in page.words
    assert tinyrwkv_cli.main(["plan", told["output"]]) == 0
    assert "With the rows that it chooses, a token read" in capsys.readouterr().out
    stages = told["figures"]["bytes"]
    last = told["compression"][-1]["report"]["touched_bytes_per_token"]
    assert sum(stages[told["compression"][-1]["technique"]]["touched"].values()) == pytest.approx(
        last
    )
    assert sum(stages["dense"]["touched"].values()) > last


def test_sizes_are_those_of_the_console(files, capsys, tmp_path):
    paths = files()
    report = str(tmp_path / "report.html")
    arguments = [paths["model.pth"], paths["out.trwkv"], "--vocab", paths["vocab.txt"]]
    options = ["--sparse-ffn", "predict", "--calibrate", paths["text.txt"], "--report", report]
    assert cli.main([*arguments, *options]) == 0
    console = re.search(r"[\d.]+ MB", capsys.readouterr().out)[0]
    numbers = json.loads((tmp_path / "report.json").read_text())
    stages = numbers["figures"]["bytes"]
    assert sum(stages["sparse ffn"]["file"].values()) == os.path.getsize(paths["out.trwkv"])
    assert console == f"{numbers['file_bytes'] / 1e6:.1f} MB"
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    (told,) = (word for word in page.words if "The file has" in word)
    assert f"The file has {show_size(numbers['file_bytes'])}, " in told
    assert page.words.count(show_size(numbers["file_bytes"])) >= 1
    resident = numbers["figures"]["resident"]
    if LINUX:
        assert 0 < resident["output"] <= numbers["file_bytes"] + 65536
        assert f"{show_size(resident['output'])} of it are in memory" in told
        assert "Bytes of the file in memory" in page.words
    calibration = next(s for s in numbers["compression"] if s["technique"] == "calibration")
    row = page.words.index("dense, int8")
    assert page.words[row + 1] == f"{calibration['report']['nll']:.4f}"


def test_only_what_is_drawn_is_in_the_legend(files, capsys, tmp_path):
    page = Page(svg.bars("bytes", {"a": {"much": 1000, "none": 0, "speck": 0.1, "some": 500}}, str))
    assert {"much", "some"} == {"much", "none", "speck", "some"}.intersection(page.words)
    assert run(files(), "--preset", "exact", "--report", str(tmp_path / "a.html")) == 0
    capsys.readouterr()
    words = " ".join(Page((tmp_path / "a.html").read_text("utf-8")).words)
    assert "do not fire" in words and "Chosen: " not in words and "Energy: " not in words


def test_axes_have_titles(files, capsys, tmp_path):
    options = ["--rank-budget", "70%", "--sparse-ffn", "predict", "--head", "preview"]
    assert run(files(), *options, "--report", str(tmp_path / "a.html")) == 0
    capsys.readouterr()
    words = Page((tmp_path / "a.html").read_text("utf-8")).words
    for title in ("singular value", "number of the singular value", "layer", "share"):
        assert title in words
    for title in ("nll, more than before", "number of the most probable tokens"):
        assert title in words
    assert words.count("layer 0") > 1  # in the legend and in the table


def test_what_was_left_out_is_on_the_page(files, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "lite", PRESETS["lite"]._replace(max_nll_rise=-1e9))
    paths = files()
    report = str(tmp_path / "a.html")
    arguments = [
        paths["model.pth"],
        paths["out.trwkv"],
        "--vocab",
        paths["vocab.txt"],
        "--preset",
        "lite",
    ]
    assert cli.main([*arguments, "--calibrate", paths["text.txt"], "--report", report]) == 0
    out, err = capsys.readouterr()
    assert f"  pictures: {report}\n" in out
    with open(report, encoding="utf-8") as file:
        page = Page(file.read())
    notes = [line.removeprefix("note: ") for line in err.splitlines()]
    assert len([note for note in notes if "was left out" in note]) == 3
    assert set(notes) <= set(page.words)
    assert [word for word in page.words if word.endswith("Loss: none.")]


def test_names_are_no_markup(files, tmp_path, capsys):
    paths = files()
    name = str(tmp_path / "<b>&amp;.html") if os.name != "nt" else str(tmp_path / "a.html")
    paths["out.trwkv"] = str(tmp_path / "<i>.trwkv") if os.name != "nt" else paths["out.trwkv"]
    assert run(paths, "--preset", "exact", "--report", name) == 0
    capsys.readouterr()
    with open(name, encoding="utf-8") as file:
        assert "<i>" not in file.read()


def test_a_page_that_cannot_be_written(files, tmp_path, capsys):
    paths = files()
    assert run(paths, "--preset", "exact", "--report", str(tmp_path / "no" / "a.html")) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert not os.path.exists(paths["out.trwkv"])
    os.mkdir(tmp_path / "b.html")
    assert run(paths, "--preset", "exact", "--report", str(tmp_path / "b.html")) == 1
    assert "cannot write" in capsys.readouterr().err


@given(
    st.dictionaries(
        st.text(max_size=9), st.dictionaries(st.text(max_size=9), NUMBERS, max_size=4), max_size=4
    )
)
def test_bars_are_as_long_as_their_parts(rows):
    page = Page(svg.bars("bytes", rows, str))
    widths = [float(value) for name, value in page.attributes if name == "width"][1:]
    assert all(0 <= width <= svg.WIDTH for width in widths)


@given(
    st.dictionaries(
        st.text(max_size=9), st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5), max_size=7
    ),
    st.booleans(),
    st.booleans(),
)
@example({"": [(0.0, 2.8e-307), (1.0, 5e-324)]}, False, True)
def test_curves_stay_inside(series, log_x, log_y):
    drawn = {name: [(x + 1e-3, y) for x, y in line] for name, line in series.items()}
    page = Page(svg.curves("lines", drawn, log_x=log_x, log_y=log_y))
    for name, value in page.attributes:
        if name == "points":
            assert all(0 <= float(n) <= svg.WIDTH for n in re.findall(r"[-\d.]+", value))


@pytest.mark.parametrize("kind", ["curves", "columns", "bars"])
def test_a_legend_that_is_too_long_has_several_rows(kind):
    names = [f"technique number {k}" for k in range(9)]
    if kind == "curves":
        picture = svg.curves("lines", {name: [(1.0, 2.0), (2.0, 3.0)] for name in names})
    elif kind == "columns":
        picture = svg.columns("columns", ["a"], {name: [1.0] for name in names})
    else:
        picture = svg.bars("bars", {"a": {name: 1.0 for name in names}}, str)
    height = float(re.search(r'viewBox="0 0 \d+ ([\d.]+)"', picture)[1])
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>(technique number \d)<', picture)
    assert [name for _, _, name in found] == names
    places = [(float(x), float(y)) for x, y, _ in found]
    assert all(x + 8 * len(names[0]) <= svg.WIDTH for x, _ in places)
    assert len({y for _, y in places}) == 3 and max(y for _, y in places) < height
    assert len(set(places)) == 9


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_inside(low, span):
    ticks = svg.ticks([low, low + span], log=False)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-6 * step <= tick <= low + span + 1e-6 * step for tick in ticks)
    assert f"{step:.3e}"[:5] in ("1.000", "2.000", "5.000")


def test_numbers_of_axes():
    assert [svg.number_text(n) for n in (1000.0, 25000, 0.2, 1e-5, 1e7)] == [
        "1,000",
        "25,000",
        "0.2",
        "1e-05",
        "1e+07",
    ]


@given(st.dictionaries(st.text(max_size=9), st.floats(-1, 1), max_size=5))
def test_deltas_and_columns(values):
    Page(svg.deltas("loss", values, "{:+.3f}".format))
    Page(svg.columns("shares", list(values), {"one": list(values.values())}))
