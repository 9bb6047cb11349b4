"""Let an object prove that it computes what it should on this machine, before it is loaded.

Objects for Linux are tested on many processors before a release. For other systems they are built
and not run, so each user's machine runs them once, in a process of its own. The result is kept in
the user's cache folder, by the hash of the object.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys

from ..notes import note
from ..paths import cache_folder

PATIENCE = 60
"""Seconds that the process has."""

_CODE = """
import importlib.util, sys
sys.path[:] = {path!r}
found = importlib.util.spec_from_file_location(
    "tinyrwkv", {folder!r} + "/__init__.py", submodule_search_locations=[{folder!r}]
)
package = importlib.util.module_from_spec(found)
sys.modules["tinyrwkv"] = package
found.loader.exec_module(package)
from tinyrwkv.native.trial import main
main()
"""
# The package under its own name wherever it lies: nothing around a copy of it is imported.


@functools.cache
def doubt(path: str, digest: str, expected: str) -> str:
    """Return why an object must not be loaded, "" if it may be.

    Parameters
    ----------
    path : str
    digest : str
        The object's SHA-256.
    expected : str
        What its trial must answer, see ``trial``.
    """
    found = _remembered(digest)
    if not found:
        note("checking the compiled kernels on this machine, once")
        found, is_certain = _answer(path)
        if is_certain:
            _remember(digest, found)
    if found == expected:
        return ""
    again = f"; to check it again, remove {_file(digest)}" if _remembered(digest) else ""
    return f"{os.path.basename(path)} failed its check on this machine: {found}{again}"


def _answer(path: str) -> tuple[str, bool]:
    """Return what the trial of an object answers, or what went wrong; and whether it stays so."""
    if not os.path.basename(sys.executable or "").lower().startswith("python"):
        return "there is no Python to run it with", False
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = _CODE.format(path=sys.path, folder=folder)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=PATIENCE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # of Windows
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {PATIENCE} s", False
    except OSError as error:
        return f"no process for it: {error.strerror}", False
    if done.returncode:
        return f"the process that ran it ended with status {done.returncode}", True
    return done.stdout.strip()[:64], True


def _file(digest: str) -> str | None:
    folder = cache_folder()
    return folder and os.path.join(folder, f"kernels-{digest[:32]}.txt")


def _remembered(digest: str) -> str:
    """Return what an earlier trial answered, "" if there was none."""
    file = _file(digest)
    if file:
        with contextlib.suppress(OSError, ValueError), open(file, encoding="ascii") as text:
            return text.read(200)
    return ""


def _remember(digest: str, found: str) -> None:
    """Keep the answer of a trial, if there is a folder for it."""
    file = _file(digest)
    if file:
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
            part = f"{file}.{os.getpid()}"
            with open(part, "x", encoding="ascii") as text:
                text.write(found)
            os.replace(part, file)
