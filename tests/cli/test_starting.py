"""The first moments of a command: Ctrl-C among its imports, and packages that are missing."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.places import ROOT
from tests.helpers.terminals import environment, run

LESSONS = sorted((ROOT / "docs" / "lessons").glob("[0-9]_*.py"))
EXAMPLES = [ROOT / "examples" / f"{name}.py" for name in ("chat", "classify", "robot_loop")]
NODE = ROOT / "examples" / "ros2_node.py"

# Sends what Ctrl-C sends, when a module is about to be imported.
INTERRUPTING = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal of POSIX here")
@pytest.mark.parametrize(
    ("command", "module"),
    [
        *[("tinyrwkv", name) for name in ("tinyrwkv.errors", "numpy", "tinyrwkv.model")],
        *[("tinyrwkv", name) for name in ("tinyrwkv.cli", "argparse", "tinyrwkv.cli.exits")],
        *[("converters", name) for name in ("tinyrwkv.errors", "numpy", "converters.cli")],
        *[("converters", name) for name in ("argparse", "converters.write.convert")],
    ],
)
def test_ctrl_c_among_the_imports_ends_quietly(
    command: str, module: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    done = run("-m", command, "--help", INTERRUPT_AT=module, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal of POSIX here")
def test_ctrl_c_in_a_program_of_others_is_theirs(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    program = tmp_path / "program.py"
    program.write_text("try:\n    import tinyrwkv\nexcept KeyboardInterrupt:\n    print('theirs')")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = run(str(program), INTERRUPT_AT="tinyrwkv.model", PYTHONPATH=paths)
    assert (done.returncode, done.stdout, done.stderr) == (0, "theirs\n", "")


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal of POSIX here")
def test_a_job_that_ignores_ctrl_c_goes_on() -> None:
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; "$@"', "sh", sys.executable, "-c", IGNORES],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


IGNORES = """
import signal, sys
sys.argv = ["tinyrwkv"]
sys.orig_argv[-1:] = ["tinyrwkv"]
import tinyrwkv
print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
"""


@pytest.mark.parametrize("command", ["tinyrwkv", "converters"])
def test_a_missing_numpy_is_a_sentence(command: str) -> None:
    done = run("-S", "-m", command, "--help")  # without site-packages
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "NumPy is missing: apt install python3-numpy, or pip install numpy\n"


@pytest.mark.parametrize("path", [*LESSONS, *EXAMPLES, NODE], ids=lambda path: path.stem)
def test_examples_and_lessons_say_what_is_missing(path: pathlib.Path) -> None:
    done = run("-S", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    said = {"lessons": "numpy is missing: pip install", "ros2_node": "rclpy is missing: install"}
    expected = said.get(path.parent.name, said.get(path.stem, "NumPy is missing: "))
    assert done.stderr.startswith(expected) and done.stderr.count("\n") == 1


def test_ctrl_c_after_the_start_raises_again() -> None:
    shown = run("-c", RAISES).stdout
    assert shown == "True\n"


RAISES = """
import signal, sys
sys.argv = ["tinyrwkv"]
sys.orig_argv[-1:] = ["tinyrwkv"]
import tinyrwkv
from tinyrwkv.cli import exits
before = signal.getsignal(signal.SIGINT)
def work():
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler is not before)
    return 0
sys.exit(exits.run("tinyrwkv", work))
"""
