"""The addresses of the server, and what happens to a request to each of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import TinyRWKVError
from .answers import ChatForm, Form, TextForm
from .asked import Asked, Reader
from .body import ClientDisconnect, read_body
from .guard import Guard
from .job import Delta, End, Event, Job
from .parse import parse
from .places import Places
from .refusal import Refusal, failure, of_error
from .sessions import Sessions
from .worker import Worker

LOG = logging.getLogger(__name__)

MOST_READ = 64
"""Requests whose bodies may be read at a time; bounds the memory for them."""

LIGHT = 32_768
"""Bytes up to which a request is understood in the thread of the event loop.

This takes a millisecond or two, and the way to another thread and back a quarter of one.
"""

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; connect-src *; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Service:
    """All that answers requests.

    Attributes
    ----------
    reader : Reader
    worker : Worker
    sessions : Sessions
    guard : Guard
    queue : int
        Requests that may wait or be answered at a time.
    body : int
        Bytes of a request.
    page : bytes or None
        What a browser sees at ``/``.
    origins : sequence of str
        Pages elsewhere that may ask; "*" for all.
    """

    reader: Reader
    worker: Worker
    sessions: Sessions
    guard: Guard
    queue: int = 16
    body: int = 1 << 20
    page: bytes | None = None
    origins: Sequence[str] = ()


def make_app(service: Service) -> Starlette:
    """Return the ASGI application."""
    reader = service.reader
    places = Places(service.queue, 429, "too many requests wait for an answer")
    reading = Places(MOST_READ, 503, "too many requests are being read")

    def answers(read: Callable[[Any], Asked], form: type[Form]) -> Answers:
        return Answers(service, places, reading, read, form)

    models = Models(service)
    routes = [
        Route("/v1/chat/completions", answers(reader.chat, ChatForm), methods=["POST"]),
        Route("/v1/completions", answers(reader.text, TextForm), methods=["POST"]),
        Route("/v1/models", models.all, methods=["GET"]),
        Route("/v1/models/{name:path}", models.one, methods=["GET"]),
    ]
    if service.page is not None:
        page = Response(service.page, media_type="text/html", headers=PAGE_HEADERS)
        routes.append(Route("/", lambda request: page, methods=["GET"]))
    middleware = []
    if service.origins:
        allowed = {"allow_origins": list(service.origins), "allow_methods": ["GET", "POST"]}
        middleware.append(Middleware(CORSMiddleware, allow_headers=["*"], **allowed))
    handlers = {Refusal: _refused, HTTPException: _not_here, Exception: _failed}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


def _refused(request: Request, refusal: Refusal) -> Response:
    return _json(refusal.body, refusal.status, refusal.headers)


def _not_here(request: Request, error: HTTPException) -> Response:
    """Answer what Starlette itself refuses: unknown addresses and methods."""
    path = ascii(request.url.path)[1:-1][:80]
    if error.status_code == 405:
        sentence = f"{path} does not take {ascii(request.method)[1:-1][:20]}"
    else:
        sentence = f"there is nothing at {path}"
    what = (path, "an address of this server", "see docs/serve.md", sentence)
    refusal = Refusal(error.status_code, None, *what, "unknown_url")
    return _json(refusal.body, error.status_code, error.headers or {})


def _failed(request: Request, error: Exception) -> Response:
    return _json(failure().body, 500, {})


def _json(told: Any, status: int = 200, headers: Any = None) -> Response:
    return Response(json.dumps(told), status, headers, "application/json")


class Models:
    """Answers which models there are."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._created = int(time.time())

    async def all(self, request: Request) -> Response:
        """Return the list of the one model."""
        self._service.guard.check(request.headers)
        return _json({"object": "list", "data": [self._told()]})

    async def one(self, request: Request) -> Response:
        """Return the model, if it is the one that is asked for."""
        self._service.guard.check(request.headers)
        self._service.reader.check_name(request.path_params["name"])
        return _json(self._told())

    def _told(self) -> dict[str, Any]:
        name = self._service.reader.name
        return {"id": name, "object": "model", "created": self._created, "owned_by": "tinyrwkv"}


