"""A conversation in OpenAI's form, as the texts that a model reads one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..chat.templates import Template
from ..errors import show
from ..file.sha256 import sha256
from .fields import Fields
from .refusal import Refusal, unsupported, wrong

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Message(NamedTuple):
    """What one side says."""

    role: str
    text: str


class Conversation(NamedTuple):
    """A conversation up to where the answer begins.

    Attributes
    ----------
    segments : list of str
        The system text, maybe empty; then turns and answers. Each becomes tokens by itself. So the
        tokens of a conversation do not change when it goes on.
    """

    segments: list[str]

    @property
    def keys(self) -> list[bytes]:
        """The names of all beginnings: the one at i is of the segments up to i, i included."""
        found = [b""]
        for segment in self.segments:
            data = segment.encode("utf-8", "surrogatepass")
            found.append(sha256(found[-1] + b"\n" + data).digest())
        return found[1:]

    def followed_by(self, segment: str) -> Conversation:
        """Return the conversation with one more segment."""
        return Conversation([*self.segments, segment])


def read_messages(told: Any) -> list[Message]:
    """Return the messages of a request.

    What the same side says in messages that follow each other is joined.

    Parameters
    ----------
    told : object
        ``messages`` as parsed from JSON.

    Returns
    -------
    list of Message
        System messages only at the beginning; the last one is the user's.

    Raises
    ------
    Refusal
        They are something else.
    """
    if not isinstance(told, list) or not told:
        raise wrong("messages", show(told), "a list of messages")
    joined: list[tuple[str, list[str]]] = []
    for place, one in enumerate(told):
        role, text = _message(one, f"messages[{place}]")
        if role == "system" and joined and joined[-1][0] != "system":
            found = "after other messages"
            expected = "at the beginning"
            raise wrong(f"messages[{place}].role", f"system {found}", expected, "move it there")
        if joined and joined[-1][0] == role:
            joined[-1][1].append(text)
        else:
            joined.append((role, [text]))
    messages = [Message(role, "\n".join(texts)) for role, texts in joined]
    if messages[-1].role != "user":
        raise wrong("messages", f"without a question: the last role is {role}", "ended by a user")
    return messages


def _message(told: object, place: str) -> Message:
    fields = Fields(told, place)
    role = fields.needed("role")
    if not isinstance(role, str) or role not in ROLES:
        expected = f"one of {', '.join(ROLES)}"
        raise wrong(f"{place}.role", show(role), expected, "tools are not supported")
    fields.text("name")
    if role == "assistant":
        fields.text("reasoning_content")  # no thought stays in a conversation
    content = fields.take("content")
    for key in ("annotations", "tool_calls"):  # clients send an empty list back
        value = fields.take(key, [])
        if value != []:
            what = (f"{place}.{key}", show(value), f"{place}.{key} is not supported")
            raise unsupported(*what)
    text = _content(content, f"{place}.content")
    fields.finish()
    return Message(ROLES[role], text)


def _content(told: object, place: str) -> str:
    """Return the text of a message, which may be in parts."""
    if isinstance(told, str):
        return told
    if not isinstance(told, list):
        raise wrong(place, show(told), "a text, or a list of parts of text")
    texts = []
    for number, part in enumerate(told):
        fields = Fields(part, f"{place}[{number}]")
        kind = fields.needed("type")
        if kind != "text":
            name = fields.name("type")
            raise unsupported(name, show(kind), f"{name} is {show(kind)}, but only text is read")
        texts.append(fields.text("text", "") or "")
        fields.finish()
    return "".join(texts)


def arrange(messages: Sequence[Message], template: Template) -> Conversation:
    """Return what the model reads of some messages.

    Parameters
    ----------
    messages : sequence of Message
        As `read_messages` returns them.
    template : Template

    Returns
    -------
    Conversation

    Raises
    ------
    Refusal
        With this template, the last message is empty.
    """
    system = messages[0].text if messages[0].role == "system" else ""
    segments = [template.system(system)]
    between = ""
    for message in messages[bool(messages[0].role == "system") :]:
        if message.role == "assistant":
            prefix = template.answer_prefix if len(segments) == 1 else ""
            segments.append(prefix + template.answer(message.text))
            between = template.between
        else:
            segments.append(between + template.user(message.text) + template.answer_prefix)
    if not segments[-1]:
        sentence = "the last message is empty"
        what = ("an empty text", "a text", "say something", sentence, "invalid_value")
        raise Refusal(400, "messages", *what)
    return Conversation(segments)
