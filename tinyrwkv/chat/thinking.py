r"""Answers of a model that thinks first: the thought and the answer, apart from each other.

A turn has four parts. Between them, texts are read that the model does not write itself::

    User: Why?\n\nAssistant:          read; the state after it is kept
     <think                            read
    >\nOkay, they ask ...\n</think>    the thought
    </think                            read again, so that a thought that is too long ends too
    >\nBecause ...                     the answer

The conversation goes on from the state that was kept, and reads the answer alone.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..errors import TinyRWKVError
from ..generate import NO_TOKEN, Generation, Piece, Result, Timings, TokenConstraint
from ..sampling import TokenSampler
from ..state import State
from .templates import Template, Thoughts

if TYPE_CHECKING:
    from ..model import Model

EARLY = ("cancelled", "deadline")
"""Why a part ends before it is complete."""


class ThoughtPiece(Piece):
    """A piece that belongs to a thought, or to the tags around it, which have no text."""

    __slots__ = ()


class ThinkingTimings(Timings):
    """`Timings` of all parts together. `tokens` counts those of the thought too.

    A thought's tokens are those between its first tag and the first word of the answer.
    """

    thought_tokens: int


class ThinkingResult:
    """What a `Thinking` has produced so far; at the end, all of it.

    Attributes
    ----------
    tokens : list of int
        The tokens sampled, those of the thought first.
    stop_reason : str or None
        As in `Result`. "stop" and "length" are about the answer.
    timings : ThinkingTimings
    unread : list of int
        Empty: `state` has read all.
    proposed, accepted : int
        As in `Result`, of all parts together.
    before : State or None
        The state after the turn, from which the conversation goes on with the answer alone. Until
        the turn is read, what was given.
    """

    def __init__(self, model: Model, template: Template, state: State | None) -> None:
        self.tokens: list[int] = []
        self.stop_reason: str | None = None
        self.timings = ThinkingTimings(
            prompt_tokens=0, prompt_seconds=0.0, tokens=0, seconds=0.0, thought_tokens=0
        )
        self.unread: list[int] = []
        self.proposed = self.accepted = 0
        self._model = model
        self._template = template
        self.before = state
        self._after: State | None = None
        self._thought: list[str] = []
        self._answer: list[str] = []

    def __repr__(self) -> str:
        ended = f"ended by {self.stop_reason}" if self.stop_reason else "not ended"
        thought = f"{self.timings['thought_tokens']} tokens of thought"
        return f"<ThinkingResult: {self.text!r} after {thought}, {ended}>"

    @property
    def thought(self) -> str:
        """What the model has thought, without the tags."""
        return "".join(self._thought)

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self._answer)

    @property
    def state(self) -> State:
        """The state after the question and the answer, as if there had been no thought."""
        if self._after is None or self.stop_reason is None:
            before = self._model.new_state() if self.before is None else self.before
            tokens = self._model.tokenizer.encode(self._template.answer(self.text))
            if tokens:
                _, before = self._model.forward(tokens, before, logits=None)
            self._after = before
        return self._after.copy()


class Thinking(Iterator[Piece]):
    """Iterates over the pieces of a thought and of the answer behind it, as a `Generation` does.

    The pieces of the thought are of the class `ThoughtPiece`.

    A thought ends with the last tag, with token 0, with a stop string of the template, or after
    `max_thought` tokens. Its last tag is then written if it is missing, and the answer follows.
    Other stop strings, and the constraint, are about the answer alone.

    Parameters
    ----------
    model : Model
    template : Template
        One with thoughts.
    turn : str or iterable of int
        ``Template.turn``, or its tokens.
    state : State or None
        As for ``Model.generate``.
    sampler : TokenSampler
    max_tokens : int
        Most tokens of the answer.
    max_thought : int
        Most tokens of the thought. With 0, the thought is empty.
    max_together : int, optional
        Most tokens of both. A thought that uses up all leaves an empty answer.
    stop : iterable of str, optional
        Stop strings of the answer, besides those of the template.
    deadline : float, optional
        Absolute ``time.monotonic()`` time to end at.
    constraint : TokenConstraint, optional
        What the answer must match. It begins with ``Template.lead``.

    Attributes
    ----------
    result : ThinkingResult
    sampler : TokenSampler
        The one that chose the last token.
    """

    def __init__(
        self,
        model: Model,
        template: Template,
        turn: str | Iterable[int],
        state: State | None,
        sampler: TokenSampler,
        max_tokens: int,
        max_thought: int,
        max_together: int | None = None,
        stop: Iterable[str] = (),
        deadline: float | None = None,
        constraint: TokenConstraint | None = None,
    ) -> None:
        self.model = model
        self.sampler = sampler
        self.result = ThinkingResult(model, template, state)
        self._template = template
        self._thoughts = template.thoughts or Thoughts()
        self._max_tokens = max_tokens
        self._max_thought = max_thought if self._thoughts.written else 0
        self._max_together = max_together
        self._stop = [*template.stop, *stop]
        self._deadline = deadline
        self._constraint = constraint
        self._cancelled = False
        self._part = self._begin(turn, state, 0)
        self._steps = self._run()

    @property
    def logits(self) -> np.ndarray:
        """What the last token was chosen from, float32, shape (V,)."""
        return self._part.logits

    def cancel(self) -> None:
        """End it within milliseconds; may be called from any thread."""
        self._cancelled = True
        self._part.cancel()

    def text(self) -> str:
        """Generate all that is left, and return the answer."""
        for _ in self:
            pass
        return self.result.text

    def __next__(self) -> Piece:
        """Make the next piece.

        Raises
        ------
        TinyRWKVError
            As for a `Generation`.
        """
        try:
            return next(self._steps)
        except ValueError as error:
            if str(error) != "generator already executing":
                raise
            what = ("generate", "next", "two calls at a time", "one at a time")
            sentence = "generate: another thread is iterating over this answer"
            raise TinyRWKVError(*what, "let one thread iterate", sentence) from None

    def _begin(
        self,
        prompt: str | Iterable[int],
        state: State | None,
        most: int,
        stop: Iterable[str] = (),
        constraint: TokenConstraint | None = None,
    ) -> Generation:
        """Begin a part; `cancel` from another thread finds it."""
        deadline = self._deadline
        if deadline is not None and self.result.timings["prompt_tokens"]:
            # A deadline that was checked once may have passed long ago.
            deadline = max(deadline, time.monotonic() - 1)
        self._part = self.model.generate(
            prompt,
            state=state,
            sampler=self.sampler,
            max_tokens=most,
            stop=stop,
            deadline=deadline,
            constraint=constraint,
        )
        if self._cancelled:
            self._part.cancel()
        return self._part

    def _end(self, part: Generation) -> bool:
        """Count what a part has done; tell whether it was complete."""
        self.sampler = part.sampler
        self.result.tokens += part.result.tokens
        told, times = part.result.timings, self.result.timings
        times["prompt_tokens"] += told["prompt_tokens"]
        times["prompt_seconds"] += told["prompt_seconds"]
        times["tokens"] += told["tokens"]
        times["seconds"] += told["seconds"]
        self.result.proposed += part.result.proposed
        self.result.accepted += part.result.accepted
        return part.result.stop_reason not in EARLY

    def _run(self) -> Iterator[Piece]:
        yield from self._parts()
        self.result.stop_reason = self._part.result.stop_reason

    def _parts(self) -> Iterator[Piece]:
        reading = self._part
        yield from reading  # no piece: it only reads the turn
        if not self._end(reading):
            return
        state = self.result.before = reading.result.state
        text = self._thoughts.empty
        if self._most(self._max_thought):
            thought = self._begin(
                *(self._thoughts.begin, state, self._most(self._max_thought)),
                stop=[self._thoughts.end, *self._template.stop],
            )
            text = yield from self._think(thought)
            if not self._end(thought):
                return
            state = thought.result.state
        most = self._most(self._max_tokens)
        answer = self._begin(text, state, most, self._stop, self._constraint)
        yield from self._answer(answer)
        self._end(answer)

    def _most(self, wanted: int) -> int:
        """Return how many tokens a part may have."""
        if self._max_together is None:
            return wanted
        return min(wanted, self._max_together - len(self.result.tokens))

    def _think(self, part: Generation) -> Generator[Piece, None, str]:
        """Yield a thought; return what ends it."""
        lead = _Lead()
        for piece in part:
            text = lead.push(piece.text)
            self.result._thought.append(text)
            yield self._thought_piece(piece, text)
        token_bytes = self.model.tokenizer.token_bytes
        written = b"".join(map(token_bytes, part.result.tokens))
        if self._thoughts.end.encode() in written:
            return self._thoughts.end[:-1]
        return self._thoughts.closing(part.result.text)

    def _answer(self, part: Generation) -> Iterator[Piece]:
        lead = _Lead()
        for piece in part:
            text = lead.push(piece.text)
            if lead.is_token(self._bytes(piece)):
                yield self._thought_piece(piece, "")
            else:
                self.result._answer.append(text)
                yield Piece(text, piece.token, piece.logprob)

    def _bytes(self, piece: Piece) -> bytes:
        return b"" if piece.token == NO_TOKEN else self.model.tokenizer.token_bytes(piece.token)

    def _thought_piece(self, piece: Piece, text: str) -> ThoughtPiece:
        self.result.timings["thought_tokens"] += piece.token != NO_TOKEN
        return ThoughtPiece(text, piece.token, piece.logprob)


class _Lead:
    r"""Leaves out ``">\n"``, the end of a tag, from the beginning of a text in pieces.

    Examples
    --------
    >>> lead = _Lead()
    >>> [lead.push(text) for text in (">", "", "\nYes", ">")]
    ['', '', 'Yes', '>']
    >>> [lead.is_token(data) for data in (b">", b"\n", b"Yes", b">")]
    [True, True, False, False]
    """

    def __init__(self) -> None:
        self._text = ">\n"
        self._bytes = b">\n"

    def push(self, text: str) -> str:
        """Return what is left of a piece."""
        while text and text[0] == self._text[:1]:
            text, self._text = text[1:], self._text[1:]
        if text:
            self._text = ""
        return text

    def is_token(self, data: bytes) -> bool:
        """Tell whether the bytes of the next token belong to the tag."""
        found = bool(data) and self._bytes.startswith(data)
        self._bytes = self._bytes[len(data) :] if found else b""
        return found


AnyGeneration = Generation | Thinking
"""What `Chat.ask` returns."""


def thought_tokens(result: Result | ThinkingResult) -> int:
    """Return how many of the tokens are those of a thought."""
    return result.timings["thought_tokens"] if isinstance(result, ThinkingResult) else 0
