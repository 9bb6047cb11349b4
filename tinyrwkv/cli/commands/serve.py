"""``tinyrwkv serve``: answer programs that speak the HTTP interface of OpenAI."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from ...chat.answer_settings import DEFAULTS
from ...chat.profile import read_profile
from ...chat.templates import TEMPLATES, template
from ...errors import ArgumentError, UnsupportedError, os_errors
from ...model import Model
from .. import options as shared
from ..events import Events

if TYPE_CHECKING:
    from ...serve.app import Service

HELP = "answer programs that speak the HTTP interface of OpenAI"
EXAMPLES = """\
examples:
  tinyrwkv serve
      the small model that comes with the package, for programs on this machine
  tinyrwkv serve model.trwkv --port 9000 --name rwkv --threads 4
  tinyrwkv serve --page examples/web_chat.html
      besides, a page to chat with in a browser: http://127.0.0.1:8000
  tinyrwkv serve --host 0.0.0.0 --api-key-file key.txt
      for other machines too; they must send the key
  curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" \\
      -d '{"model": "default", "messages": [{"role": "user", "content": "turn left"}]}'

It needs two packages: pip install starlette uvicorn. docs/serve.md tells what is answered.
Ctrl-C ends it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="address to listen at (default: 127.0.0.1, for this machine alone)",
    )
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="default: 8000; 0 takes a free one"
    )
    parser.add_argument(
        "--name", metavar="NAME", help="what clients call the model (default: the file's name)"
    )
    parser.add_argument(
        "--template", metavar="NAME", help=f"{', '.join(TEMPLATES)} (default: what the file says)"
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="answer only those who send the key on the first line of FILE",
    )
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of ORIGIN ask, such as https://example.com; * for all, null for files; "
        "may be given several times",
    )
    parser.add_argument("--page", metavar="FILE", help="show this HTML file at /")
    parser.add_argument(
        "--json", action="store_true", help="print the event serving, with the url, when it runs"
    )
    _add_limits(parser)
    shared.add_loading(parser)
    shared.add_guessing(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--queue",
        type=int,
        default=16,
        metavar="N",
        help="requests that are answered at a time, by turns (default: 16)",
    )
    group.add_argument(
        "--max-prompt",
        type=int,
        default=16_384,
        metavar="N",
        help="tokens of a conversation, or of a text to continue (default: 16384)",
    )
    group.add_argument(
        "--max-tokens",
        type=int,
        default=4_096,
        metavar="N",
        help="tokens of an answer that a request may ask for (default: 4096)",
    )
    group.add_argument(
        "--max-body",
        type=shared.size,
        default=1 << 20,
        metavar="SIZE",
        help="size of a request (default: 1MiB)",
    )
    group.add_argument(
        "--sessions",
        type=shared.size,
        default=64_000_000,
        metavar="SIZE",
        help="memory for the states of conversations that may go on (default: 64MB)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    for name in ("queue", "max_prompt", "max_tokens", "max_body"):
        if getattr(options, name) < 1:
            raise _refusal(f"--{name.replace('_', '-')}", str(getattr(options, name)), "1 or more")
    with shared.loaded(options) as model:
        server = _server()
        listening = server.listen(options.host, options.port)
        service = _service(options, model, listening)
        url = server.address_of(listening)
        server.run(service, listening, lambda: _tell(options, service, url))
    return 0


def _server() -> ModuleType:
    try:
        from ...serve import server
    except ModuleNotFoundError as error:
        name = str(error.name)
        if name not in ("starlette", "uvicorn") and not name.endswith(".serve"):
            raise
        fix = "pip install starlette uvicorn"
        sentence = f"serve needs the package {name}, which is not installed"
        what = ("tinyrwkv serve", "package", "none", name)
        raise UnsupportedError(*what, fix, sentence) from None
    return server


def _service(options: argparse.Namespace, model: Model, listening: socket.socket) -> Service:
    from ...serve.app import Service
    from ...serve.asked import Limits, Reader
    from ...serve.guard import Guard, is_loopback
    from ...serve.sessions import Sessions
    from ...serve.worker import Worker

    model.tokenizer.encode("")  # without a vocabulary, it ends here
    turns = template(options.template or model.config.get("template") or "chat")
    name = options.name or os.path.splitext(os.path.basename(model.path))[0]
    settings = DEFAULTS | dict(read_profile(model.path).settings)
    limits = Limits(options.max_prompt, options.max_tokens)
    key = None if options.api_key_file is None else _key(options.api_key_file)
    return Service(
        reader=Reader(model, name, turns, settings, limits),
        worker=Worker(),
        sessions=Sessions(options.sessions),
        guard=Guard(key, is_loopback(listening.getsockname()[0])),
        queue=options.queue,
        body=options.max_body,
        page=None if options.page is None else _bytes(options.page),
        origins=options.cors,
    )


def _tell(options: argparse.Namespace, service: Service, url: str) -> None:
    """Say where the server is."""
    name = service.reader.name
    if not service.guard.is_closed:
        note = "without an API key, all who reach this machine can ask: give --api-key-file FILE"
        print(f"tinyrwkv: {note}", file=sys.stderr, flush=True)
    if options.json:
        Events(sys.stdout)("serving", url=f"{url}/v1", model=name)
        return
    print(f"{name} answers at {url}/v1. Ctrl-C ends it.", flush=True)
    if service.page is not None:
        print(f"A page to chat with: {url}", flush=True)


def _key(path: str) -> str:
    lines = _bytes(path).splitlines()
    key = lines[0].strip() if lines else b""
    if not (key.isascii() and key.decode("ascii", "replace").isprintable() and key):
        expected = "a line of printable ASCII"
        raise _refusal("--api-key-file", f"{path} with another text", f"a file with {expected}")
    return key.decode("ascii")


def _bytes(path: str) -> bytes:
    with os_errors(path, "read"), open(path, "rb") as file:
        return file.read()


def _refusal(name: str, found: str, expected: str) -> ArgumentError:
    sentence = f"{name} is {found}, but must be {expected}"
    return ArgumentError("arguments", name, found, expected, "correct it", sentence)
