"""Streams that are closed, full, or read by nobody: no command shows how Python sees that."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.helpers.places import ROOT
from tests.helpers.talkers import END, write_talker
from tests.helpers.terminals import environment, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.path.exists("/dev/full"), reason="needs a POSIX shell and a device that is full"
    ),
]

TINYRWKV = {
    "--help": "--help",
    "info": "info MODEL",
    "info --json": "info MODEL --json",
    "plan": "plan MODEL",
    "verify": "verify MODEL",
    "generate": "generate MODEL -p ? -n 2",
    "generate from stdin": "generate MODEL -p - -n 2 --json",
    "chat": "chat MODEL",
    "chat --json": "chat MODEL --json",
    "bench": "bench MODEL --prompt-tokens 1 --tokens 2 --repeat 1",
}
CONVERTERS = {
    "convert --help": "--help",
    "convert": "MODEL OUTPUT",
    "convert --json": "MODEL OUTPUT --json",
    "eval --help": "eval --help",
    "eval": "eval MODEL --lambada LINES --threads 1",
}
COMMANDS = {name: f"tinyrwkv {line}" for name, line in TINYRWKV.items()}
COMMANDS |= {name: f"converters {line}" for name, line in CONVERTERS.items()}

READ_STDIN = ("generate from stdin", "chat", "chat --json")

HARMLESS = (
    *("<&-", ">&-", "<&- >&- 2>&-"),
    *("2</dev/null", "2>&1 >/dev/null | true"),
)
"""What the shell can do to streams without any harm: what is closed is empty, notes are lost."""

LOST = {
    ">/dev/full": "No space left on device",
    "</dev/null >&0": "Bad file descriptor",  # open, but not for writing
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("streams")
    lines = folder / "lines.txt"
    lines.write_text("? it\n", "utf-8")
    model = write_talker(folder / "m.trwkv", [b"?", b" it", b" is", b".", END])
    return {"MODEL": model, "LINES": str(lines), "OUTPUT": str(folder / "out.trwkv")}


@pytest.fixture(params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def command(name: str, files: dict[str, str]) -> list[str]:
    """Return the arguments for Python, and remove what another test wrote."""
    pathlib.Path(files["OUTPUT"]).unlink(missing_ok=True)
    return ["-m", *(files.get(word, word) for word in COMMANDS[name].split())]


def in_shell(command: list[str], how: str, *flags: str) -> tuple[int, list[str], list[str]]:
    """Run a command as a shell does that redirects its streams.

    Return the status, and the lines of the output and of the notes.
    """
    line = f'"$@" {how}'
    if "|" in how:  # the status of the command, not that of the reader
        first, _, reader = how.partition("|")
        line = f'exec 4>&1; {{ {{ "$@" {first} 4>&-; echo "status $?" >&4; }} |{reader}; }}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, *flags, *command],
        cwd=ROOT,
        env=environment(PYTHONUNBUFFERED=""),
        input=b"?\n",
        capture_output=True,
        timeout=120,
    )
    out, notes = done.stdout.decode().splitlines(), done.stderr.decode().splitlines()
    status = int(out.pop().split()[1]) if "|" in how else done.returncode
    return status, out, notes


def flags_for(name: str) -> list[str]:
    """Return flags for Python: without a buffer, argparse meets the errors of a stream itself."""
    return ["-u"] if name in ("--help", "convert", "chat") else []


def without_numbers(lines: list[str]) -> set[str]:
    return {re.sub(r"[\d.,]+", "#", line) for line in lines}


def of_command(notes: list[str]) -> list[str]:
    """Return the complaints of a command among its notes."""
    return [line for line in notes if line.startswith(("tinyrwkv: ", "tinyrwkv-convert"))]


@pytest.mark.parametrize("how", HARMLESS)
def test_closed_streams_and_lost_notes_do_no_harm(name: str, command: list[str], how: str) -> None:
    status, out, notes = in_shell(command, how)
    assert (status, of_command(notes)) == (0, [])
    assert not any("Traceback" in line or "Error" in line for line in [*out, *notes])
    if ">&-" not in how.replace("2>&-", ""):
        assert out or "|" in how or (name in READ_STDIN and "<&-" in how)


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full"])
def test_notes_never_go_to_the_output(name: str, command: list[str], how: str) -> None:
    notes = without_numbers(in_shell(command, "")[2])
    out = in_shell(command, how)[1]
    assert out and not notes & without_numbers(out)


@pytest.mark.parametrize("how", LOST)
def test_an_output_that_cannot_be_written_is_a_sentence(
    name: str, command: list[str], how: str
) -> None:
    status, out, notes = in_shell(command, how, *flags_for(name))
    reads_nothing = name in READ_STDIN and how.startswith("<")
    assert status == (0 if reads_nothing and name.startswith("chat") else 1)
    said = f"cannot write standard output: {LOST[how]}; check where it goes to"
    assert out == []
    assert [line.partition(": ")[2] for line in of_command(notes)] == [said][:status]
    assert not any("Traceback" in line or "Exception" in line for line in notes)


def test_an_output_that_nobody_reads_is_no_error(name: str, command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, *flags_for(name), *command],
        cwd=ROOT,
        env=environment(PYTHONUNBUFFERED=""),
        input=b"?\n/stats\n",
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(writer)
    notes = [line for line in done.stderr.decode().splitlines() if not line.startswith("note: ")]
    assert (done.returncode, notes) == (141, [])


@pytest.mark.parametrize("name", READ_STDIN)
def test_an_input_that_cannot_be_read_is_a_sentence(name: str, command: list[str]) -> None:
    status, out, notes = in_shell(command, "0>/dev/null")  # open, but not for reading
    assert (status, out) == (1, [])
    said = "cannot read standard input: Bad file descriptor; check where it comes from"
    assert notes == [f"tinyrwkv: {said}"]


@pytest.mark.parametrize("name", READ_STDIN)
def test_streams_that_do_not_wait_are_waited_for(name: str, command: list[str]) -> None:
    ours, theirs = os.pipe()
    for end in (ours, theirs):
        os.set_blocking(end, False)
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(PYTHONUNBUFFERED=""),
        stdin=ours,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process, os.fdopen(theirs, "wb") as written:
        os.close(ours)
        written.write(b"?\n")
        written.close()
        assert process.stdout is not None and process.stderr is not None
        out, notes = process.stdout.read(), process.stderr.read()
    assert (process.returncode, of_command(notes.decode().splitlines())) == (0, [])
    assert b"is" in out


@pytest.mark.parametrize("name", READ_STDIN)
def test_a_byte_order_mark_is_no_text(name: str, command: list[str]) -> None:
    plain, marked = (run(*command, text=mark + b"?\n").stdout for mark in (b"", b"\xef\xbb\xbf"))
    assert without_numbers(plain.splitlines()) == without_numbers(marked.splitlines())
    assert plain


@pytest.mark.parametrize("name", READ_STDIN)
@pytest.mark.parametrize(
    ("encoding", "called"),
    [
        *(("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE")),
        ("utf-32", "UTF-32"),
    ],
)
def test_other_encodings_are_refused_by_name(
    command: list[str], encoding: str, called: str
) -> None:
    done = run(*command, text="turn left\nturn right\n".encode(encoding))
    said = f"standard input is a text in {called}, not in UTF-8"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"tinyrwkv: {said}; convert it first: iconv -f {called} -t UTF-8\n"


@pytest.mark.skipif(os.name == "nt", reason="there, lines end with carriage returns")
def test_a_carriage_return_is_text() -> None:
    program = "import sys; open_streams(); sys.stdout.write(ascii(sys.stdin.read()))"
    done = run("-c", f"from tinyrwkv.cli.streams import open_streams; {program}", text="a\r\nb\rc")
    assert done.stdout == r"'a\r\nb\rc'"


def test_output_goes_to_the_file_that_a_caller_put_in_its_place(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "out.txt"
    program = f"import sys; sys.stdout = open({str(path)!r}, 'w'); sys.exit(main(['info']))"
    done = run("-c", f"from tinyrwkv.cli.cli import main; {program}")
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text("utf-8").startswith("file ")
