"""HTTP as httptools reads it, within a limit; needs httptools, which uvicorn needs not."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD = 65_536
"""Bytes of the address and the headers of a request, trailers included. h11 has such a limit."""


class LimitedProtocol(HttpToolsProtocol):
    """Refuses requests whose headers are too long; httptools itself takes any.

    Parameters
    ----------
    *arguments, **more
        As uvicorn gives them to each of its protocols.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._known = 0  # bytes of the address and the headers so far
        self._incomplete = 0  # bytes since the parser has told of anything

    def data_received(self, data: bytes) -> None:
        """Take what a client has sent."""
        self._incomplete += len(data)
        super().data_received(data)
        if self._incomplete > MOST_HEAD:  # a header that has no end
            self.send_400_response("Too large a header.")

    def on_message_begin(self) -> None:
        """Begin with a request."""
        self._known = self._incomplete = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the address."""
        self._add(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._add(len(name) + len(value))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._incomplete = 0
        super().on_body(body)

    def _add(self, count: int) -> None:
        self._incomplete = 0
        self._known += count
        if self._known > MOST_HEAD:  # the parser turns it into an error that uvicorn answers
            raise ValueError("too large headers")
