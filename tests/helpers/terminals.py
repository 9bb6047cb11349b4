"""Programs as people run them: through pipes, and in a terminal of their own."""

from __future__ import annotations

import os
import re
import select
import struct
import subprocess
import sys
import time

import pytest

from tests.helpers.places import ROOT


def environment(**extra: str) -> dict[str, str]:
    """Return an environment for commands: nothing compiled, and a terminal that has colours."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("NO_COLOR", "COLUMNS", "LINES")
    }
    return {
        **kept,
        "TINYRWKV_BACKEND": "numpy",
        "TERM": "xterm",
        "OPENBLAS_NUM_THREADS": "1",
        **extra,
    }


def run(*arguments: str, text: str | bytes = "", **extra: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in the checkout, through pipes that carry UTF-8."""
    data = text.encode() if isinstance(text, str) else text
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, input=data, capture_output=True, cwd=ROOT, env=environment(**extra), timeout=60
    )
    return subprocess.CompletedProcess(
        command, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


# Makes standard input the controlling terminal, so that Ctrl-C reaches the command.
_SETUP = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


PASTING = re.compile(rb"\x1b\[\?2004(h|l\r)")
"""By this, a program asks the terminal to tell where a pasted text ends."""


class Terminal:
    """Python in a terminal, with the arguments given."""

    def __init__(self, *arguments: str, columns: int = 40, **extra: str) -> None:
        pytest.importorskip("pty", reason="this system has no pseudo-terminals")
        import fcntl
        import pty
        import termios

        self.fd, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        command = [sys.executable, "-c", _SETUP, *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment(**extra), stdin=inner, stdout=inner, stderr=inner
        )
        os.close(inner)
        self._rest = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.fd, text.encode())

    def press_ctrl_c(self) -> None:
        """Press Ctrl-C as a person does who has seen the prompt.

        Python's input() with readline does not notice it in the microseconds after the prompt.
        """
        time.sleep(0.3)
        self.type("\x03")

    def wait_for(self, text: str, seconds: float = 30) -> str:
        """Return what is shown before a text, which must come; the next call goes on after it."""
        data, end = self._rest, time.monotonic() + seconds
        while text.encode() not in data:
            more = b""
            if select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                try:
                    more = os.read(self.fd, 4096)
                except OSError:  # Linux's way to say that the other side is closed
                    more = b""
            if not more:
                raise AssertionError(f"{text!r} did not come: {data!r}")
            data = PASTING.sub(b"", data + more)
        shown, _, self._rest = data.partition(text.encode())
        return shown.decode().replace("\r\n", "\n")

    def status(self) -> int:
        """Wait for the end; return the exit status."""
        return self.process.wait(30)
