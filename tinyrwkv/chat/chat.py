"""A conversation with a model: its turns, the states they began from, how answers are chosen."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..file import memory
from ..generate import Result, TokenConstraint, check_time
from ..state import State
from ..state_file import check_dtype
from . import answer_settings, session
from .calls import Calls
from .prompt_cache import PromptCache
from .recorder import Recorder
from .templates import template as built_in
from .thinking import AnyGeneration, Thinking, ThinkingResult, thought_tokens

if TYPE_CHECKING:
    from ..model import Model

KEPT = 4
"""Turns that can be taken back.

A state is kept for each: 0.5 MB for a model of 9 M parameters, 2.4 MB for one of 0.1 B.
"""

SAID = 1000
"""Most turns in the transcript; the oldest ones go first."""


@dataclass
class Turn:
    """One question and its answer.

    Attributes
    ----------
    text : str
        What the user said.
    command : bool
        Whether it was answered as an order to a robot, apart from the conversation.
    generation : Generation or Thinking
        The answer.
    """

    text: str
    command: bool
    generation: AnyGeneration

    @property
    def sampler(self) -> Recorder:
        """The sampler of the answer. It knows what the last token was chosen from."""
        return cast(Recorder, self.generation.sampler)


class Chat:
    """Talks with a model, turn by turn.

    Some models answer an order to a robot with calls such as ``move(1)``. Orders stand apart from
    the conversation. A text is an order if the model, asked as if nothing had been said before,
    would answer it with one of the `commands`. Then the answer is greedy, and the conversation
    goes on as if the order had not been given.

    With a template that has thoughts, the model thinks before it answers, but not before it answers
    an order. No thought goes into the conversation, nor into its transcript.

    Parameters
    ----------
    model : Model
        One with a tokenizer.
    template : str, optional
        Name of a built-in template. By default the one that the file names, or else "chat".
    system : str, optional
        Instructions before the first turn.
    commands : iterable of str, optional
        Names of the calls that answer orders.
    cache : PromptCache, optional
        Keeps the state after the system text between runs. By default nothing keeps it.
    state_dtype : str, optional
        Type of the states that `save` and `keep` write, as for `State.save`. By default the
        smallest that does no harm: int8, but f32 for RWKV-4.
    **values
        As for `set`.

    Attributes
    ----------
    sampler : Recorder
        How tokens of conversation are chosen. With a seed, a conversation can be repeated as a
        whole.
    max_tokens : int
        Most tokens of an answer.
    max_thought : int
        Most tokens of a thought. Then its end is written, and the answer follows.
    thoughts : str
        How the program around the chat shows thoughts: "hide", "dim" or "show". The chat itself
        does not use it.
    turns : int
        Turns so far. A turn without an answer counts until the next call of a method, or until
        `state` or `transcript` is read.
    system_source : str
        Where the state after the system text came from: "read" or "cache", or "" if there is no
        such state yet.
    last : Turn or None
        The last turn.

    Raises
    ------
    UnsupportedError
        The model has no tokenizer, or states of this type do not suit it.
    ArgumentError
        There is no such template or type, or a setting is out of range.

    Examples
    --------
    >>> import tinyrwkv
    >>> chat = Chat(tinyrwkv.load())
    >>> for piece in chat.ask("turn left"):
    ...     print(piece.text, end="")
     turn(90)
    >>> chat.ask("please go forward two meters").text()
    ' move(2)'
    >>> chat.undo(), chat.turns
    ('please go forward two meters', 1)
    """

    def __init__(
        self,
        model: Model,
        template: str | None = None,
        system: str = "",
        commands: Iterable[str] = (),
        cache: PromptCache | None = None,
        state_dtype: str | None = None,
        **values: float | None,
    ) -> None:
        if state_dtype is not None:
            check_dtype(model.path, state_dtype, model.config)
        self.model = model
        self.tokenizer = model.tokenizer
        self.template = built_in(template or model.config.get("template") or "chat")
        self.system = system
        self.system_source = ""
        self.calls = Calls(model, commands)
        self.cache = cache
        self.state_dtype = state_dtype
        self._known: dict[str, str | None] = {}  # fingerprints of files by their real paths
        self._after_system: State | None = None
        self._tuned: State | None = None
        self.sampler = Recorder()
        self.max_tokens = 0
        self.max_thought = 0
        self.thoughts = "hide"
        self.reset()
        for key, value in (answer_settings.DEFAULTS | values).items():
            self.set(key, value)

    def __repr__(self) -> str:
        turns = "1 turn" if self.turns == 1 else f"{self.turns:,} turns"
        return f"<Chat with {self.model.path!r}: template {self.template.name}, {turns}>"

    def reset(self) -> None:
        """Begin a new conversation; after a tuned state was loaded, from that state."""
        self._begin(self._tuned)

    def _begin(self, state: State | None) -> None:
        self._state = state
        self.turns = 0
        self.last: Turn | None = None
        self._open = False  # whether the last turn still has to be settled
        self._kept: deque[tuple[str, State | None]] = deque(maxlen=KEPT)
        self._transcript: deque[session.Said] = deque(maxlen=SAID)

    @property
    def state(self) -> State:
        """The state after what has been said, without the stop string of the last answer."""
        self._settle()
        return self.model.new_state() if self._state is None else self._state

    @property
    def transcript(self) -> list[session.Said]:
        """What has been said: up to 1,000 triples of question, answer, and whether it was an order.

        Returns
        -------
        list of Said
        """
        self._settle()
        return list(self._transcript)

    def ask(
        self,
        text: str,
        deadline: float | None = None,
        constraint: TokenConstraint | None = None,
        timeout: float | None = None,
    ) -> AnyGeneration:
        """Say something and return the answer to come.

        Parameters
        ----------
        text : str
        deadline : float, optional
            Absolute ``time.monotonic()`` time to end at.
        constraint : TokenConstraint, optional
            What the answer must match, for instance `json_block.json_block`. It begins with
            ``template.lead``. A text with a constraint is no order.
        timeout : float, optional
            Instead of a deadline: the seconds from this call on.

        Returns
        -------
        Generation or Thinking
            Iterate over it for the pieces of the answer. If the answer is cancelled, the part that
            has come counts. If nothing has come, the turn does not count. A `Thinking`, whose
            pieces may be of the class `ThoughtPiece`, if the template has thoughts.
        """
        deadline = check_time(deadline, timeout)
        self._settle()
        prompt = self.template.turn(text)
        is_order = constraint is None and self.calls.expected(prompt, deadline)
        if is_order:
            sampler = Recorder(temperature=0)
            state = None
        else:
            sampler = self.sampler
            first = self._state is None or not self._state.tokens
            state = self._state or self._read_system(deadline)
            # If nothing was read before, this prompt begins with the system text.
            system = "" if state is not None and state.tokens else self.system
            prompt = self.template.turn(text, first=first, system=system)
        generation: AnyGeneration
        if is_order or self.template.thoughts is None:
            generation = self.model.generate(
                prompt,
                state=state,
                sampler=sampler,
                max_tokens=self.max_tokens,
                stop=self.template.stop,
                deadline=deadline,
                constraint=constraint,
            )
        else:
            generation = Thinking(
                *(self.model, self.template, prompt, state, sampler),
                *(self.max_tokens, self.max_thought),
                deadline=deadline,
                constraint=constraint,
            )
        self.last = Turn(text, is_order, generation)
        self._open = True
        self._kept.append((text, self._state))
        self.turns += 1
        return generation

    def _read_system(self, deadline: float | None) -> State | None:
        """Return the state after the system text.

        None if there is no such text, or no time to read it.
        """
        text = self.template.system(self.system)
        if self._after_system is not None or not text:
            return self._after_system
        cached = self.cache.get(self.model, text) if self.cache else None
        if cached is not None:
            self._after_system = cached
            self.system_source = "cache"
            return cached
        reading = self.model.generate(text, max_tokens=0, deadline=deadline)
        for _ in reading:
            pass
        if reading.result.stop_reason != "length":
            return None
        self._after_system = reading.result.state
        self.system_source = "read"
        if self.cache:
            self.cache.put(self.model, text, reading.result.state)
            # Rounded as in the file, so that the next run gives the same answers as this one.
            kept = self.cache.get(self.model, text)
            self._after_system = kept or reading.result.state
        return self._after_system

    def _settle(self) -> None:
        """Take over the state and the answer of the last turn, or drop a turn without an answer."""
        if not self._open or self.last is None:
            return
        turn = self.last
        self._open = False
        turn.generation.cancel()  # the caller may have stopped reading half way
        for _ in turn.generation:
            pass
        result = turn.generation.result
        if _came_to_nothing(result):
            self._take_back()
            return
        if not turn.command:
            self._state = result.state
            if result.unread:
                _, self._state = self.model.forward(result.unread, result.state, logits=None)
            self.sampler = turn.sampler  # its random numbers go on after this turn
        self._transcript.append(session.Said(turn.text, result.text.strip(), turn.command))

    def undo(self) -> str | None:
        """Take back the last turn, up to 4 times.

        The state is again the one that the turn began from, bit for bit. The random numbers go on,
        so the same question can get another answer.

        Returns
        -------
        str or None
            What the user had said; None if nothing is left to take back.
        """
        self._settle()
        if not self._kept:
            return None
        self._transcript.pop()
        return self._take_back()

    def _take_back(self) -> str:
        text, self._state = self._kept.pop()
        self.last = None
        self.turns -= 1
        return text

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state and the transcript to a file.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        FormatError
            The file cannot be written.
        ArgumentError
            The file exists and is not a state.
        """
        session.save(path, self.state, self.transcript, self.state_dtype)
        self._know(path)

    def keep(self, path: str) -> str:
        """Write the state and the transcript to a file, without losing another conversation.

        If the file is not as this chat last read or wrote it, another chat has saved to it. Then
        that conversation stays, and this one goes to a file beside it: ``talk-2.state`` beside
        ``talk.state``.

        Parameters
        ----------
        path : str

        Returns
        -------
        str
            The path of the file that was written.

        Raises
        ------
        FormatError
            The file cannot be written.
        ArgumentError
            The file exists and is not a state.
        """
        known = self._known.get(os.path.realpath(path))
        kept = session.keep(path, self.state, self.transcript, known, self.state_dtype)
        self._know(kept)
        return kept

    def _know(self, path: str | os.PathLike[str]) -> None:
        """Remember what this chat has read from a file, or written to it."""
        self._known[os.path.realpath(os.fsdecode(path))] = session.fingerprint(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a saved conversation, or begin from a tuned state.

        The transcript comes back too, but no turn of it can be taken back. A state that has read
        no token, and yet is none of `Model.new_state`, is a tuned one: conversations begin from
        it, also after `reset`.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        FormatError
            The file is damaged, is not a state, or another model made it.
        """
        state, said = session.load(path, self.model)
        is_new = not state.tokens
        if is_new and state.data.tobytes() != self.model.new_state().data.tobytes():
            self._tuned = state
            is_new = False
        self._begin(None if is_new else state)
        self._transcript.extend(said)
        self.turns = len(said)
        self._know(path)

    def set(self, key: str, value: float | str | None) -> None:
        """Change a setting of the sampler, `max_tokens` or `max_thought`.

        The random numbers go on. Only a new seed begins them anew.

        Parameters
        ----------
        key : str
            temperature, top_k, top_p, min_p, presence_penalty, frequency_penalty,
            repetition_penalty, penalty_decay, seed, max_tokens or max_thought.
        value : number, or str with a number; for the seed also None or "none"

        Raises
        ------
        ArgumentError
            There is no such setting, or the value is out of its range.
        """
        self._settle()
        number = answer_settings.parse(key, value)
        if key in answer_settings.LENGTHS:
            setattr(self, key, number)
        else:
            self.sampler = self.sampler.with_setting(key, number)

    def settings(self) -> dict[str, float | None]:
        """Return every setting and its value; `max_thought` only if the template has thoughts."""
        values = {key: getattr(self.sampler, key) for key in answer_settings.OF_SAMPLER}
        values["max_tokens"] = self.max_tokens
        if self.template.thoughts is not None:
            values["max_thought"] = self.max_thought
        return values

    def memory(self) -> dict[str, int | None]:
        """Return how much memory the model file and the process take, in bytes.

        Returns
        -------
        dict of str to int or None
            For the model file: resident, cached, resident_limit. For the process: rss, anon, peak.
            None if the system does not say it, or if there is no limit.
        """
        model = self.model
        process = memory.process_memory()
        return {
            "resident": model.resident(),
            "cached": model.cached(),
            "resident_limit": model.resident_limit,
            "rss": process.get("rss"),
            "anon": process.get("anon"),
            "peak": process.get("peak"),
        }


def _came_to_nothing(result: Result | ThinkingResult) -> bool:
    """Tell whether an answer failed, or was stopped before it began; a thought is no answer."""
    if result.stop_reason is None:
        return True
    begun = len(result.tokens) > thought_tokens(result)
    return not begun and result.stop_reason in ("cancelled", "deadline")
