"""Python scripts that run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from tests.helpers.places import ROOT


def run_script(code: str, *args: str, seconds: float = 90) -> str:
    """Run a script in a process of its own; return what it prints.

    A hang ends with a traceback. The first script may have to compile the kernels.
    """
    start = "import faulthandler, os, sys, warnings\n"
    start += f"faulthandler.dump_traceback_later({seconds}, exit=True)\n"
    start += "warnings.simplefilter('ignore')\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code), *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout
