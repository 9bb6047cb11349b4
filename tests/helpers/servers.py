"""Servers as people start them: ``tinyrwkv serve`` in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from tests.helpers.places import ROOT
from tests.helpers.terminals import environment

try:
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401

    WHY_NOT = ""
except ModuleNotFoundError as error:
    WHY_NOT = f'no {error.name}: pip install ".[serve]"'

try:
    import openai
except ModuleNotFoundError:
    WHY_NOT = WHY_NOT or "no client: pip install openai"

if WHY_NOT and os.environ.get("CI_SERVE") == "required":
    raise RuntimeError(WHY_NOT)


class Server:
    """A server that runs, at a free port; the fastest backend computes.

    Parameters
    ----------
    *arguments : str
        Of ``tinyrwkv serve``.
    without : sequence of str
        Packages that it does not find.
    """

    def __init__(self, *arguments: str, without: Sequence[str] = ()) -> None:
        code = "import sys; sys.modules.update(dict.fromkeys({}));"
        code += "from tinyrwkv.cli.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code.format(list(without))]
        command += ["serve", "--port", "0", "--json", *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(TINYRWKV_BACKEND="auto"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        told = json.loads(line)
        assert told["event"] == "serving"
        self.url: str = told["url"]
        self.name: str = told["model"]
        self._clients: list[openai.OpenAI] = []

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=20)
        self.process.kill()
        self.process.communicate()
        for client in self._clients:
            client.close()  # a socket that Python has to close is a warning in some later test

    def client(self, key: str = "none", **settings: Any) -> openai.OpenAI:
        """Return a client of the official package, which asks once; the server's end closes it."""
        client = openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, **settings)
        self._clients.append(client)
        return client

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection without any client."""
        place = urlsplit(self.url)
        return http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)

    def ask(
        self, body: bytes | str, path: str = "/v1/chat/completions", **headers: str
    ) -> tuple[int, Any, Any]:
        """Send a body as it is; return the status, what the answer says, and its headers."""
        kind = {"Content-Type": "application/json"}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(self.connection()) as connection:
            connection.request("POST", path, body, kind | given)
            response = connection.getresponse()
            return response.status, json.loads(response.read()), response.headers

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit status, and what stands on standard error."""
        self.process.send_signal(signal.SIGINT)
        _, notes = self.process.communicate(timeout=30)
        return self.process.returncode, notes