class Answers:
    """Answers one kind of request; an ASGI application.

    Parameters
    ----------
    service : Service
    places : Places
        For requests that wait or are answered.
    reading : Places
        For requests whose bodies are read.
    read : callable
        Returns what a request asks for.
    form : type of Form
    """

    def __init__(
        self,
        service: Service,
        places: Places,
        reading: Places,
        read: Callable[[Any], Asked],
        form: type[Form],
    ) -> None:
        self._service = service
        self._places = places
        self._reading = reading
        self._read = read
        self._form = form

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request; raise a Refusal before anything is sent if that is impossible."""
        headers = Headers(scope=scope)
        self._service.guard.check(headers)
        try:
            with self._reading.one():
                data = await read_body(headers, receive, self._service.body)
        except ClientDisconnect:
            return
        with self._places.one():
            await self._answer(data, scope, receive, send)

    async def _answer(self, data: bytes, scope: Any, receive: Any, send: Any) -> None:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | None] = asyncio.Queue()

        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(events.put_nowait, event)

        asked = await self._understand(data)
        reader = self._service.reader
        job = Job(asked, reader.model, self._service.sessions, reader.limits, tell)
        self._service.worker.start(job)
        watcher = asyncio.create_task(_watch(receive, events))
        # The form is made later: now the model's thread waits for Python's lock.
        make_form = functools.partial(self._form, reader.name, asked.top is not None)
        is_over = False
        try:
            answer = _stream if asked.stream else _whole
            is_over = await answer(asked, make_form, events, scope, receive, send)
        finally:
            watcher.cancel()
            if not is_over:
                job.cancel()

    async def _understand(self, data: bytes) -> Asked:
        """Return what a request asks for, in another thread if this may take a while."""
        is_light = len(data) <= LIGHT
        told = parse(data) if is_light else await run_in_threadpool(parse, data)
        if is_light and not (isinstance(told, dict) and told.get("response_format")):
            return self._check(told)
        return await run_in_threadpool(self._check, told)  # a schema may take seconds

    def _check(self, told: Any) -> Asked:
        try:
            return self._read(told)
        except TinyRWKVError as error:
            raise of_error(error) from None
        except RecursionError:
            what = ("many levels", "fewer", "flatten it", "the request has too many levels")
            raise Refusal(400, None, *what, "invalid_json") from None


async def _watch(receive: Any, events: asyncio.Queue[Event | None]) -> None:
    """Tell, by None, when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    events.put_nowait(None)


async def _whole(
    asked: Asked, make_form: Callable[[], Form], events: Any, scope: Any, receive: Any, send: Any
) -> bool:
    """Send an answer as a whole; tell whether it came to its end."""
    deltas: list[Delta] = []
    while isinstance(event := await events.get(), Delta):
        deltas.append(event)
    if event is None:
        return False
    if isinstance(event, Refusal):
        raise event
    await _json(make_form().whole(deltas, event))(scope, receive, send)
    return True


async def _stream(
    asked: Asked, make_form: Callable[[], Form], events: Any, scope: Any, receive: Any, send: Any
) -> bool:
    """Send an answer piece by piece, as server-sent events; tell whether it came to its end."""
    event = await events.get()
    if event is None:
        return False
    if isinstance(event, Refusal):
        raise event

    async def write(data: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    def line(told: dict[str, Any]) -> bytes:
        if asked.usage:
            told = {"usage": None, **told}
        return b"data: " + json.dumps(told).encode() + b"\n\n"

    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    form = make_form()
    # While the model reads the prompt, the client can take in how the response begins.
    await write(b"".join(map(line, form.begin())))
    while isinstance(event := await events.get(), Delta):
        await write(line(form.piece(event)))
    if isinstance(event, End):
        data = line(form.end(event))
        if asked.usage:
            data += line(form.usage(event))
        await write(data + b"data: [DONE]\n\n", more=False)
        return True
    if event is not None:
        await write(b"data: " + json.dumps(event.body).encode() + b"\n\n", more=False)
    return False
