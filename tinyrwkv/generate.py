"""Continue a prompt token by token: stop strings, deadlines, cancellation, and the state that fits the text."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import ArgumentError, TinyRWKVError
from .sampling import Sampler
from .state import State
from .tokenizer import StreamDecoder, to_bytes

if TYPE_CHECKING:
    from .model import Model

END_OF_DOCUMENT = 0
NO_TOKEN = -1


class Piece(NamedTuple):
    """What one step adds.

    `text` is empty while a character or a possible stop string is incomplete; `token` is -1 where the last piece
    brings only text that was held back. Under a constraint `logprob` is that among the tokens it allows.

    Examples
    --------
    >>> text, token, logprob = Piece(" left", 553, -0.1)
    >>> text
    ' left'
    """

    text: str
    token: int
    logprob: float


class Result:
    """What a generation has come to, so far or in the end.

    Attributes
    ----------
    text : str
        The pieces joined.
    tokens : list of int
        The tokens sampled, without the one that ends a document.
    stop_reason : str or None
        "stop" (a stop string, the end of the document or of what a constraint allows), "length", "deadline",
        "cancelled"; None while it runs.
    unread : list of int
        Tokens, of the prompt or sampled, that `state` has not read. To go on, give them as the next prompt.
    timings : dict
        prompt_tokens, prompt_seconds, tokens, seconds; the time of whoever uses the pieces is not in them.
    """

    def __init__(self, model: Model, state: State, unread: np.ndarray) -> None:
        self.text = ""
        self.tokens: list[int] = []
        self.stop_reason: str | None = None
        self.timings = {"prompt_tokens": 0, "prompt_seconds": 0.0, "tokens": 0, "seconds": 0.0}
        self._model, self._state = model, state
        self._unread: list[int] | np.ndarray = unread

    @property
    def unread(self) -> list[int]:  # noqa: D102 - described above
        self._settle()
        return [int(token) for token in self._unread]

    @property
    def state(self) -> State:
        """The state after the text, without the stop string; before the end that of the last whole token."""
        self._settle()
        return self._state.copy()

    def _settle(self) -> None:
        """Read what an ended text has more than the state; before the end it may take time that nobody has."""
        if len(self._unread) and self.stop_reason in ("stop", "length"):
            self._state = self._model.forward(self._unread, self._state, logits=None)[1]
            self._unread = []


class Generation(Iterator[Piece]):
    r"""Iterates over pieces of text; made by ``Model.generate``.

    Attributes
    ----------
    result : Result
        What has been iterated so far.
    logits : ndarray, float32, shape (V,)
        What the last token was chosen from; ``-inf`` where a constraint does not allow one.

    Examples
    --------
    >>> import tinyrwkv
    >>> generation = tinyrwkv.load().generate("User: Hello\n\nAssistant:")
    >>> first = next(generation)
    >>> generation.cancel()
    >>> list(generation), generation.result.stop_reason, len(generation.result.tokens)
    ([], 'cancelled', 1)
    """

    def __init__(
        self,
        model: Model,
        prompt: str | Iterable[int],
        state: State | None,
        sampler: Sampler,
        max_tokens: int,
        stop: Iterable[str],
        deadline: float | None,
        constraint: Any = None,
    ) -> None:
        stops = (
            [stop]
            if isinstance(stop, str)
            else list(stop)
            if isinstance(stop, Iterable)
            else [stop]
        )
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 0:
            raise ArgumentError(
                "generate", "max_tokens", repr(max_tokens), "a whole number", "give 0 or more"
            )
        if deadline is not None and not (
            isinstance(deadline, (int, float)) and not math.isnan(deadline)
        ):
            raise ArgumentError(
                "generate",
                "deadline",
                repr(deadline),
                "a time.monotonic() time",
                "add seconds to it",
            )
        if not all(isinstance(text, str) and text for text in stops):
            raise ArgumentError(
                "generate",
                "stop",
                repr(stops),
                "texts of 1 character or more",
                "leave out empty ones",
            )
        if not hasattr(sampler, "sample") or isinstance(sampler, type):
            raise ArgumentError(
                "generate", "sampler", repr(sampler), "a Sampler", "give tinyrwkv.Sampler(...)"
            )
        if constraint is not None and (
            not hasattr(constraint, "start") or isinstance(constraint, type)
        ):
            raise ArgumentError(
                "generate",
                "constraint",
                repr(constraint),
                "Choice, Regex or JsonSchema",
                "make one",
            )
        self._tokenizer = model.tokenizer if stops or "tokenizer.bytes" in model.file else None
        self._prompt, start = model.check_prompt(prompt, state)
        self.model, self.max_tokens, self.deadline = model, max_tokens, deadline
        self.sampler = sampler.copy()
        self.sampler.reset()
        self._walk = None if constraint is None else constraint.start(model)
        self._hidden = np.zeros(model.config["n_embd"] + 1, np.float32)
        self.logits = np.zeros(model.config["vocab_size"], np.float32)
        previewed = "head.rows.weight" in model.file
        self._exact = (
            (lambda ids: model.exact_logits(ids, self.logits, self._hidden)) if previewed else None
        )
        # Before a call of the kernels, and memory for after it; the caller's own state is left alone.
        self._now, self._next = (
            start.copy(),
            State(np.empty_like(start.data), start.tokens, start.origin),
        )
        self.result = Result(model, self._now, self._prompt)
        self._cancelled = threading.Event()
        self._stops, self._decoder = _Stops([to_bytes(text) for text in stops]), StreamDecoder()
        self._steps = self._run()

    def cancel(self) -> None:
        """End the generation within milliseconds; may be called from any thread."""
        self._cancelled.set()

    def __next__(self) -> Piece:
        """Make the next piece.

        Raises
        ------
        TinyRWKVError
            The model's logits are not numbers, because the file is damaged.
        """
        piece = next(self._steps)
        self.result.text += piece.text
        return piece

    def _run(self) -> Iterator[Piece]:
        result, timings, begin = self.result, self.result.timings, time.perf_counter()
        rest = self._prompt
        while len(rest):
            count = self.model.reader.pace.chunk(
                None if self.deadline is None else self.deadline - time.monotonic()
            )
            if not self._read(rest[:count], rest[count:]):
                return self._end(self._why())
            timings["prompt_tokens"] += min(count, len(rest))
            timings["prompt_seconds"] = time.perf_counter() - begin
            rest = rest[count:]
        kept: State | None = (
            None  # before the token in which text that may begin a stop string began
        )
        since = b""  # the bytes of the tokens after it
        while len(result.tokens) < self.max_tokens:
            begin = time.perf_counter()
            if not np.isfinite(self.logits).all():
                raise TinyRWKVError(
                    self.model.path, "logits", "nan or infinity", "numbers", "verify the file"
                )
            if self._walk is not None:
                self._walk.mask(self.logits, self._exact)
            token, logprob = self.sampler.sample(self.logits)
            self.sampler.accept(token)
            if token == END_OF_DOCUMENT:
                yield from self._flush()
                return self._end("stop")
            result.tokens.append(token)
            result._unread = [token]
            timings["tokens"] += 1
            data = self._tokenizer.token_bytes(token) if self._tokenizer else b""
            since += data
            shown, after_stop = self._stops.push(data)
            if after_stop is not None and self._tokenizer:
                result._state = kept or self._now
                result._unread = self._tokenizer.encode(since[: len(since) - after_stop])
                yield Piece(self._decoder.push(shown) + self._decoder.flush(), token, logprob)
                return self._end("stop")
            if not self._stops.held:
                kept, since = None, b""
            elif kept is None:
                kept = self._now.copy()
            complete = self._walk is not None and not self._walk.advance(token)
            last = complete or len(result.tokens) == self.max_tokens
            text = self._decoder.push(shown + self._stops.release() if last else shown)
            timings["seconds"] += time.perf_counter() - begin
            yield Piece(text + self._decoder.flush() if last else text, token, logprob)
            begin = time.perf_counter()
            if last:
                return self._end("stop" if complete else "length")
            if not self._read(np.array([token], np.int32), rest):
                yield from self._flush()
                return self._end(self._why())
            timings["seconds"] += time.perf_counter() - begin
        return self._end("length")

    def _read(self, ids: np.ndarray, rest: np.ndarray) -> bool:
        """Read tokens into the state, `rest` to follow; False where time or the caller ended it, all as it was."""
        out = None if len(rest) else self.logits
        if not self.model.reader.read(
            ids, self._now.data, self._next.data, out, self._why, self._hidden
        ):
            return False
        self._next.tokens = self._now.tokens + len(ids)
        self._now, self._next = self._next, self._now
        self.result._state, self.result._unread = self._now, rest
        return True

    def _why(self) -> str:
        """Tell what ends the generation before its time, if anything does."""
        if self._cancelled.is_set():
            return "cancelled"
        return "deadline" if self.deadline is not None and time.monotonic() >= self.deadline else ""

    def _flush(self) -> Iterator[Piece]:
        text = self._decoder.push(self._stops.release()) + self._decoder.flush()
        if text:
            yield Piece(text, NO_TOKEN, 0.0)

    def _end(self, reason: str) -> None:
        self.result.stop_reason = reason
        self._now = self._next = (
            self.result._state
        )  # whoever keeps a generation needs no more than its result


class _Stops:
    """Holds back bytes that may be the beginning of a stop string."""

    def __init__(self, stops: list[bytes]) -> None:
        self.stops, self.held = stops, b""

    def push(self, data: bytes) -> tuple[bytes, int | None]:
        """Return what is safe to show and, where a stop string is complete, how many bytes begin with it."""
        text = self.held + data
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.held = b""
            return text[: min(found)], len(text) - min(found)
        keep = max(
            (n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
            default=0,
        )
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def release(self) -> bytes:
        """Return what was held back: no stop string follows."""
        held, self.held = self.held, b""
        return held
