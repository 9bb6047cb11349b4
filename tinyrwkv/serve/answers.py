"""Answers in OpenAI's form: whole ones, and the pieces of a stream."""

from __future__ import annotations

import secrets
import time
from typing import Any

from .job import Delta, End
from .shown import Entry


class Form:
    """The form of the answers to one request.

    Parameters
    ----------
    model : str
        What clients call the model.
    logprobs : bool
        Whether they are told.
    """

    kind = ""
    piece_kind = ""
    prefix = ""

    def __init__(self, model: str, logprobs: bool) -> None:
        self._model = model
        self._logprobs = logprobs
        self._id = self.prefix + secrets.token_hex(12)
        self._created = int(time.time())
        self._place = 0  # characters of text before the next piece

    def whole(self, deltas: list[Delta], end: End) -> dict[str, Any]:
        """Return a whole answer."""
        text = "".join(delta.text for delta in deltas)
        thought = "".join(delta.thought for delta in deltas)
        entries = [entry for delta in deltas for entry in delta.entries]
        choice = self._choice(text, entries, thought)
        choice["finish_reason"] = end.reason
        return self._object(self.kind, [choice]) | {"usage": usage(end)}

    def begin(self) -> list[dict[str, Any]]:
        """Return the pieces of a stream before the text."""
        return []

    def piece(self, delta: Delta) -> dict[str, Any]:
        """Return a piece of a stream."""
        choice = self._piece(delta.text, delta.entries, delta.thought)
        return self._object(self.piece_kind, [choice | {"finish_reason": None}])

    def end(self, end: End) -> dict[str, Any]:
        """Return the last piece of a stream that has a choice."""
        return self._object(self.piece_kind, [self._last() | {"finish_reason": end.reason}])

    def usage(self, end: End) -> dict[str, Any]:
        """Return the piece of a stream that counts the tokens."""
        return self._object(self.piece_kind, []) | {"usage": usage(end)}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    def _choice(self, text: str, entries: list[Entry], thought: str) -> dict[str, Any]:
        raise NotImplementedError

    def _piece(self, text: str, entries: list[Entry], thought: str) -> dict[str, Any]:
        raise NotImplementedError

    def _last(self) -> dict[str, Any]:
        raise NotImplementedError


class ChatForm(Form):
    """The form of ``/v1/chat/completions``."""

    kind = "chat.completion"
    piece_kind = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def begin(self) -> list[dict[str, Any]]:
        """Return the piece that tells who speaks."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return [self._object(self.piece_kind, [choice])]

    def _choice(self, text: str, entries: list[Entry], thought: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        if thought:
            message["reasoning_content"] = thought
        return {"index": 0, "message": message, "logprobs": self._told(entries)}

    def _piece(self, text: str, entries: list[Entry], thought: str) -> dict[str, Any]:
        delta = {"reasoning_content": thought} if thought else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": self._told(entries)}

    def _last(self) -> dict[str, Any]:
        return {"index": 0, "delta": {}, "logprobs": None}

    def _told(self, entries: list[Entry]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        told = []
        for entry in entries:
            top = [_token(data, logprob) for data, logprob in entry.top]
            told.append(_token(entry.data, entry.logprob) | {"top_logprobs": top})
        return {"content": told, "refusal": None}


class TextForm(Form):
    """The form of ``/v1/completions``."""

    kind = piece_kind = "text_completion"
    prefix = "cmpl-"

    def _choice(self, text: str, entries: list[Entry], thought: str) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": self._told(entries)}

    def _piece(self, text: str, entries: list[Entry], thought: str) -> dict[str, Any]:
        return self._choice(text, entries, thought)

    def _last(self) -> dict[str, Any]:
        return {"index": 0, "text": "", "logprobs": None}

    def _told(self, entries: list[Entry]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        offsets = []
        for entry in entries:
            offsets.append(self._place)
            self._place += len(_text(entry.data))
        top = [{_text(data): logprob for data, logprob in entry.top} for entry in entries]
        return {
            "tokens": [_text(entry.data) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": top if any(top) else None,
            "text_offset": offsets,
        }


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _token(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(data), "logprob": logprob, "bytes": list(data)}


def usage(end: End) -> dict[str, Any]:
    """Return the counts of tokens.

    ``cached_tokens`` are those of the prompt that did not have to be read. ``reasoning_tokens`` are
    those of a thought.
    """
    counts: dict[str, Any] = {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.tokens,
        "total_tokens": end.prompt_tokens + end.tokens,
        "prompt_tokens_details": {"cached_tokens": end.known_tokens},
    }
    if end.thought_tokens is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": end.thought_tokens}
    return counts
