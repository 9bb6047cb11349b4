"""A model that thinks before it answers, asked through the server."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyrwkv
from tests.helpers.prompts import prepared
from tests.helpers.servers import WHY_NOT, Server
from tests.helpers.talkers import ANSWER, THOUGHT, write_talker
from tinyrwkv.chat.templates import TEMPLATES
from tinyrwkv.errors import TinyRWKVError
from tinyrwkv.serve.answers import ChatForm
from tinyrwkv.serve.asked import Limits, Reader
from tinyrwkv.serve.job import Job
from tinyrwkv.serve.refusal import of_error
from tinyrwkv.serve.sessions import Sessions

OWN = {"temperature": 0, "max_tokens": 30, "max_thought": 20}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model that thinks."""
    folder: pathlib.Path = tmp_path_factory.mktemp("thinker")
    return write_talker(folder / "m.trwkv", THOUGHT, ANSWER, template="think")


@pytest.fixture(scope="module")
def reader(path: str) -> Callable[..., Reader]:
    """Make readers for a template: ``reader(name)``."""
    model = tinyrwkv.load(path, backend="numpy")
    return lambda name: Reader(model, "m", TEMPLATES[name], OWN, Limits(1000, 200))


def said(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


class Asking:
    """Asks without a network; the conversations go on."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.sessions = Sessions(10**8)

    def events(self, *texts: str, **values: Any) -> list[Any]:
        asked = self.reader.chat({"model": "m", "messages": said(*texts), **values})
        told: list[Any] = []
        reader = self.reader
        for _ in Job(asked, reader.model, self.sessions, reader.limits, told.append).turns():
            pass
        return told

    def __call__(self, *texts: str, **values: Any) -> Any:
        *deltas, end = self.events(*texts, **values)
        form = ChatForm("m", bool(values.get("logprobs")))
        whole: Any = form.whole(deltas, end)
        pieces: Any = [form.piece(delta)["choices"][0]["delta"] for delta in deltas]
        for key in ("content", "reasoning_content"):
            joined = "".join(piece.get(key, "") for piece in pieces)
            assert joined == whole["choices"][0]["message"].get(key, "")
        assert all(len(piece) == 1 for piece in pieces)
        return whole


def test_a_thought_is_told_apart(reader: Callable[..., Reader]) -> None:
    told = Asking(reader("think"))("price?")
    assert told["choices"][0]["message"] == {
        **{"role": "assistant", "content": "€5. Yes", "refusal": None},
        "reasoning_content": "A café may be.",
    }
    assert told["choices"][0]["finish_reason"] == "stop"
    encode = reader("think").model.tokenizer.encode
    turn, opening = encode("User: price?\n\nAssistant:"), encode(" <think")
    usage = told["usage"]
    assert usage["prompt_tokens"] == 1 + len(turn) + len(opening)
    assert usage["completion_tokens"] == 7 + 5
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 8}


@pytest.mark.parametrize(
    ("name", "values"),
    [("think-fast", {}), ("think", {"max_thought": 0}), ("think", {"reasoning_effort": "none"})],
    ids=["fast", "zero", "none"],
)
def test_no_thought(reader: Callable[..., Reader], name: str, values: Any) -> None:
    told = Asking(reader(name))("price?", **values)
    message = told["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "€5. Yes", "refusal": None}
    assert told["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}


def test_a_thought_counts_among_the_tokens(reader: Callable[..., Reader]) -> None:
    told = Asking(reader("think"))("price?", max_tokens=5)
    message = told["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("", "A café may")
    assert told["choices"][0]["finish_reason"] == "length"
    assert told["usage"]["completion_tokens"] == 5


def test_a_thought_that_is_cut_leaves_the_answer(reader: Callable[..., Reader]) -> None:
    message = Asking(reader("think"))("price?", max_thought=2)["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("€5. Yes", "A caf")


def test_stop_and_logprobs_are_about_the_answer(reader: Callable[..., Reader]) -> None:
    told = Asking(reader("think"))("price?", stop=["caf", " Yes"], logprobs=True)
    choice = told["choices"][0]
    assert choice["message"]["content"] == "€5."
    tokens = [bytes(one["bytes"]) for one in choice["logprobs"]["content"]]
    assert tokens == [b"\xe2", b"\x82\xac", b"5."]


def test_a_conversation_goes_on_without_its_thoughts(reader: Callable[..., Reader]) -> None:
    asking = Asking(reader("think"))
    asking("price?")
    more = said("price?", "€5. Yes", "and?")
    more[1]["reasoning_content"] = "A café may be."  # some clients send it back
    asked = asking.reader.chat({"model": "m", "messages": more})
    prompt = prepared(asked, asking.reader.model, asking.sessions, asking.reader.limits)
    text = "User: price?\n\nAssistant:"
    tokens = [0, *map(int, asking.reader.model.tokenizer.encode(text))]
    tokens += asking.reader.model.tokenizer.encode(" €5. Yes")
    tokens += asking.reader.model.tokenizer.encode("\n\nUser:")  # read ahead
    _, state = asking.reader.model.forward(tokens, None, logits=None)
    assert prompt.known == len(tokens) == prompt.state.tokens
    np.testing.assert_allclose(prompt.state.data, state.data, rtol=1e-4, atol=1e-4)


def test_a_format_is_about_the_answer(reader: Callable[..., Reader]) -> None:
    schema = {"type": "integer", "minimum": 5, "maximum": 5}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    for name in ("think", "think-fast"):
        told = Asking(reader(name))("price?", response_format=form)
        assert told["choices"][0]["message"]["content"] == "5"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("think", {"max_thought": -1}),
        ("think", {"max_thought": 201}),
        ("think", {"reasoning_effort": "high"}),
        ("chat", {"max_thought": 5}),
    ],
)
def test_what_is_wrong_is_named(reader: Callable[..., Reader], name: str, values: Any) -> None:
    with pytest.raises(TinyRWKVError) as told:
        Asking(reader(name))("price?", **values)
    assert of_error(told.value).param == next(iter(values))


def test_a_model_that_does_not_think_tells_no_thought(reader: Callable[..., Reader]) -> None:
    told = Asking(reader("chat"))("price?")
    assert "reasoning_content" not in told["choices"][0]["message"]
    assert "completion_tokens_details" not in told["usage"]


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_the_official_client(path: str) -> None:
    asked: Any = {"model": "m", "messages": said("price?"), "temperature": 0}
    with Server(path) as server:
        create = server.client().chat.completions.create
        whole: Any = create(**asked)
        message = whole.choices[0].message
        assert (message.content, message.reasoning_content) == ("€5. Yes", "A café may be.")
        assert whole.usage.completion_tokens_details.reasoning_tokens == 8
        thought, text = "", ""
        for piece in create(**asked, stream=True):
            delta: Any = piece.choices[0].delta
            thought += getattr(delta, "reasoning_content", None) or ""
            text += delta.content or ""
        assert (thought, text) == ("A café may be.", "€5. Yes")
