"""Requests are read, or refused with the parameter that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.prompts import prepared, steps_and_prompt
from tests.helpers.terminals import run
from tinyrwkv.chat.templates import TEMPLATES
from tinyrwkv.errors import TinyRWKVError
from tinyrwkv.serve.asked import Limits, Reader
from tinyrwkv.serve.job import PIECE, prepare
from tinyrwkv.serve.json_text import LEVELS, object_schema
from tinyrwkv.serve.refusal import Refusal, of_error
from tinyrwkv.serve.sessions import Sessions

MESSAGES = [{"role": "user", "content": "Hello"}]
OWN = {"temperature": 0.7, "top_p": 0.5, "max_tokens": 300}


@pytest.fixture(scope="module")
def reader() -> Reader:
    model = tinyrwkv.load(backend="numpy")
    return Reader(model, "robot", TEMPLATES["robot"], OWN, Limits(1000, 200))


def chat(reader: Reader, **values: Any) -> Any:
    return reader.chat({"model": "robot", "messages": MESSAGES, **values})


def test_what_is_left_out_is_as_the_model_likes_it(reader: Reader) -> None:
    asked = chat(reader)
    sampler = asked.sampler
    assert (sampler.temperature, sampler.top_p, sampler.seed) == (0.7, 0.5, None)
    assert (asked.max_tokens, asked.stop, asked.top) == (200, ["\n\n"], None)
    assert not asked.stream and not asked.usage and asked.constraint is None
    asked = reader.text({"model": "robot", "prompt": "a"})
    assert (asked.sampler.temperature, asked.sampler.top_p) == (1, 1)
    assert (asked.max_tokens, asked.stop, asked.prompt) == (16, [], "a")


def test_settings_reach_the_sampler(reader: Reader) -> None:
    numbers = {
        **{"temperature": 0.3, "top_p": 0.9, "presence_penalty": -1.5, "frequency_penalty": 1},
        **{"top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1, "penalty_decay": 0.5},
    }
    asked = chat(reader, **numbers, seed=-1, logit_bias={"5": -100, "0": 2.5}, stop="x")
    found = {name: getattr(asked.sampler, name) for name in numbers}
    assert found == numbers
    assert asked.sampler.seed == 2**64 - 1
    assert asked.sampler.logit_bias == {5: -100, 0: 2.5}
    assert asked.stop == ["\n\n", "x"]


def test_parameters_that_ask_for_nothing_are_taken(reader: Reader) -> None:
    neutral = {"n": 1, "store": False, "tools": [], "tool_choice": "none", "user": "me"}
    nothing = {"tools_of_another_kind": None, "logit_bias": None, "stop": None}
    asked = chat(reader, **neutral, **nothing, metadata={}, response_format={"type": "text"})
    assert asked.constraint is None


def test_the_later_name_of_the_most_tokens_counts(reader: Reader) -> None:
    assert chat(reader, max_completion_tokens=5).max_tokens == 5
    assert chat(reader, max_tokens=7, max_completion_tokens=5).max_tokens == 5
    assert chat(reader, max_tokens=7).max_tokens == 7


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"n": True}, "n", "unsupported_parameter"),
        ({"tools": [{}]}, "tools", "unsupported_parameter"),
        ({"audio": {}}, "audio", "unsupported_parameter"),
        ({"colour": 1}, "colour", "unknown_parameter"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_value"),
        ({"temperature": 10**400}, "temperature", "invalid_value"),
        ({"top_p": 1.5}, "top_p", "invalid_value"),
        ({"top_k": 1.5}, "top_k", "invalid_value"),
        ({"top_k": [1]}, "top_k", "invalid_value"),
        ({"presence_penalty": 1e5}, "presence_penalty", "invalid_value"),
        ({"seed": 2**64}, "seed", "invalid_value"),
        ({"seed": 1.0}, "seed", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 201}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": {"a": 1}}, "stop", "invalid_value"),
        ({"stop": ["a" * 5000]}, "stop", "invalid_value"),
        ({"logprobs": 1}, "logprobs", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logit_bias": [1]}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"\u0663": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"4096": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": "x"}}, "logit_bias.1", "invalid_value"),
        ({"logit_bias": {"1": 1e9}}, "logit_bias", "invalid_value"),
        ({"stream": 1}, "stream", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"response_format": "json"}, "response_format", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"contains": {}}},
                }
            },
            "response_format",
            "unsupported_value",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}},
            "response_format",
            "invalid_value",
        ),
    ],
)
def test_what_is_wrong_is_named(reader: Reader, values: Any, param: str, code: str) -> None:
    with pytest.raises(TinyRWKVError) as told:
        chat(reader, **values)
    refusal = of_error(told.value)
    assert (refusal.status, refusal.param, refusal.code) == (400, param, code)
    error = refusal.body["error"]
    assert error["type"] == "invalid_request_error" and error["message"].endswith(".")
    assert len(error["message"]) < 400


@pytest.mark.parametrize("prompt", [["a", "b"], [["a"]], [1, "a"], 3, [4096], [-1], {"a": 1}])
def test_a_prompt_is_one_text_or_one_list_of_tokens(reader: Reader, prompt: Any) -> None:
    with pytest.raises(Refusal) as told:
        reader.text({"model": "robot", "prompt": prompt})
    assert told.value.param == "prompt"


def test_a_prompt_may_stand_in_a_list(reader: Reader) -> None:
    for prompt, read in ((["a"], "a"), ([[1, 2]], [1, 2]), ([1, 2], [1, 2])):
        assert reader.text({"model": "robot", "prompt": prompt}).prompt == read


def test_only_the_model_that_is_here_answers(reader: Reader) -> None:
    for model in ("gpt", 1, ["robot"]):
        with pytest.raises(Refusal) as told:
            chat(reader, model=model)
        assert (told.value.status, told.value.code) == (404, "model_not_found")
    with pytest.raises(Refusal, match="model is missing"):
        reader.chat({"messages": MESSAGES})


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_value_of_any_parameter_is_taken_or_refused(reader: Reader, value: Any) -> None:
    names = ("messages", "stop", "seed", "logit_bias", "response_format", "top_logprobs", "n")
    for name in (*names, "stream_options", "temperature", "top_k", "max_tokens", "logprobs"):
        try:
            chat(reader, **{name: value})
        except TinyRWKVError as error:
            assert of_error(error).status == 400


@pytest.mark.parametrize("is_known", [False, True])
def test_a_prompt_may_have_so_many_tokens(reader: Reader, is_known: bool) -> None:
    model = reader.model
    system = {"role": "system", "content": "Be brief."}
    asked = chat(reader, messages=[system, *MESSAGES])
    encode = model.tokenizer.encode
    assert asked.conversation
    parts = [encode(segment) for segment in asked.conversation.segments]
    parts[0].insert(0, 0)
    sessions = Sessions(10**6 if is_known else 0)
    sessions.keep(asked.conversation.keys[0], model.forward(parts[0], logits=None)[1])
    size = sum(map(len, parts))
    prompt = prepared(asked, model, sessions, Limits(size))
    assert [tokens for tokens, _ in prompt.parts] == parts[is_known:]
    assert (prompt.known, prompt.state.tokens) == ((len(parts[0]),) * 2 if is_known else (0, 0))
    with pytest.raises(Refusal, match=f"more than {size - 1} tokens"):
        prepared(asked, model, sessions, Limits(size - 1))
    for text in ("a b c", encode("a b c")):
        asked = reader.text({"model": "robot", "prompt": text})
        size = 1 + len(encode("a b c"))
        prepared(asked, model, sessions, Limits(size))
        with pytest.raises(Refusal) as told:
            prepared(asked, model, sessions, Limits(size - 1))
        assert (told.value.param, told.value.code) == ("prompt", "context_length_exceeded")


def test_a_long_text_becomes_tokens_in_steps(reader: Reader) -> None:
    text = "ab " * PIECE
    asked = reader.text({"model": "robot", "prompt": text})
    count, prompt = steps_and_prompt(asked, reader.model, Sessions(0), Limits(10**6))
    tokens = reader.model.tokenizer.encode(text)
    assert prompt.parts == [([0, *tokens], b"")]
    assert count == (len(tokens) - 1) // PIECE > 0


def test_a_state_that_another_job_computes_is_waited_for(reader: Reader) -> None:
    answered = [*MESSAGES, {"role": "assistant", "content": "Hi"}, *MESSAGES]
    asked = chat(reader, messages=answered)
    sessions = Sessions(10**7)
    before = asked.conversation.keys[-2]
    sessions.expect(before)
    steps = prepare(asked, reader.model, sessions, Limits())
    for _ in range(3):
        next(steps)
    state = reader.model.forward([0, 1, 2], logits=None)[1]
    sessions.keep(before, state)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.state is state


def test_a_schema_is_prepared_once(reader: Reader) -> None:
    def constraint(*names: str) -> Any:
        properties = {name: {"type": "integer"} for name in names}
        schema = {"type": "object", "properties": properties, "required": list(names)}
        about = {"name": "x", "strict": True, "schema": schema}
        wanted = {"type": "json_schema", "json_schema": about}
        return chat(reader, response_format=wanted).constraint

    assert constraint("a", "b") is constraint("a", "b")
    assert constraint("a", "b") is not constraint("b", "a")
    assert constraint("a", "b").matches(' {"a": 1, "b": 2}')


leaves = (
    st.none() | st.booleans() | st.integers(1 - 10**9, 10**9 - 1) | st.text('aé\n"\\ ', max_size=5)
)


def nested(levels: int) -> st.SearchStrategy[Any]:
    inner = leaves if levels == 1 else leaves | nested(levels - 1)
    return st.dictionaries(st.text("ab", max_size=2), inner, max_size=2) | st.lists(
        inner, max_size=2
    )


@pytest.fixture(scope="module")
def any_object() -> tinyrwkv.JsonSchema:
    return tinyrwkv.JsonSchema(object_schema())


@given(nested(LEVELS))
@settings(max_examples=30)
def test_any_object_is_an_answer_in_json(any_object: tinyrwkv.JsonSchema, value: Any) -> None:
    is_object = isinstance(value, dict)
    assert any_object.matches(json.dumps(value, ensure_ascii=False)) == is_object


def test_what_is_missing_is_named() -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from tinyrwkv.cli.cli import main; "
    done = run("-c", code + "sys.exit(main(['serve', '--port', '0']))")
    assert done.returncode == 1
    assert done.stderr == (
        "tinyrwkv: serve needs the package uvicorn, which is not installed; "
        "pip install starlette uvicorn\n"
    )
