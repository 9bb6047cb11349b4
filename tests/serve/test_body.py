"""The body of a request is read within limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("starlette")
from tinyrwkv.serve.body import ClientDisconnect, read_body
from tinyrwkv.serve.refusal import Refusal

JSON = {"content-type": "application/json; charset=utf-8"}


def read(*messages: Any, most: int = 100, seconds: float = 30) -> bytes:
    """Read a body that comes in messages of ASGI; after them, nothing comes."""
    left = list(messages)

    async def receive() -> Any:
        if left:
            return left.pop(0)
        return await asyncio.Event().wait()

    return asyncio.run(read_body(JSON, receive, most, seconds))


def part(body: bytes, more_body: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more_body}


def test_a_body_may_come_in_parts() -> None:
    assert read(part(b"[1,"), part(b""), part(b"2]", False)) == b"[1,2]"


def test_a_body_that_takes_too_long_is_refused() -> None:
    with pytest.raises(Refusal) as told:
        read(part(b"[1,"), seconds=0)
    assert (told.value.status, told.value.code) == (408, "timeout")


def test_a_task_that_is_cancelled_by_others_is_no_refusal() -> None:
    async def cancelled() -> None:
        reading = asyncio.create_task(read_body(JSON, asyncio.Event().wait, 100))
        await asyncio.sleep(0)
        reading.cancel("the server ends")
        await reading

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_who_goes_away_is_not_answered() -> None:
    with pytest.raises(ClientDisconnect):
        read(part(b"[1,"), {"type": "http.disconnect"})


@pytest.mark.parametrize("count", [2, 200])
def test_too_large_a_body_is_refused(count: int) -> None:
    parts = [part(b" " * 60) for _ in range(count)]
    with pytest.raises(Refusal) as told:
        read(*parts, part(b"1", False))
    assert told.value.status == 413
