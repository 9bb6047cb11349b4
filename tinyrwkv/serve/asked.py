"""What a request asks for, read from its JSON and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..arguments import whole_number
from ..chat.answer_settings import of_sampler
from ..chat.templates import Template
from ..constraints.constraint import Constraint
from ..errors import show
from ..generate import MOST_STOP_BYTES
from ..model import Model
from ..sampling import Sampler
from .conversation import Conversation, arrange, read_messages
from .fields import Fields
from .json_text import Formats
from .refusal import Refusal, unsupported, wrong

NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
"""Settings of the `Sampler` that OpenAI has too."""

MORE_NUMBERS = ("top_k", "min_p", "repetition_penalty", "penalty_decay")
"""Settings that only the `Sampler` has."""

MOST_TOP = 20
"""Tokens whose probability can be asked for at every place."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Parameters
    ----------
    prompt_tokens, tokens : int
        Tokens of the prompt, and of the answer.
    """

    prompt_tokens: int = 16_384
    tokens: int = 4_096


@dataclass(frozen=True)
class Asked:
    """A request, checked.

    Attributes
    ----------
    conversation : Conversation or None
        None if a text is to be continued.
    prompt : str or list of int
        That text; empty if there is a conversation.
    template : Template
    ahead : list of int
        Tokens that follow an answer whatever is said next. They are read before it is said.
    sampler : Sampler
    max_tokens : int
        Of the thought and the answer together.
    max_thought : int
        Of the thought alone; no matter if the template has none.
    stop : list of str
    constraint : Constraint or None
    top : int or None
        How many probabilities to tell for each token; None if nobody asked for any.
    stream, usage : bool
        Whether to send pieces, and to count the tokens after the last one.
    """

    conversation: Conversation | None
    prompt: str | list[int]
    template: Template
    ahead: list[int]
    sampler: Sampler
    max_tokens: int
    max_thought: int
    stop: list[str]
    constraint: Constraint | None
    top: int | None
    stream: bool
    usage: bool


class Reader:
    """Reads requests to one model.

    Parameters
    ----------
    model : Model
    name : str
        What clients call the model.
    template : Template
    settings : mapping
        Those of conversations that a request leaves out.
    limits : Limits

    Raises
    ------
    TinyRWKVError
        Its methods raise a Refusal, or the error of the setting that is wrong.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        template: Template,
        settings: Mapping[str, Any],
        limits: Limits,
    ) -> None:
        self.model = model
        self.name = name
        self.template = template
        self.limits = limits
        self._settings = dict(settings)
        self._of_sampler = of_sampler(settings)
        self._ahead = model.tokenizer.encode_sure(template.turn_lead)
        self._answers = Formats(model, template.lead)
        self._texts = Formats(model, "")

    def chat(self, told: Any) -> Asked:
        """Return what a request to ``/v1/chat/completions`` asks for."""
        fields = Fields(told)
        self._check_model(fields)
        conversation = arrange(read_messages(fields.needed("messages")), self.template)
        wanted = fields.flag("logprobs")
        top = fields.whole("top_logprobs", 0, MOST_TOP)
        if top is not None and not wanted:
            raise wrong(
                "top_logprobs", "given alone", "together with logprobs=true", "ask for both"
            )
        max_thought = self._max_thought(fields)
        default = min(self._settings.get("max_tokens", 400) + max_thought, self.limits.tokens)
        max_tokens = self._max_tokens(fields, "max_tokens", default)
        max_tokens = self._max_tokens(fields, "max_completion_tokens", max_tokens)
        return self._rest(
            fields,
            conversation=conversation,
            prompt="",
            sampler=self._sampler(fields, self._of_sampler),
            max_tokens=max_tokens,
            max_thought=max_thought,
            stop=[*self.template.stop, *_stops(fields)],
            constraint=self._answers.read(fields.take("response_format")),
            top=(top or 0) if wanted else None,
        )

    def text(self, told: Any) -> Asked:
        """Return what a request to ``/v1/completions`` asks for."""
        fields = Fields(told)
        self._check_model(fields)
        return self._rest(
            fields,
            conversation=None,
            prompt=self._prompt(fields.take("prompt", "")),
            sampler=self._sampler(fields, {}),
            max_tokens=self._max_tokens(fields, "max_tokens", 16),
            max_thought=0,
            stop=_stops(fields),
            constraint=self._texts.read(fields.take("response_format")),
            top=fields.whole("logprobs", 0, MOST_TOP),
        )

    def _rest(self, fields: Fields, **values: Any) -> Asked:
        stream = fields.flag("stream")
        usage = False
        options = fields.take("stream_options")
        if options is not None:
            if not stream:
                fix = "ask for both"
                raise wrong("stream_options", "given alone", "together with stream=true", fix)
            inner = Fields(options, "stream_options")
            usage = inner.flag("include_usage")
            inner.flag("include_obfuscation")
            inner.finish()
        fields.finish()
        values |= {"template": self.template, "ahead": self._ahead}
        return Asked(stream=stream, usage=usage, **values)

    def _check_model(self, fields: Fields) -> None:
        self.check_name(fields.needed("model"))

    def check_name(self, name: Any) -> None:
        """Raise a Refusal if a model is not the one that is here."""
        if name != self.name:
            sentence = f"there is no model {show(name)}, only {self.name}"
            what = ("model", show(name), self.name, "ask for this one", sentence)
            raise Refusal(404, *what, "model_not_found")

    def _prompt(self, told: Any) -> str | list[int]:
        if isinstance(told, list) and len(told) == 1 and isinstance(told[0], (str, list)):
            told = told[0]
        if isinstance(told, str):
            return told
        size = self.model.config["vocab_size"]
        if not isinstance(told, list) or not all(type(token) is int for token in told):
            sentence = "prompt is not one text, nor one list of token ids"
            raise unsupported("prompt", show(told), sentence, "ask for one text at a time")
        if not all(0 <= token < size for token in told):
            raise wrong("prompt", "a list with other numbers", f"of token ids below {size:,}")
        return told

    def _max_tokens(self, fields: Fields, key: str, default: int) -> int:
        return fields.whole(key, 1, self.limits.tokens, default) or default

    def _max_thought(self, fields: Fields) -> int:
        """Return how long a thought may be; 0 if the template has none."""
        if self.template.thoughts is None:
            return 0
        default = min(self._settings.get("max_thought", 1000), self.limits.tokens)
        found = fields.whole("max_thought", 0, self.limits.tokens, default)
        effort = fields.take("reasoning_effort")
        if effort not in (None, "none"):
            what = ("reasoning_effort", show(effort), "none, which is no thought")
            raise wrong(*what, "leave it out, or give max_thought")
        return 0 if effort or found is None else found

    def _sampler(self, fields: Fields, settings: Mapping[str, Any]) -> Sampler:
        values = dict(settings)
        for key in NUMBERS:
            value = fields.number(key)
            if value is not None:
                values[key] = value
        for key in MORE_NUMBERS:
            value = fields.take(key)
            if value is not None:
                values[key] = value
        seed = fields.whole("seed", -(2**63), 2**64 - 1)
        if seed is not None:
            values["seed"] = seed % 2**64
        return Sampler(**values, logit_bias=self._bias(fields.take("logit_bias")))

    def _bias(self, told: Any) -> dict[int, float] | None:
        if told is None:
            return None
        fields = Fields(told, "logit_bias")
        found = {}
        for key in told:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise wrong("logit_bias", f"for {show(key)}", "for ids of tokens")
            what = f"the id {key} in logit_bias"
            last = self.model.config["vocab_size"] - 1
            token = whole_number("request", "logit_bias", int(key), 0, last, what=what)
            found[token] = fields.number(key) or 0.0
        return found


def _stops(fields: Fields) -> list[str]:
    told = fields.take("stop", [])
    stops = [told] if isinstance(told, str) else told
    is_list = isinstance(stops, list) and all(isinstance(text, str) and text for text in stops)
    if not is_list:
        raise wrong("stop", show(told), "a text or a list of texts, none of them empty")
    if sum(4 * len(text) for text in stops) > MOST_STOP_BYTES // 2:
        found = f"{sum(map(len, stops)):,} characters long"
        raise wrong("stop", found, f"at most {MOST_STOP_BYTES // 8:,}", "shorten it")
    return stops
