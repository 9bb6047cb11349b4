"""The server and the official client: answers, streams, limits, those who leave, hostile bytes."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest

import tinyrwkv
from tests.helpers.servers import WHY_NOT, Server
from tests.helpers.talkers import LOOP, write_talker
from tests.helpers.terminals import run

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
if not WHY_NOT:
    import openai

QUESTION = "What do you like to do for fun?"
GREEDY = {"temperature": 0, "presence_penalty": 0, "frequency_penalty": 0}


def said(*texts: str) -> Any:
    """Return messages of the user and the assistant by turns."""
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Start a server of the bundled model."""
    with Server() as started:
        yield started


@pytest.fixture(scope="module", params=[(), ("httptools", "uvloop")], ids=["fast", "plain"])
def either(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Start a server with what is installed, and one with what uvicorn needs alone."""
    with Server(without=request.param) as started:
        yield started


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model whose answer has no end."""
    return write_talker(tmp_path_factory.mktemp("endless") / "m.trwkv", LOOP, template="robot")


@pytest.fixture
def ask(server: Server) -> Any:
    """Ask the bundled model: ``ask(*texts, **parameters)``."""
    create = server.client().chat.completions.create

    def call(*texts: str, **values: Any) -> Any:
        return create(model=server.name, messages=said(*texts), **{**GREEDY, **values})

    return call


def alone(prompt: str, most: int = 60, **settings: Any) -> str:
    """Return what the model says without a server."""
    sampler = tinyrwkv.Sampler(**{"temperature": 0, **settings})
    return tinyrwkv.load().generate(prompt, sampler=sampler, max_tokens=most, stop="\n\n").text()


# Answers


def test_there_is_one_model(server: Server) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == [server.name] == ["default"]
    assert client.models.retrieve("default").owned_by == "tinyrwkv"
    with pytest.raises(openai.NotFoundError) as told:
        client.models.retrieve("gpt")
    assert told.value.code == "model_not_found"


def test_an_answer_is_what_the_model_says(ask: Any) -> None:
    answer = ask(QUESTION, max_tokens=60)
    expected = alone(f"User: {QUESTION}\n\nAssistant:")
    assert answer.choices[0].message.content == expected.strip() != ""
    assert answer.choices[0].finish_reason == "stop"
    count = len(tinyrwkv.load().tokenizer.encode(f"User: {QUESTION}\n\nAssistant:"))
    assert answer.usage.prompt_tokens == 1 + count
    assert answer.usage.total_tokens == 1 + count + answer.usage.completion_tokens
    short = ask(QUESTION, max_completion_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)


def test_a_stream_is_the_answer_in_pieces(ask: Any) -> None:
    whole = ask(QUESTION).choices[0].message.content
    chunks = list(ask(QUESTION, stream=True, stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole
    assert sum(bool(piece.choices[0].delta.content) for piece in pieces) > 3
    assert pieces[0].choices[0].delta.role == "assistant"
    reasons = [piece.choices[0].finish_reason for piece in pieces]
    assert reasons == [None] * (len(pieces) - 1) + ["stop"]
    assert last.choices == [] and last.usage.completion_tokens > 3
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(piece.usage is None for piece in pieces)


def test_a_stream_ends_with_done(server: Server) -> None:
    body = json.dumps({"model": "default", "messages": said("turn left"), "stream": True})
    headers = {"Content-Type": "application/json"}
    with closing(server.connection()) as connection:
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "text/event-stream"
        *events, rest = response.read().split(b"\n\n")
    assert rest == b"" and events[-1] == b"data: [DONE]"
    told = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert "usage" not in told[0]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in told) == "turn(90)"


def test_a_text_is_continued_as_it_is(server: Server) -> None:
    create = server.client().completions.create
    prompt = "User: turn left\n\nAssistant:"
    answer = create(model="default", prompt=prompt, temperature=0, stop=["\n\n"], logprobs=2)
    choice = answer.choices[0]
    assert choice.text == " turn(90)" == alone(prompt)
    assert choice.finish_reason == "stop"
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    ends = [
        begin + len(token)
        for begin, token in zip(logprobs.text_offset, logprobs.tokens, strict=True)
    ]
    assert logprobs.text_offset == [0, *ends[:-1]]
    assert all(len(top) == 2 for top in logprobs.top_logprobs)
    tokens = tinyrwkv.load().tokenizer.encode(prompt)
    stream = create(model="default", prompt=tokens, temperature=0, stop="\n", stream=True)
    assert "".join(piece.choices[0].text for piece in stream) == " turn(90)"


def test_logprobs_stand_beside_the_text(ask: Any) -> None:
    values = {"logprobs": True, "top_logprobs": 3, "max_tokens": 40}
    choice = ask(QUESTION, **values).choices[0]
    entries = choice.logprobs.content
    data = b"".join(bytes(entry.bytes) for entry in entries)
    assert data.decode().strip() == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token  # it is greedy
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-6)
    streamed = [
        entry
        for piece in ask(QUESTION, stream=True, **values)
        for entry in (piece.choices[0].logprobs.content if piece.choices[0].logprobs else [])
    ]
    assert [entry.model_dump() for entry in streamed] == [entry.model_dump() for entry in entries]


def test_settings_of_the_sampler_count(ask: Any) -> None:
    settings = {"temperature": 1.2, "top_p": 0.9, "frequency_penalty": 0.5, "seed": 11}
    prompt = f"User: {QUESTION}\n\nAssistant:"
    found = ask(QUESTION, max_tokens=60, **settings).choices[0].message.content
    assert found == alone(prompt, **settings).strip()
    assert found == ask(QUESTION, max_tokens=60, **settings).choices[0].message.content
    first = tinyrwkv.load().tokenizer.encode(alone(prompt))[0]
    other = ask(QUESTION, logit_bias={str(first): -100}).choices[0].message.content
    assert other != alone(prompt).strip()
    stopped = ask(QUESTION, stop=[" "]).choices[0]
    assert stopped.finish_reason == "stop" and " " not in stopped.message.content


# Answers of a given form

PLACE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "floor": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["name", "floor"],
    "additionalProperties": False,
}


