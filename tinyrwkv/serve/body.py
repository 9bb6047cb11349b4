"""The body of a request, read within limits."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from .refusal import Refusal

SECONDS = 30.0
"""Time for a client to send its request."""

DISCARDED = 16
"""A body may be so many times too large to be read to its end, so that the client sees why."""


async def read_body(request: Request, most: int) -> bytes:
    """Return the JSON that a request holds, not parsed yet.

    Parameters
    ----------
    request : Request
    most : int
        Bytes.

    Raises
    ------
    Refusal
        It is too large, takes too long, or is of another type.
    ClientDisconnect
        The client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page elsewhere may send others without being asked
        found = kind or "not named"
        sentence = f"the type of the request is {ascii(found)[:60]}, but must be application/json"
        what = (found, "application/json", "send Content-Type: application/json", sentence)
        raise Refusal(415, None, *what, "unsupported_media_type")
    try:
        return await asyncio.wait_for(_read(request, most), SECONDS)
    except asyncio.TimeoutError:
        sentence = f"the request was not whole after {SECONDS:.0f} seconds"
        what = ("a part of it", "all of it", "send it again", sentence)
        raise Refusal(408, None, *what, "timeout") from None


async def _read(request: Request, most: int) -> bytes:
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            parts.append(part)
        elif size > DISCARDED * most:
            break
    if size > most:
        found = f"more than {most:,} bytes"
        sentence = f"the request has {found}"
        what = (found, f"at most {most:,}", "shorten it", sentence)
        raise Refusal(413, None, *what, "request_too_large")
    return b"".join(parts)


__all__ = ["ClientDisconnect", "read_body"]
