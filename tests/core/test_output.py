"""What is written: beside its name first, over its own kind only, and without anything left."""

from __future__ import annotations

import os
import pathlib
import signal
import stat
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import tinyrwkv
from tests.helpers import faults
from tests.helpers.tiny_models import shape_of
from tinyrwkv.errors import ArgumentError, FormatError, TinyRWKVError
from tinyrwkv.file import output
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.output import STATE, abandoned_names, new_file, temporary_name
from tinyrwkv.file.verify import open_verified
from tinyrwkv.file.writer import Writer

MODEL = {"kind": "model", "dtype": "f32", **shape_of("v7")}

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
linux = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux")


@pytest.fixture
def model(tiny: Callable[..., str]) -> tinyrwkv.Model:
    return tinyrwkv.load(tiny(), backend="numpy")


@pytest.fixture
def state(model: tinyrwkv.Model) -> tinyrwkv.State:
    return model.forward([0, 5, 6], logits=None)[1]


def write_model(path: pathlib.Path | str, number: int = 1) -> None:
    with Writer(path, MODEL) as writer:
        writer.add("x", np.full(3, number, np.int8))
        writer.add("y", np.full((300, 5000), number, np.int8))


def verify(path: pathlib.Path) -> None:
    with open_verified(path):
        pass