def in_schema(schema: Any) -> Any:
    about = {"name": "place", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": about}


def test_an_answer_keeps_to_a_schema(ask: Any) -> None:
    for seed in range(3):
        answer = ask("Where?", response_format=in_schema(PLACE), seed=seed, temperature=1)
        told = json.loads(answer.choices[0].message.content)
        assert list(told) == ["name", "floor"]
        assert 0 <= told["floor"] <= 9 and len(told["name"]) <= 10
        assert answer.choices[0].finish_reason == "stop"


def test_an_answer_may_be_any_object(ask: Any) -> None:
    # Quotes and braces are made likely, so that a text that means nothing comes to its end.
    encode = tinyrwkv.load().tokenizer.encode
    bias = {str(encode(text)[0]): 8 for text in ('"', "}", '":', '"}')}
    values = {"response_format": {"type": "json_object"}, "temperature": 1, "logit_bias": bias}
    found = []
    for seed in range(8):
        choice = ask("{}", seed=seed, max_tokens=200, **values).choices[0]
        assert choice.message.content.startswith("{")
        if choice.finish_reason == "stop":
            found.append(json.loads(choice.message.content))
    assert any(found) and all(isinstance(one, dict) for one in found)


def test_a_schema_that_is_not_understood_is_refused(ask: Any) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        ask("Where?", response_format=in_schema({"contains": {}}))
    assert (told.value.param, told.value.code) == ("response_format", "unsupported_value")
    with pytest.raises(openai.BadRequestError) as told:
        ask("Where?", n=2)
    assert (told.value.param, told.value.type) == ("n", "invalid_request_error")


# Conversations that go on


def test_a_follow_up_turn_reads_only_its_new_tokens(server: Server, ask: Any) -> None:
    opening = "Do you know any good jokes?"
    first = ask(opening)
    answer = first.choices[0].message.content
    second = ask(opening, answer, "Why?")
    usage = second.usage
    known = usage.prompt_tokens_details.cached_tokens
    encode = tinyrwkv.load().tokenizer.encode
    ahead = len(encode("\n\nUser: "))  # read before the turn
    assert ahead == 2
    assert usage.prompt_tokens - known == len(encode("Why?\n\nAssistant:"))
    assert known == first.usage.prompt_tokens + len(encode(" " + answer)) + ahead
    with Server() as other:  # it has to read all of it
        create = other.client().chat.completions.create
        fresh = create(model="default", messages=said(opening, answer, "Why?"), **GREEDY)
    assert fresh.usage.prompt_tokens_details.cached_tokens == 0
    assert fresh.usage.prompt_tokens == usage.prompt_tokens
    assert fresh.choices[0].message.content == second.choices[0].message.content
    with Server("--sessions", "0") as other:  # it keeps nothing
        create = other.client().chat.completions.create
        for _ in range(2):
            told = create(model="default", messages=said(opening, answer, "Why?"), **GREEDY)
            assert told.usage.prompt_tokens_details.cached_tokens == 0


def test_an_answer_in_unusual_tokens_is_known_too(tmp_path: pathlib.Path) -> None:
    """The model says "so" in two tokens, the tokenizer in one."""
    path = write_talker(
        *(tmp_path / "m.trwkv", (b":", b" s", b"o", b" on", b"\n\n"), (b" so", b" so")),
        template="robot",
    )
    encode = tinyrwkv.load(path).tokenizer.encode
    with Server(path) as server:
        create = server.client().chat.completions.create
        for _ in range(3):
            first = create(model="m", messages=said("a"), **GREEDY)
            assert first.choices[0].message.content == "so on"
            messages = said("a", "so on", "b")
            for _ in range(2):
                second = create(model="m", messages=messages, **GREEDY)
                known = second.usage.prompt_tokens_details.cached_tokens
                read = len(encode(" so on")) + len(encode("\n\nUser:"))  # " s" may follow
                assert known == first.usage.prompt_tokens + read


def test_a_system_text_is_read_once(ask: Any, server: Server) -> None:
    create = server.client().chat.completions.create
    known = []
    for question in ("Who are you?", "What is that?"):
        messages = [{"role": "system", "content": "You like tea."}, *said(question)]
        told = create(model="default", messages=messages, max_tokens=2)
        known.append(told.usage.prompt_tokens_details.cached_tokens)
    count = len(tinyrwkv.load().tokenizer.encode("System: You like tea.\n\n"))
    assert known == [0, 1 + count]


# Many clients


def test_eight_clients_get_the_texts_that_they_get_alone(ask: Any) -> None:
    questions = [f"What would you do with {number} apples?" for number in range(8)]

    def answer(question: str) -> str:
        values = {"temperature": 1, "seed": len(question), "max_tokens": 60}
        pieces = ask(question, stream=True, **values)
        return "".join(piece.choices[0].delta.content or "" for piece in pieces)

    expected = [answer(question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, questions)) == expected


def test_clients_take_turns(endless: str) -> None:
    with Server(endless, "--max-tokens", "1000000") as server:
        create = server.client().chat.completions.create
        long = create(model="m", messages=said("a"), max_tokens=1_000_000, stream=True)
        next(iter(long))
        short = create(model="m", messages=said("a"), max_tokens=3)
        assert short.usage.completion_tokens == 3
        long.close()


def is_free(server: Server, seconds: float = 20) -> bool:
    """Tell whether a server with one place takes a request before long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            create = server.client().chat.completions.create
            create(model="m", messages=said("a"), max_tokens=1)
            return True
        except openai.RateLimitError:
            time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def narrow(endless: str) -> Iterator[Server]:
    """Start a server with one place, whose answers have no end."""
    with Server(endless, "--queue", "1", "--max-tokens", "100000000") as started:
        yield started


def test_a_client_that_leaves_ends_its_answer(narrow: Server) -> None:
    client = narrow.client(timeout=0.5)
    endless = {"model": "m", "messages": said("a"), "max_tokens": 100_000_000}
    stream = client.chat.completions.create(**endless, stream=True)
    next(iter(stream))
    assert not is_free(narrow, 0.2)
    stream.close()
    assert is_free(narrow)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**endless)
    assert is_free(narrow)
    with pytest.raises(openai.APITimeoutError):  # while it reads the prompt
        hasty = narrow.client(timeout=0.1)
        hasty.chat.completions.create(**{**endless, "messages": said("word " * 3000)})
    assert is_free(narrow)


def test_who_comes_too_late_may_come_again(narrow: Server) -> None:
    create = narrow.client().chat.completions.create
    stream = create(model="m", messages=said("a"), max_tokens=100_000_000, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as told:
        create(model="m", messages=said("a"))
    assert int(told.value.response.headers["Retry-After"]) > 0
    assert told.value.code == "too_many_requests"
    stream.close()
    assert is_free(narrow)


# What is refused


ASKED = b'{"model": "default", "messages": [{"role": "user", "content": "a"}]'

HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "invalid_json"),
    "half": (b"{", "invalid_json"),
    "deep lists": (b"[" * 100_000, "invalid_json"),
    "deep objects": (b'{"a":' * 50_000, "invalid_json"),
    "no number": (b'{"model": NaN}', "invalid_json"),
    "many digits": (b'{"seed": ' + b"9" * 10_000 + b"}", "invalid_json"),
    "no UTF-8": (b'{"model": "\xff"}', "invalid_json"),
    "UTF-16": ('{"model": "default"}'.encode("utf-16"), "invalid_json"),
    "a list": (b"[]", "invalid_value"),
    "null": (b"null", "invalid_value"),
    "no model": (b"{}", "missing_required_parameter"),
    "no messages": (b'{"model": "default"}', "missing_required_parameter"),
    "half a character": (ASKED.replace(b'"a"', b'"\\ud800"') + b"}", "invalid_value"),
    "half a character's name": (ASKED + b', "\\ud800": 1}', "unknown_parameter"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_refused(server: Server, name: str) -> None:
    body, code = HOSTILE[name]
    status, told, _ = server.ask(body)
    assert status == 400
    assert told["error"]["type"] == "invalid_request_error"
    assert told["error"]["code"] == code
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert len(told["error"]["message"]) < 400


def test_deep_json_in_a_schema_is_refused(server: Server) -> None:
    schema: Any = {"type": "integer"}
    for _ in range(300):
        schema = {"type": "array", "items": schema}
    messages = said("a")
    body = {"model": "default", "messages": messages, "response_format": in_schema(schema)}
    status, told, _ = server.ask(json.dumps(body))
    assert (status, told["error"]["param"]) == (400, "response_format")


def test_a_huge_body_is_refused(server: Server) -> None:
    with pytest.raises(openai.APIStatusError) as told:
        server.client().chat.completions.create(model="default", messages=said("a" * 2_000_000))
    assert (told.value.status_code, told.value.code) == (413, "request_too_large")
    part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with closing(server.connection()) as connection:
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(20):
            connection.send(part)
        connection.send(b"0\r\n\r\n")
        with closing(connection.getresponse()) as response:
            assert response.status == 413


def test_a_long_prompt_is_refused(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        server.client().chat.completions.create(model="default", messages=said("a b " * 20_000))
    assert (told.value.param, told.value.code) == ("messages", "context_length_exceeded")


def test_a_page_elsewhere_is_refused(server: Server) -> None:
    body = json.dumps({"model": "default", "messages": said("a")})
    status, told, _ = server.ask(body, Content_Type="text/plain")
    assert (status, told["error"]["code"]) == (415, "unsupported_media_type")
    status, told, headers = server.ask(body, Host="evil.example", Origin="http://evil.example")
    assert (status, told["error"]["code"]) == (403, "wrong_host")
    assert "Access-Control-Allow-Origin" not in headers
    assert server.ask(body, Host="localhost:1")[0] == 200


def test_other_addresses_are_refused(server: Server) -> None:
    assert server.ask("{}", "/v1/embeddings")[0] == 404
    status, told, headers = server.ask("{}", "/v1/models")
    assert (status, told["error"]["code"]) == (405, "unknown_url")
    assert "GET" in headers["Allow"]
    assert server.ask("{}", "/")[0] == 404  # there is no page unless it is asked for


def test_bytes_that_are_not_http_do_no_harm(server: Server, ask: Any) -> None:
    place = server.connection()
    for data in (b"\0" * 1000, b"GET /\xff HTTP/9\r\n\r\n", b"POST / HTTP/1.1\r\n" * 1000):
        with socket.create_connection((place.host, place.port), 10) as connection:
            connection.sendall(data)
            with suppress(ConnectionError):
                connection.recv(1000)
    assert ask("turn left").choices[0].message.content == "turn(90)"


def test_what_is_installed_besides_changes_no_answer(either: Server) -> None:
    create = either.client().chat.completions.create
    values = {"model": either.name, "messages": said(QUESTION), **GREEDY}
    whole: Any = create(**values)
    said_before = alone(f"User: {QUESTION}\n\nAssistant:").strip()
    assert whole.choices[0].message.content == said_before
    pieces: Any = create(**values, stream=True)
    assert "".join(one.choices[0].delta.content or "" for one in pieces) == said_before


POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("begin", "part"),
    [
        (b"GET /", b"a" * 0x10000),
        (POST + b"a: ", b"a" * 0x10000),
        (POST, b"a: b\r\n" * 0x2000),
        (POST + b"Transfer-Encoding: chunked\r\n\n2\r\n{}\r\n0\r\n", b"a: b\r\n" * 0x2000),
        (POST + b"Transfer-Encoding: chunked\r\n\n2\r\n{}\r\n0\r\na: ", b"a" * 0x10000),
    ],
    ids=["address", "header", "headers", "trailers", "trailer"],
)
def test_headers_without_an_end_are_refused(either: Server, begin: bytes, part: bytes) -> None:
    place = either.connection()
    with socket.create_connection((place.host, place.port), 30) as connection:
        with suppress(ConnectionError):  # then the server has ended the connection
            connection.sendall(begin)
            for _ in range(64):
                connection.sendall(part)
            assert connection.recv(1000)[:12] in (b"HTTP/1.1 400", b"")


def test_only_those_with_the_key_are_answered(tmp_path: pathlib.Path) -> None:
    key = tmp_path / "key.txt"
    key.write_text("secret-7\n")
    arguments = ("--api-key-file", str(key), "--cors", "https://example.com")
    with Server(*arguments, "--name", "robot") as server:
        for given in ("secret-8", "secret", "secret-77"):
            with pytest.raises(openai.AuthenticationError) as told:
                server.client(given).models.list()
            assert told.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                server.client(given).chat.completions.create(model="robot", messages=said("a"))
        assert server.ask("{}")[0] == 401
        assert server.client("secret-7").models.list().data[0].id == "robot"
        # With a key, other names may lead here, and those pages may ask that were named.
        headers = {"Authorization": "Bearer secret-7", "Host": "robot.local"}
        body = json.dumps({"model": "robot", "messages": said("a"), "max_tokens": 1})
        status, _, told_headers = server.ask(body, Origin="https://example.com", **headers)
        assert status == 200
        assert told_headers["Access-Control-Allow-Origin"] == "https://example.com"
        _, _, told_headers = server.ask(body, Origin="https://evil.example", **headers)
        assert "Access-Control-Allow-Origin" not in told_headers


# The beginning and the end


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for processes")
def test_ctrl_c_ends_the_server_and_all_answers(endless: str) -> None:
    with Server(endless, "--max-tokens", "100000000") as server:
        create = server.client().chat.completions.create
        values = {"model": "m", "messages": said("a"), "max_tokens": 100_000_000}
        stream = iter(create(**values, stream=True))
        next(stream)
        errors: list[Exception] = []

        def wait() -> None:
            try:
                create(**values)
            except openai.APIError as error:
                errors.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.3)
        begin = time.monotonic()
        status, notes = server.interrupt()
        assert (status, notes.strip()) == (130, "tinyrwkv: interrupted")
        assert time.monotonic() - begin < 4
        with pytest.raises(openai.APIError, match="ending"):
            for _ in stream:
                pass
        waiting.join(10)
        (error,) = errors
        assert isinstance(error, openai.InternalServerError) and error.status_code == 503
        assert "Retry-After" in error.response.headers


def test_a_port_in_use_is_a_sentence(server: Server) -> None:
    port = str(server.connection().port)
    done = run("-m", "tinyrwkv", "serve", "--port", port)
    assert done.returncode == 1
    assert done.stderr == (
        f"tinyrwkv: port {port} of 127.0.0.1 is in use; "
        "end the program that uses it, or give another: --port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "99999"), "the port must be a whole number from 0 to 65,535, not 99999"),
        (("--host", "203.0.113.1"), "cannot listen at port 0 of 203.0.113.1"),
        (("--queue", "0"), "--queue is 0, but must be 1 or more"),
        (("--api-key-file", "/nowhere/key"), "no such file: /nowhere/key"),
        (("--api-key-file", os.devnull), "must be a file with a line of printable ASCII"),
        (("--template", "chatt"), "did you mean chat?"),
        (("--page", "/nowhere.html"), "no such file: /nowhere.html"),
        (("/nowhere.trwkv",), "no such file: /nowhere.trwkv"),
    ],
)
def test_a_server_that_cannot_start_says_why(arguments: tuple[str, ...], words: str) -> None:
    port = () if "--port" in arguments else ("--port", "0")
    done = run("-m", "tinyrwkv", "serve", *port, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("tinyrwkv: ") and words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_all_who_can_ask_are_told_of(tmp_path: pathlib.Path) -> None:
    with Server("--host", "0.0.0.0") as server:
        status, notes = server.interrupt()
    assert status == 130 and "without an API key" in notes
