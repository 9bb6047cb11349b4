"""Conversions on a disk that fails, and what they may write over."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from converters import cli
from converters.compress.compress import compress
from converters.compress.options import Options
from converters.export import gguf
from converters.report.report import write_report
from converters.write.convert import convert
from converters.write.temporary import LOCK, folder_beside
from tests.helpers import conversions, faults
from tinyrwkv.errors import ArgumentError, FormatError
from tinyrwkv.file.output import temporary_name
from tinyrwkv.file.verify import open_verified

linux = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux")


@pytest.fixture
def files(tmp_path: pathlib.Path) -> conversions.Files:
    return conversions.write_files(tmp_path)


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Return what a conversion tells, as a report has it."""
    files = conversions.write_files(tmp_path_factory.mktemp("found"))
    return compress(files["model.pth"], files["out.trwkv"], Options(sparse_ffn="exact"), weigh=True)


@pytest.fixture
def v7(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a model file that llama.cpp could have."""
    files = conversions.write_files(tmp_path_factory.mktemp("v7"), "v7")
    convert(files["model.pth"], files["out.trwkv"])
    return files["out.trwkv"]


def verify(path: pathlib.Path) -> None:
    with open_verified(path):
        pass


@linux
def test_no_fault_of_the_disk_leaves_a_broken_conversion(files: conversions.Files) -> None:
    output = pathlib.Path(files["out.trwkv"])

    def write() -> None:
        convert(files["model.pth"], output, vocab=files["vocab.txt"])

    write()
    assert faults.check_writer(write, {output: verify}, growth=1.2) > 20


@linux
@pytest.mark.slow
def test_no_fault_of_the_disk_leaves_a_broken_lite_conversion(files: conversions.Files) -> None:
    output = pathlib.Path(files["out.trwkv"])
    options = Options(rank_budget=0.7, whiten=True, sparse_ffn="predict", keep=0.3)

    def write() -> None:
        compress(
            files["model.pth"],
            output,
            options,
            vocab=files["vocab.txt"],
            calibrate=files["text.txt"],
        )

    write()
    assert faults.check_writer(write, {output: verify}, growth=1.8) > 20


@linux
def test_no_fault_of_the_disk_leaves_a_broken_report(found: dict, tmp_path: pathlib.Path) -> None:
    page, numbers = tmp_path / "a.html", tmp_path / "a.json"

    def is_page(path: pathlib.Path) -> None:
        assert path.read_text().endswith("</html>\n")

    write_report(str(page), found)
    outputs = {page: is_page, numbers: lambda path: json.loads(path.read_text())}
    assert faults.check_writer(lambda: write_report(str(page), found), outputs) > 5


@linux
def test_no_fault_of_the_disk_leaves_a_broken_gguf(v7: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("gguf")
    output = tmp_path / "a.gguf"
    gguf.export(v7, output)
    size = output.stat().st_size

    def is_whole(path: pathlib.Path) -> None:
        assert path.stat().st_size == size

    met = faults.check_writer(lambda: gguf.export(v7, output), {output: is_whole}, 1.3)
    assert met > 5


def test_a_gguf_replaces_only_one_of_the_converter(v7: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("gguf")
    output = tmp_path / "a.gguf"
    for _ in range(2):
        gguf.export(v7, output)
    for data in (b"GGUF" + bytes(5000), b"dear"):
        output.write_bytes(data)
        with pytest.raises(ArgumentError, match=r"a\.gguf exists, and it is not a GGUF file of"):
            gguf.export(v7, output)
        assert output.read_bytes() == data


@pytest.mark.parametrize(
    ("report", "other"),
    [
        ("model.pth", "input"),
        ("vocab.txt", "vocabulary"),
        ("text.txt", "calibration text"),
        ("out.trwkv", "output"),
        ("./out.trwkv", "output"),
        ("link.html", "output"),
        ("a.json", "report"),
    ],
)
def test_a_report_replaces_nothing_of_its_run(
    files: conversions.Files, tmp_path: pathlib.Path, report: str, other: str
) -> None:
    (tmp_path / "link.html").symlink_to(files["out.trwkv"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.exists()}
    with pytest.raises(ArgumentError, match=f"would replace the {other}"):
        compress(
            files["model.pth"],
            files["out.trwkv"],
            Options(sparse_ffn="exact"),
            vocab=files["vocab.txt"],
            calibrate=files["text.txt"],
            report=os.path.join(tmp_path, report),
        )
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", ["notes.html", "notes.json"])
def test_a_report_replaces_reports_only(
    files: conversions.Files, found: dict, tmp_path: pathlib.Path, name: str
) -> None:
    mine = tmp_path / name
    for _ in range(2):
        write_report(str(tmp_path / "notes.html"), found)
    mine.write_text("mine, and longer than nothing")
    options = Options(sparse_ffn="exact")
    paths = (files["model.pth"], files["out.trwkv"])
    with pytest.raises(ArgumentError, match=f"{name} exists, and it is not a"):
        compress(*paths, options, report=tmp_path / "notes.html")
    assert mine.read_text() == "mine, and longer than nothing"
    assert not os.path.exists(files["out.trwkv"])  # it is refused before the work


def test_an_output_is_refused_before_the_work(files: conversions.Files) -> None:
    output = pathlib.Path(files["out.trwkv"])
    output.write_text("mine")
    told: list[int] = []
    for path in (output, output.parent / "no" / "a.trwkv"):
        with pytest.raises((ArgumentError, FormatError)):
            convert(files["model.pth"], path, progress=lambda done, _: told.append(done))
    assert told == [] and output.read_text() == "mine"


def test_the_command_says_it_in_a_line(
    files: conversions.Files, capsys: pytest.CaptureFixture[str]
) -> None:
    pathlib.Path(files["out.trwkv"]).write_text("mine")
    assert cli.main([files["model.pth"], files["out.trwkv"]]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "exists, and it is not a model file" in told[0]


@pytest.mark.parametrize("kind", ["lock", "empty"])
def test_folders_of_killed_conversions_are_removed(
    files: conversions.Files, tmp_path: pathlib.Path, kind: str
) -> None:
    folder = pathlib.Path(temporary_name(files["out.trwkv"]))
    folder.mkdir()
    if kind == "lock":
        for name in (LOCK, "dense.trwkv", "blocks.0.npz"):
            (folder / name).write_bytes(b"half")
    convert(files["model.pth"], files["out.trwkv"])
    assert not folder.exists()


def test_the_folder_of_a_conversion_under_way_stays(files: conversions.Files) -> None:
    with folder_beside(files["out.trwkv"]) as folder:
        convert(files["model.pth"], files["out.trwkv"])
        assert os.path.isdir(folder)
    assert not os.path.exists(folder)
