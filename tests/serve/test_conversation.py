"""Conversations in OpenAI's form become the texts of a template."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyrwkv
from tinyrwkv.chat.chat import Chat
from tinyrwkv.chat.templates import TEMPLATES
from tinyrwkv.serve.conversation import Conversation, arrange, read_messages
from tinyrwkv.serve.refusal import Refusal


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def segments(template: str, *turns: tuple[str, Any]) -> list[str]:
    return arrange(read_messages(said(*turns)), TEMPLATES[template]).segments


def test_a_conversation_is_written_as_the_template_says() -> None:
    turns = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi!"), ("user", "Why?")]
    assert segments("chat", *turns) == [
        "System: Be brief.\n\n",
        "User: Hello\n\nAssistant:",
        " Hi!",
        "\n\nUser: Why?\n\nAssistant:",
    ]
    assert segments("none", *turns) == ["Be brief.", "Hello", "Hi!", "Why?"]
    assert segments("raven", *turns[1:2]) == ["", "Bob: Hello\n\nAlice:"]


def test_messages_of_one_side_and_parts_of_one_message_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [("system", "x"), ("developer", "y"), ("user", parts), ("user", "c")]
    assert segments("chat", *turns) == ["System: x\ny\n\n", "User: ab\nc\n\nAssistant:"]


def test_a_conversation_may_begin_with_an_answer() -> None:
    turns = [("assistant", "Hi"), ("user", "Who?")]
    assert segments("chat", *turns)[1:] == ["Assistant: Hi", "\n\nUser: Who?\n\nAssistant:"]


@given(st.text("a\n User:", max_size=30), st.sampled_from(sorted({*TEMPLATES} - {"none"})))
def test_no_message_ends_its_turn(text: str, name: str) -> None:
    template = TEMPLATES[name]
    answer = template.answer(text)
    question = template.user(text)
    for stop in template.stop:
        assert stop not in answer
        assert question.find("\n\n") == len(question) - 2


@given(st.lists(st.text(max_size=3), min_size=2, max_size=4))
def test_a_name_is_of_the_segments_and_of_where_they_end(parts: list[str]) -> None:
    keys = Conversation(parts).keys
    assert len(set(keys)) == len(parts)
    assert Conversation(parts[:-1]).keys == keys[:-1]
    assert Conversation(["".join(parts)]).keys[-1] != keys[-1]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hello", "messages"),
        ([1], "messages[0]"),
        ([{}], "messages[0].role"),
        (said(("user", 1)), "messages[0].content"),
        (said(("user", None)), "messages[0].content"),
        (said(("tool", "x")), "messages[0].role"),
        (said((["user"], "x")), "messages[0].role"),  # type: ignore[arg-type]
        (said(("assistant", "x")), "messages"),
        (said(("user", "x"), ("system", "y")), "messages[1].role"),
        ([{"role": "user", "content": "x", "images": [1]}], "messages[0].images"),
        ([{"role": "user", "content": "x", "tool_calls": [{}]}], "messages[0].tool_calls"),
        (said(("user", [{"type": "image_url"}])), "messages[0].content[0].type"),
        (said(("user", [{"type": "text", "text": 3}])), "messages[0].content[0].text"),
    ],
)
def test_what_is_no_conversation_is_refused(messages: Any, param: str) -> None:
    with pytest.raises(Refusal) as told:
        read_messages(messages)
    assert (told.value.status, told.value.param) == (400, param)


def test_with_a_bare_template_an_empty_question_is_refused() -> None:
    with pytest.raises(Refusal, match="empty"):
        segments("none", ("user", ""))


def test_the_server_and_the_chat_read_the_same() -> None:
    model = tinyrwkv.load(backend="numpy")
    chat = Chat(model, system="You are a robot.", max_tokens=80, seed=1, temperature=0)
    turns = [("system", "You are a robot.")]
    tokens = [0]
    for question in ("What do you like?", "Why?"):
        turns.append(("user", question))
        texts = segments("robot", *turns)
        tokens = [0] + [token for text in texts for token in model.tokenizer.encode(text)]
        generation = chat.ask(question)
        answer = generation.text()
        assert generation.result.stop_reason == "stop"
        turns.append(("assistant", answer.strip()))
    # The same tokens, so the same text: what rounds differently is too small to matter here.
    again = model.generate(
        tokens, state=model.new_state(), sampler=chat.sampler, max_tokens=80, stop=["\n\n"]
    )
    assert again.text() == answer
    assert again.result.state.tokens == chat.state.tokens