@linux
def test_no_fault_of_the_disk_leaves_a_broken_model(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.trwkv"
    write_model(path, 0)
    assert faults.check_writer(lambda: write_model(path), {path: verify}) > 8


@linux
def test_no_fault_of_the_disk_leaves_a_broken_state(
    model: tinyrwkv.Model, state: tinyrwkv.State, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "a.state"
    model.new_state().save(path)
    met = faults.check_writer(
        lambda: state.save(path), {path: lambda _: tinyrwkv.State.load(path, model)}
    )
    assert met > 5


@pytest.mark.parametrize("kind", ["model", "text", "html", "zeros"])
def test_a_state_replaces_no_other_file(
    model: tinyrwkv.Model, state: tinyrwkv.State, tmp_path: pathlib.Path, kind: str
) -> None:
    data = {
        "model": pathlib.Path(model.path).read_bytes(),
        "text": b"dear",
        "html": b"<html>",
        "zeros": bytes(5000),
    }[kind]
    (tmp_path / "mine").write_bytes(data)
    with pytest.raises(ArgumentError, match="mine exists, and it is not a state"):
        state.save(tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == data and os.listdir(tmp_path) == ["mine"]


def test_a_model_replaces_no_state_and_no_other_file(
    state: tinyrwkv.State, tmp_path: pathlib.Path
) -> None:
    state.save(tmp_path / "mine")
    for data in ((tmp_path / "mine").read_bytes(), b"dear", b"PK\3\4"):
        (tmp_path / "mine").write_bytes(data)
        with pytest.raises(ArgumentError, match="mine exists, and it is not a model file"):
            write_model(tmp_path / "mine")
        assert (tmp_path / "mine").read_bytes() == data and os.listdir(tmp_path) == ["mine"]


def test_an_empty_file_and_an_older_one_are_replaced(
    model: tinyrwkv.Model, state: tinyrwkv.State, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "a.state"
    path.touch()
    for one in (state, model.new_state()):
        one.save(path)
        assert tinyrwkv.State.load(path, model).tokens == one.tokens


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(ArgumentError, match="not a state"), new_file(str(path), STATE) as file:
        file.write(b"new")
        path.write_bytes(b"dear")
    assert path.read_bytes() == b"dear" and os.listdir(tmp_path) == ["a"]


@posix
def test_a_link_stays_and_its_target_is_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "far").mkdir()
    link, target = tmp_path / "link.trwkv", tmp_path / "far" / "real.trwkv"
    link.symlink_to(target)
    for number in (1, 2):  # first the link leads to nothing
        write_model(link, number)
        assert link.is_symlink()
        with open_file(target) as file:
            assert file["x"][0] == number
    assert os.listdir(tmp_path / "far") == ["real.trwkv"] and len(os.listdir(tmp_path)) == 2
    target.write_text("dear")
    with pytest.raises(ArgumentError, match=r"link\.trwkv exists, and it is not a model"):
        write_model(link)
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(FormatError, match=r"cannot write .*link\.trwkv"):
        write_model(link)


@pytest.mark.parametrize("length", [240, 255])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_long_names(tmp_path: pathlib.Path, length: int, letter: str) -> None:
    name = letter * (length // len(letter.encode()))
    write_model(tmp_path / name)
    verify(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(FormatError, match="cannot write"):
        write_model(tmp_path / ("x" * 256))


@pytest.mark.parametrize("name", ["no/such/a.trwkv", "folder", "folder/", "new/", ".", ""])
def test_where_no_file_can_be(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=f"cannot write {name}"):
        write_model(name)
    assert os.listdir(tmp_path) == ["folder"] and os.listdir("folder") == []


@posix
def test_devices_and_pipes_stay(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", tmp_path / "pipe"):
        with pytest.raises(FormatError, match="a folder, pipe or device"):
            write_model(path)
    assert not stat.S_ISREG(os.stat("/dev/null").st_mode) and os.listdir(tmp_path) == ["pipe"]


@posix
def test_a_folder_that_may_not_be_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:  # nothing is forbidden to root
        opened = open

        def refusing(path: str, mode: str = "r") -> object:
            if "x" in mode:
                raise PermissionError(13, "Permission denied")
            return opened(path, mode)

        monkeypatch.setattr(output, "open", refusing, raising=False)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(FormatError, match=r"cannot write .*a\.trwkv: Permission denied"):
        write_model(tmp_path / "a.trwkv")
    assert os.listdir(tmp_path) == []


@posix
def test_what_was_private_stays_private(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.trwkv"
    write_model(path)
    path.chmod(0o600)
    with Writer(path, MODEL) as writer:
        (temp,) = [name for name in os.listdir(tmp_path) if name != "a.trwkv"]
        assert stat.S_IMODE(os.stat(tmp_path / temp).st_mode) == 0o600
        writer.add("x", np.ones(3, np.int8))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
from tests.core.test_output import write_model
from tinyrwkv.errors import TinyRWKVError
try:
    write_model(sys.argv[1])
except TinyRWKVError as error:
    sys.exit(str(error))
"""


@posix
@pytest.mark.parametrize("size", [0, 4096, 100_000, 1_500_000])
def test_a_full_disk_is_said_in_a_sentence(tmp_path: pathlib.Path, size: int) -> None:
    root = str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-B", "-c", FULL, str(tmp_path / "a.trwkv"), root, str(size)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stderr.startswith(f"cannot write {tmp_path}/a.trwkv: ")
    assert len(ended.stderr.splitlines()) == 1 and os.listdir(tmp_path) == []


def litter(path: pathlib.Path) -> list[str]:
    return [name for name in os.listdir(path.parent) if ".tmp-" in name]


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from tests.core.test_output import MODEL, Writer
with Writer(sys.argv[1], MODEL):
    print("begun", flush=True)
    time.sleep(600)
"""


def begin(path: pathlib.Path) -> subprocess.Popen[str]:
    """Start a process that is in the middle of writing a file."""
    root = str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-B", "-c", KILLED, str(path), root]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


@posix
@pytest.mark.parametrize("name", ["a.trwkv", "x" * 250])
def test_the_next_run_removes_what_a_killed_one_left_and_no_other(
    tmp_path: pathlib.Path, name: str
) -> None:
    path = tmp_path / name
    with begin(path) as killed, begin(path) as living:
        assert len(litter(path)) == 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        write_model(path)
        assert len(litter(path)) == 1  # the living one's
        living.kill()
        living.wait()
        write_model(path)
        assert litter(path) == []


def test_names_of_other_files_are_not_litter(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "a.trwkv")
    kept = [
        temporary_name(str(tmp_path / "b.trwkv")),
        path + ".tmp-notes",
        path + ".tmp-1234",
        temporary_name(path) + ".bak",
    ]
    for name in kept:
        pathlib.Path(name).write_text("mine")
    write_model(path)
    assert all(os.path.exists(name) for name in kept)


def test_another_machine_s_files_are_left_alone_on_a_network(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "a.trwkv")
    own = temporary_name(path)
    host = own.rpartition(".tmp-")[2].partition("-")[0]
    strange = own.replace(host, f"{int(host, 16) ^ 1:08x}")
    for name in (own, strange):
        pathlib.Path(name).touch()
    monkeypatch.setattr(os, "major", lambda device: 0)  # as Linux numbers NFS
    assert abandoned_names(path) == [own]


@posix
def test_litter_that_is_a_link_or_a_pipe_does_not_lead_away(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "a.trwkv")
    mine = tmp_path / "mine"
    mine.write_text("dear")
    os.symlink(mine, temporary_name(path))
    os.mkfifo(temporary_name(path))
    write_model(path)
    assert mine.read_text() == "dear"


@posix
def test_many_runs_at_once_for_one_name(tmp_path: pathlib.Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[2])\n"
    code += "from tests.core.test_output import write_model\n"
    code += "for n in range(25): write_model(sys.argv[1], n)"
    path = tmp_path / "a.trwkv"
    root = str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-B", "-c", code, str(path), root]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    for run in runs:
        run.communicate()
    verify(path)
    assert os.listdir(tmp_path) == ["a.trwkv"]


def test_errors_of_the_body_are_not_those_of_the_disk(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="mine") as caught, Writer(tmp_path / "a", MODEL):
        raise ValueError("mine")
    assert not isinstance(caught.value, TinyRWKVError) and os.listdir(tmp_path) == []
