"""The body of a request, read within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect

from .refusal import Refusal

SECONDS = 30.0
"""Time for a client to send its request."""

LATE = "the request takes too long"
"""Why its task is cancelled."""

DISCARDED = 16
"""A body may be so many times too large to be read to its end, so that the client sees why."""


async def read_body(
    headers: Mapping[str, str],
    receive: Callable[[], Awaitable[Any]],
    most: int,
    seconds: float = SECONDS,
) -> bytes:
    """Return the JSON that a request holds, not parsed yet.

    Parameters
    ----------
    headers : mapping
    receive : callable
        As ASGI gives it.
    most : int
        Bytes.
    seconds : float, optional
        Time for it.

    Raises
    ------
    Refusal
        It is too large, takes too long, or is of another type.
    ClientDisconnect
        The client has gone.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page elsewhere may send others without being asked
        found = kind or "not named"
        sentence = f"the type of the request is {ascii(found)[:60]}, but must be application/json"
        what = (found, "application/json", "send Content-Type: application/json", sentence)
        raise Refusal(415, None, *what, "unsupported_media_type")
    task = asyncio.current_task()
    assert task is not None, "this runs in a task"
    # Python's wait_for would make a second task.
    timer = asyncio.get_running_loop().call_later(seconds, task.cancel, LATE)
    try:
        return await _read(receive, most)
    except asyncio.CancelledError as error:
        if error.args != (LATE,):
            raise
        sentence = f"the request was not whole after {seconds:.0f} seconds"
        what = ("a part of it", "all of it", "send it again", sentence)
        raise Refusal(408, None, *what, "timeout") from None
    finally:
        timer.cancel()


async def _read(receive: Callable[[], Awaitable[Any]], most: int) -> bytes:
    parts = []
    size = 0
    goes_on = True
    while goes_on:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        goes_on = message.get("more_body", False)
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
