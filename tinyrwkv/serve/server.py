"""Run the server: its socket, and its end."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from ..arguments import whole_number
from ..errors import ArgumentError
from .app import Service, make_app
from .worker import Worker

GRACE = 5
"""Seconds for the last responses after Ctrl-C."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections.

    Parameters
    ----------
    host : str
        A name or an address of this machine.
    port : int
        0 takes one that is free.

    Raises
    ------
    ArgumentError
        The port is in use, or the address is not one of this machine.
    """
    listening = None
    whole_number("serve", "port", port, 0, 65_535, what="the port")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        if os.name != "nt":  # there it would let two programs have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
        return listening
    except (OSError, OverflowError, UnicodeError) as error:
        if listening is not None:
            listening.close()
        found_text = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            sentence = f"port {port} of {host} is in use"
            fix = "end the program that uses it, or give another: --port"
        else:
            sentence = f"cannot listen at port {port} of {host}: {found_text}"
            fix = "give an address of this machine: --host, and a free port: --port"
        what = ("arguments", "port", found_text, "a free port of this machine")
        raise ArgumentError(*what, fix, sentence) from None


def address_of(listening: socket.socket) -> str:
    """Return the URL of a socket, such as ``http://127.0.0.1:8000``."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(service: Service, listening: socket.socket, told: Callable[[], None]) -> None:
    """Answer requests until a signal ends the server; the signal is raised again at the end.

    Parameters
    ----------
    service : Service
    listening : socket
    told : callable
        Is called when clients can ask.
    """
    config = uvicorn.Config(
        make_app(service),
        http=_http(),
        ws="none",
        loop="auto",  # uvloop, if it is installed
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE,
    )
    server = Server(config, service.worker, told)
    try:
        server.run(sockets=[listening])
    finally:
        service.worker.close()
        service.worker.join()
        listening.close()


def _http() -> Any:
    """Return what reads HTTP: httptools if it is installed; else h11, which uvicorn needs."""
    try:
        from .limited_http import LimitedProtocol
    except ModuleNotFoundError:
        return "h11"
    return LimitedProtocol


class Server(uvicorn.Server):
    """A server that tells when it has begun, and ends all answers when it ends.

    Parameters
    ----------
    config : uvicorn.Config
    worker : Worker
    told : callable
    """

    def __init__(self, config: uvicorn.Config, worker: Worker, told: Callable[[], None]) -> None:
        super().__init__(config)
        self._worker = worker
        self._told = told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        await super().startup(sockets=sockets)
        self._told()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and end those that are open."""
        self._worker.close()
        await super().shutdown(sockets=sockets)
