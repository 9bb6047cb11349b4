"""A conversation with a model: its turns, what each of them began from, and how answers are chosen."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ..file import memory
from ..generate import Generation
from ..state import State
from . import session, settings
from .calls import Calls
from .prompt_cache import PromptCache
from .recorder import Recorder
from .templates import template

if TYPE_CHECKING:
    from ..model import Model

KEPT = 4
"""Turns that can be taken back: each keeps a state, 0.5 MB for a model of 9 M parameters, 2.4 MB for one of 0.1 B."""

SAID = 1000
"""Turns in the transcript, the last ones."""


@dataclass
class Turn:
    """One question and its answer.

    Attributes
    ----------
    text : str
        What the user said.
    command : bool
        Whether it was answered as a command, apart from the conversation.
    generation : Generation
        The answer.
    """

    text: str
    command: bool
    generation: Generation

    @property
    def sampler(self) -> Recorder:
        """The sampler of the answer, which tells what the last token was chosen from."""
        return cast(Recorder, self.generation.sampler)


class Chat:
    """Talks with a model, turn by turn.

    Commands stand alone: where the model would answer what is said with a call of `commands`, had nothing been said
    before, it answers so, greedily, and the conversation goes on as if the command had not been given.

    Parameters
    ----------
    model : Model
        One with a tokenizer.
    template : str, optional
        Name of a built-in template; by default the one that the file names, or "chat".
    system : str, optional
        Instructions before the first turn.
    commands : iterable of str, optional
        Names of the calls that answer commands.
    cache : PromptCache, optional
        Where the state after the system text is kept between runs; nowhere by default.
    **values
        As for `set`.

    Attributes
    ----------
    sampler : Recorder
        How tokens of conversation are chosen. With a seed, a conversation can be repeated as a whole.
    max_tokens : int
        Tokens of an answer at most.
    turns : int
        Turns so far.
    system_source : str
        Where the state after the system text came from: "" (there is none yet), "read" or "cache".
    last : Turn or None
        The turn before.

    Raises
    ------
    UnsupportedError
        The model has no tokenizer.
    ArgumentError
        There is no such template, or a setting is out of range.
    """

    def __init__(
        self,
        model: Model,
        template_name: str | None = None,
        system: str = "",
        commands: Iterable[str] = (),
        cache: PromptCache | None = None,
        **values: float | None,
    ) -> None:
        self.model, self.tokenizer, self.system = model, model.tokenizer, system
        self.template = template(template_name or model.config.get("template") or "chat")
        self.calls, self.cache = Calls(model, commands), cache
        self._after_system: State | None = None
        self.system_source = ""
        self.sampler, self.max_tokens = Recorder(), 0
        self.reset()
        for key, value in (settings.DEFAULTS | values).items():
            self.set(key, value)

    def reset(self) -> None:
        """Begin a new conversation."""
        self._continue(None)

    def _continue(self, state: State | None) -> None:
        self._state, self.turns = state, 0
        self.last: Turn | None = None
        self._open = False  # whether what the last turn came to has not been looked at
        self._kept: deque[tuple[str, State | None]] = deque(maxlen=KEPT)
        self._transcript: deque[session.Said] = deque(maxlen=SAID)

    @property
    def state(self) -> State:
        """The state after what has been said, without the stop string of the last answer."""
        self._settle()
        return self.model.new_state() if self._state is None else self._state

    @property
    def transcript(self) -> list[session.Said]:
        """What has been said, up to 1,000 turns."""
        self._settle()
        return list(self._transcript)

    def ask(self, text: str, deadline: float | None = None) -> Generation:
        """Say something and return the answer to come.

        Parameters
        ----------
        text : str
        deadline : float, optional
            Absolute ``time.monotonic()`` time to end at.

        Returns
        -------
        Generation
            Iterate over it for the pieces of the answer. One that is cancelled counts as far as it has come; where
            nothing has been answered, the turn has not been.
        """
        self._settle()
        prompt, state, sampler = self.template.prompt(text), None, Recorder(temperature=0)
        command = self.calls.expected(prompt, deadline)
        if not command:
            state, sampler = self._state or self._begun(deadline), self.sampler
            prompt = self.template.prompt(
                text, self._state is None, "" if state is not None else self.system
            )
        generation = self.model.generate(
            prompt,
            state=state,
            sampler=sampler,
            max_tokens=self.max_tokens,
            stop=self.template.stop,
            deadline=deadline,
        )
        self.last, self._open = Turn(text, command, generation), True
        self._kept.append((text, self._state))
        self.turns += 1
        return generation

    def _begun(self, deadline: float | None) -> State | None:
        """Return the state after the system text; None where there is no such text, or no time to read it."""
        text = self.template.system(self.system)
        if self._after_system is None and text:
            state = self.cache.get(self.model, text) if self.cache else None
            self.system_source = "cache"
            if state is None:
                reading = self.model.generate(text, max_tokens=0, deadline=deadline)
                for _ in reading:
                    pass
                if reading.result.stop_reason != "length":
                    return None
                state, self.system_source = reading.result.state, "read"
                if self.cache:
                    self.cache.put(self.model, text, state)
            self._after_system = state
        return self._after_system

    def _settle(self) -> None:
        """Take over what the last turn came to."""
        if not self._open or self.last is None:
            return
        generation, self._open = self.last.generation, False
        generation.cancel()  # whoever left it half way
        for _ in generation:
            pass
        result = generation.result
        if result.stop_reason is None or (
            not result.tokens and result.stop_reason in ("cancelled", "deadline")
        ):
            self._take_back()
            return
        self._transcript.append(
            session.Said(self.last.text, result.text.strip(), self.last.command)
        )
        if not self.last.command:
            state, unread = result.state, result.unread
            self._state = self.model.forward(unread, state, logits=None)[1] if unread else state
            self.sampler = self.last.sampler  # it goes on drawing where this turn ended

    def undo(self) -> str | None:
        """Take back the last turn, up to 4 times; return what the user had said, None where nothing is left.

        The state is again the one that the turn began from, bit for bit. The random numbers go on: the same question
        can get another answer.
        """
        self._settle()
        if not self._kept:
            return None
        self._transcript.pop()
        return self._take_back()

    def _take_back(self) -> str:
        text, self._state = self._kept.pop()
        self.last, self.turns = None, self.turns - 1
        return text

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state and the transcript to a file; raises what `session.save` does."""
        session.save(path, self.state, self.transcript)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a saved state, which this model made; raises FormatError where it is not such a file.

        What was said comes back with it, but no turn of it can be taken back.
        """
        state, said = session.load(path, self.model)
        self._continue(state if state.tokens else None)
        self._transcript.extend(said)
        self.turns = len(said)

    def set(self, key: str, value: float | str | None) -> None:
        """Change a setting of the sampler or `max_tokens`.

        Parameters
        ----------
        key : str
            temperature, top_k, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty, penalty_decay,
            seed or max_tokens.
        value : number, or str that is one; for the seed also None or "none"

        Raises
        ------
        ArgumentError
            There is no such setting, or the value is out of its range.
        """
        self._settle()
        number = settings.parse(key, value)
        if key == "max_tokens":
            self.max_tokens = number
        else:
            self.sampler = replace(self.sampler, **{key: number})

    def settings(self) -> dict[str, float | None]:
        """Return every setting and its value."""
        return {key: getattr(self.sampler, key) for key in settings.SAMPLER_SETTINGS} | {
            "max_tokens": self.max_tokens
        }

    def memory(self) -> dict[str, int | None]:
        """Return bytes: resident and cached of the file, its resident_limit, rss, anon and peak of the process."""
        model = self.model
        counts = {
            "resident": model.resident(),
            "cached": model.cached(),
            "resident_limit": model.resident_limit,
        }
        process = memory.process_memory()
        return counts | {key: process.get(key) for key in ("rss", "anon", "peak")}
