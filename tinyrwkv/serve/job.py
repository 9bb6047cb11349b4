"""One answer, made in turns, so that several can be made beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import NamedTuple

from ..chat.thinking import AnyGeneration, Thinking, ThoughtPiece, thought_tokens
from ..errors import TinyRWKVError
from ..generate import NO_TOKEN, Generation, Piece
from ..kernels.abi import MAX_TOKENS
from ..model import Model
from ..reading import Reading
from ..state import State
from ..tokenizer import END_OF_DOCUMENT, to_bytes
from .asked import Asked, Limits
from .conversation import Conversation
from .refusal import Refusal, of_error
from .sessions import Sessions
from .shown import Entries, Entry, Trimmer, finite

SLICE = 32
"""Tokens of a prompt that are read in one turn."""

PIECE = 1_024
"""Tokens that a text becomes in one turn."""


class Begin(NamedTuple):
    """The model has begun to read the prompt of a stream."""


class Delta(NamedTuple):
    """What a token adds to an answer.

    Attributes
    ----------
    text : str
        What can be shown.
    entries : list of Entry
        The tokens that begin in it.
    thought : str
        What can be shown of a thought. Then there is no text.
    """

    text: str
    entries: list[Entry]
    thought: str = ""


class End(NamedTuple):
    """The end of an answer: "stop" or "length", and the counts of tokens.

    `thought_tokens` are among `tokens`; None if the template has no thoughts.
    """

    reason: str
    prompt_tokens: int
    known_tokens: int
    tokens: int
    thought_tokens: int | None = None


Event = Begin | Delta | End | Refusal


class Prompt(NamedTuple):
    """What is to be read before an answer.

    Attributes
    ----------
    state : State
        After what is known already.
    parts : list of (list of int, bytes)
        Tokens, and the name of the state after them; the name is empty if that is not to be kept.
    known : int
        Tokens that need not be read.
    """

    state: State
    parts: list[tuple[list[int], bytes]]
    known: int


def prepare(
    asked: Asked, model: Model, sessions: Sessions, limits: Limits
) -> Generator[None, None, Prompt]:
    """Return, in steps, the tokens that must be read for a request.

    A state that another job is computing is waited for.

    Raises
    ------
    Refusal
        The prompt is too long.
    TinyRWKVError
        It is not Unicode text.
    """
    if asked.conversation is None:
        counted = _Counted(model, "prompt", limits.prompt_tokens, 1)
        ids = yield from counted.ids(asked.prompt)
        return Prompt(model.new_state(), [([END_OF_DOCUMENT, *ids], b"")], 0)
    segments = asked.conversation.segments
    keys = Conversation(segments[:-1]).keys  # at least the last is read: its logits are needed
    while sessions.expects(keys):
        yield
    count, known = sessions.find(keys)
    parts: list[tuple[list[int], bytes]] = []
    begin = []
    if known is None:
        known = model.new_state()
        begin = [END_OF_DOCUMENT]
    counted = _Counted(model, "messages", limits.prompt_tokens, known.tokens + len(begin))
    if not count:
        count = 1
        if segments[0]:
            ids = yield from counted.ids(segments[0])
            parts.append((begin + ids, keys[0]))
            begin = []
    rest: list[int] = []
    for segment in segments[count:]:
        rest += yield from counted.ids(segment)
    if count > 1:  # the state is one after an answer
        rest = rest[len(asked.ahead) :]
    parts.append((begin + rest, b""))
    return Prompt(known, parts, known.tokens)


class _Counted:
    """Turns texts into tokens: at most `most`, together with `others`."""

    def __init__(self, model: Model, param: str, most: int, others: int) -> None:
        self._tokenizer = model.tokenizer
        self._param = param
        self._most = most
        self._left = most - others

    def ids(self, text: str | list[int]) -> Generator[None, None, list[int]]:
        found = (yield from self._encode(to_bytes(text))) if isinstance(text, str) else text
        self._left -= len(found)
        if self._left < 0:
            raise self._refusal()
        return found

    def _encode(self, text: bytes) -> Generator[None, None, list[int]]:
        most = max(self._left, 0) + 1  # one more shows that there are too many
        tokens: list[int] = []
        place = 0
        while place < len(text) and len(tokens) < most:
            if tokens:
                yield
            count = min(PIECE, most - len(tokens))
            more, place = self._tokenizer.encode_part(text, place, count)
            tokens += more
        return tokens

    def _refusal(self) -> Refusal:
        found = f"more than {self._most:,} tokens"
        sentence = f"the prompt has {found}, the most that this server reads"
        what = (found, f"at most {self._most:,}", "shorten it", sentence)
        return Refusal(400, self._param, *what, "context_length_exceeded")


class Job:
    """Makes one answer and tells what it has made.

    Parameters
    ----------
    asked : Asked
    model : Model
    sessions : Sessions
    limits : Limits
    tell : callable
        Takes each `Event`, in the thread that takes the turns. The last one is no `Delta`.
    """

    def __init__(
        self,
        asked: Asked,
        model: Model,
        sessions: Sessions,
        limits: Limits,
        tell: Callable[[Event], None],
    ) -> None:
        self.tell = tell
        self._asked = asked
        self._model = model
        self._sessions = sessions
        self._limits = limits
        self._trimmer = Trimmer(asked.conversation is not None and asked.template.clean)
        self._thought_trimmer = Trimmer(True)
        self._entries = Entries()
        self._text: list[str] = []  # what was shown
        self._begun = not asked.stream  # whether nobody waits for `Begin`
        self._cancelled = False
        self._generation: AnyGeneration | None = None
        self._prompt_tokens = self._known_tokens = 0

    def cancel(self) -> None:
        """End the answer within milliseconds, or a slice of the prompt; any thread may call it."""
        self._cancelled = True
        if (generation := self._generation) is not None:
            generation.cancel()

    def turns(self) -> Generator[None, None, None]:
        """Work: each step makes or reads some tokens of the prompt, or makes one of the answer."""
        try:
            prompt = yield from prepare(self._asked, self._model, self._sessions, self._limits)
        except TinyRWKVError as error:
            raise of_error(error) from None
        self._known_tokens = prompt.known
        self._prompt_tokens = prompt.known + sum(len(tokens) for tokens, _ in prompt.parts)
        state = prompt.state
        *before, (last, _) = prompt.parts
        for tokens, key in before:
            state = yield from self._read(tokens, state)
            if key and not self._cancelled:
                self._sessions.keep(key, state)
        # Up to half a slice more is read with the first token: one more slice would cost a copy of
        # the state.
        rest = max(len(last) - 1 - SLICE // 2, 0) // SLICE * SLICE
        state = yield from self._read(last[:rest], state)
        if self._cancelled:
            return
        yield from self._answer(self._generate(last[rest:], state))

    def _generate(self, tokens: list[int], state: State) -> AnyGeneration:
        """Return the answer to come after the last tokens of a prompt."""
        asked = self._asked
        if asked.conversation is not None and asked.template.thoughts is not None:
            return Thinking(
                *(self._model, asked.template, tokens, state, asked.sampler),
                max_tokens=asked.max_tokens,
                max_thought=asked.max_thought,
                max_together=asked.max_tokens,
                stop=asked.stop,
                constraint=asked.constraint,
            )
        return self._model.generate(
            tokens,
            state=state,
            sampler=asked.sampler,
            max_tokens=asked.max_tokens,
            stop=asked.stop,
            constraint=asked.constraint,
        )

    def _read(self, tokens: list[int], state: State) -> Generator[None, None, State]:
        """Read tokens in slices; return the state after them."""
        if not tokens:
            return state
        ids = self._model.check_tokens(tokens)
        reading = Reading(self._model, state, lambda: self._cancelled)
        for begin in range(0, len(ids), MAX_TOKENS):
            self._tell_begin()
            if not reading.read(ids[begin : begin + MAX_TOKENS], with_logits=False):
                break
            if (begin + MAX_TOKENS) % SLICE == 0:
                yield
        return reading.now

    def _begin(self, generation: AnyGeneration) -> None:
        self._generation = generation
        if self._cancelled:  # before the generation could be seen from another thread
            generation.cancel()
        else:
            self._tell_begin()

    def _tell_begin(self) -> None:
        """Tell, once, that the model begins to read.

        The kernels come next. While they run, the response can begin in the other thread: Python
        runs in one thread at a time.
        """
        if not self._begun:
            self._begun = True
            self.tell(Begin())

    def _answer(self, generation: AnyGeneration) -> Generator[None, None, None]:
        self._begin(generation)
        start: State | None = None
        for piece in generation:
            self._show(piece, generation)
            if start is None and isinstance(generation, Generation):
                start = generation.result.state  # a copy: it comes after the text
            yield
        if generation.result.stop_reason == "cancelled" or self._cancelled:
            return
        if isinstance(generation, Thinking):
            start = generation.result.before
        end = self._end(generation)
        conversation = self._asked.conversation
        if conversation is None:
            self.tell(end)
        else:
            yield from self._keep(conversation, generation, start, end)

    def _end(self, generation: AnyGeneration) -> End:
        """Return the end of an answer, with the tokens of all that the model has read for it."""
        result = generation.result
        read = self._prompt_tokens
        thought = None
        if isinstance(generation, Thinking):
            read += len(self._model.tokenizer.encode(self._asked.template.opening))
            thought = thought_tokens(result)
        count = len(result.tokens)
        return End(str(result.stop_reason), read, self._known_tokens, count, thought)

    def _show(self, piece: Piece, generation: AnyGeneration) -> None:
        """Tell what a piece adds."""
        if isinstance(piece, ThoughtPiece):
            thought = self._thought_trimmer.push(piece.text)
            if thought:
                self.tell(Delta("", [], thought))
            return
        released: list[Entry] = []
        if self._asked.top is not None:
            entry = None if piece.token == NO_TOKEN else self._entry(piece, generation)
            released = self._entries.push(entry, piece.text)
        text = self._trimmer.push(piece.text)
        if text or released:
            self._text.append(text)
            self.tell(Delta(text, released))

    def _entry(self, piece: Piece, generation: AnyGeneration) -> Entry:
        data = self._model.tokenizer.token_bytes
        count = self._asked.top or 0
        top = self._asked.sampler.top(generation.logits, count) if count else []
        rows = [(data(token), finite(math.log(p) if p > 0 else -math.inf)) for token, p in top]
        return Entry(data(piece.token), finite(piece.logprob), rows)

    def _keep(
        self,
        conversation: Conversation,
        generation: AnyGeneration,
        start: State | None,
        end: End,
    ) -> Generator[None, None, None]:
        """Tell the end, and keep the state after the answer as a follow-up turn will read it.

        The tokens that every follow-up turn begins with are read as well, while nobody waits.

        The model may have spelled the answer in other tokens than the tokenizer does, or after a
        thought. Then the answer is read again, so that the state does not depend on what is known.
        """
        text = self._asked.template.answer("".join(self._text))
        key = conversation.followed_by(text).keys[-1]
        tokens = self._model.tokenizer.encode(text)
        if isinstance(generation, Generation):
            result = generation.result
            state = result.state
            if start is None:
                start = state
            read = state.tokens - start.tokens
            if read == len(tokens) and tokens == result.tokens[:read]:
                start, tokens = state, []
        if start is None:
            self.tell(end)
            return
        self._sessions.expect(key)
        try:
            self.tell(end)
            yield
            state = yield from self._read([*tokens, *self._asked.ahead], start)
            if not self._cancelled:
                self._sessions.keep(key, state)
        finally:
            self._sessions.give_up(key)
