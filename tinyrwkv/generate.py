"""Continue a prompt token by token, up to a stop string, a deadline or a cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, TypedDict, cast

import numpy as np

from .arguments import real_number, whole_number
from .core import Core
from .errors import ArgumentError, TinyRWKVError, show
from .sampling import TokenSampler
from .state import State
from .tokenizer import END_OF_DOCUMENT, StreamDecoder, Tokenizer, to_bytes

NO_TOKEN = -1

_NOTHING = np.empty(0, np.int32)

ExactLogits = Callable[[np.ndarray], np.ndarray]
"""Takes ids (n,) and returns their logits (n,), computed from whole rows of the head."""


class ConstraintWalk(Protocol):
    """How far one generation has come in the texts that a `TokenConstraint` allows."""

    def mask(self, logits: np.ndarray, exact: ExactLogits | None) -> None:
        """Put ``-inf``, in place, for every token that may not follow.

        Parameters
        ----------
        logits : ndarray, float32, shape (V,)
        exact : callable or None
            If the head has a preview, ``exact(ids)`` returns better logits for some ids.
        """

    def advance(self, token: int) -> bool:
        """Go on by the token chosen; return False if nothing may follow it."""


class TokenConstraint(Protocol):
    """What the text of a generation must match: `Choice`, `Regex`, `JsonSchema` or your class."""

    def start(self, model: Core) -> ConstraintWalk:
        """Begin a text for one generation."""


class Piece(NamedTuple):
    """What one step of a generation adds.

    `text` is empty while a character or a possible stop string is incomplete. `token` is -1 if the
    piece is the last and only brings text that was kept back. Under a constraint, `logprob` counts
    only the tokens that the constraint allows.

    Examples
    --------
    >>> text, token, logprob = Piece(" left", 553, -0.1)
    >>> text
    ' left'
    """

    text: str
    token: int
    logprob: float


class Timings(TypedDict):
    """Tokens read and generated, and the seconds they took."""

    prompt_tokens: int
    prompt_seconds: float
    tokens: int
    seconds: float


class Result:
    """What a generation has produced so far; at the end, all of it.

    Attributes
    ----------
    text : str
        The pieces joined.
    tokens : list of int
        The tokens sampled, without the one that ends a document.
    stop_reason : str or None
        "stop" (a stop string, the end of the document or of what a constraint allows), "length",
        "deadline", "cancelled"; None while it runs.
    timings : dict
        prompt_tokens, prompt_seconds, tokens, seconds. The time that the caller spends on the
        pieces is not counted.

    Examples
    --------
    >>> import tinyrwkv
    >>> generation = tinyrwkv.load().generate("User: Hello", max_tokens=3)
    >>> pieces = list(generation)
    >>> generation.result.stop_reason, generation.result.timings["tokens"]
    ('length', 3)
    """

    def __init__(self, model: Core, state: State, unread: np.ndarray) -> None:
        self.text = ""
        self.tokens: list[int] = []
        self.stop_reason: str | None = None
        self.timings: Timings = {
            "prompt_tokens": 0,
            "prompt_seconds": 0.0,
            "tokens": 0,
            "seconds": 0.0,
        }
        self._model = model
        self._reach(state, unread)

    @property
    def unread(self) -> list[int]:
        """The tokens that `state` has not read yet, as a prompt to go on with.

        They are tokens of the prompt, or tokens that were sampled.
        """
        self._settle()
        return [int(token) for token in self._unread]

    @property
    def state(self) -> State:
        """The state after the text, without the stop string.

        Before the generation ends, it is the state after the tokens that were read so far.
        """
        self._settle()
        return self._state.copy()

    def _reach(self, state: State, unread: np.ndarray | list[int]) -> None:
        """Set the state that was reached, and the tokens that it has not read."""
        self._state = state
        self._unread = unread

    def _settle(self) -> None:
        """Read what the state lacks, if the text has ended; before that there may be no time."""
        if len(self._unread) and self.stop_reason in ("stop", "length"):
            _, state = self._model.forward(self._unread, self._state, logits=None)
            self._reach(state, [])


class Generation(Iterator[Piece]):
    r"""Iterates over pieces of text; made by ``Model.generate``.

    Attributes
    ----------
    result : Result
        What has been iterated so far.
    logits : ndarray, float32, shape (V,)
        What the last token was chosen from; ``-inf`` for tokens that a constraint does not allow.

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
        model: Core,
        prompt: str | Iterable[int],
        state: State | None,
        sampler: TokenSampler,
        max_tokens: int,
        stop: str | Iterable[str],
        deadline: float | None,
        constraint: TokenConstraint | None = None,
    ) -> None:
        stops = _check_stops(stop)
        _check_methods("sampler", sampler, "a Sampler", ("copy", "reset", "sample", "accept"))
        if constraint is not None:
            _check_methods("constraint", constraint, "Choice, Regex or JsonSchema", ("start",))
        self.model = model
        self.max_tokens = whole_number("generate", "max_tokens", max_tokens)
        self.deadline = deadline
        if deadline is not None:
            fix = "give time.monotonic() + seconds"
            self.deadline = real_number("generate", "deadline", deadline, fix=fix)

        self._tokenizer: Tokenizer | None = None
        if stops or "tokenizer.bytes" in model.file:
            self._tokenizer = model.tokenizer
        self._prompt, start = model.check_prompt(prompt, state)
        # The state before a call of the kernels, and a buffer for the one after it. The caller's
        # own state is left alone.
        self._now = start.copy()
        self._next = State(np.empty_like(start.data), start.tokens, start.origin)
        self.logits = np.zeros(model.config["vocab_size"], np.float32)  # (V,)
        self._hidden = np.zeros(model.config["n_embd"] + 1, np.float32)  # (C + 1,)

        self.sampler = sampler.copy()
        self.sampler.reset()
        self._walk = None if constraint is None else constraint.start(model)
        self._exact = self._exact_logits if model.has_preview else None
        self._stops = _StopStrings([to_bytes(text) for text in stops])
        # If a stop string may have begun in some token: the state before that token, and the bytes
        # from that token on.
        self._match_state: State | None = None
        self._match_bytes = b""
        self._decoder = StreamDecoder()
        self._cancelled = threading.Event()
        self.result = Result(model, self._now, self._prompt)
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
        if not self._read_prompt():
            return self._end(self._interruption())
        timings = self.result.timings
        while len(self.result.tokens) < self.max_tokens:
            begin = time.perf_counter()
            token, logprob = self._choose()
            if token == END_OF_DOCUMENT:
                yield from self._last_piece()
                return self._end("stop")
            text, reason = self._add(token)
            timings["seconds"] += time.perf_counter() - begin
            yield Piece(text, token, logprob)
            if reason:
                return self._end(reason)

            begin = time.perf_counter()
            if not self._read(np.array([token], np.int32), _NOTHING):
                yield from self._last_piece()
                return self._end(self._interruption())
            timings["seconds"] += time.perf_counter() - begin
        return self._end("length")

    def _read_prompt(self) -> bool:
        """Read the prompt in chunks that the deadline leaves time for; False if interrupted."""
        timings = self.result.timings
        begin = time.perf_counter()
        rest = self._prompt
        while len(rest):
            seconds = None if self.deadline is None else self.deadline - time.monotonic()
            count = self.model.reader.pace.chunk(seconds)
            chunk, rest = rest[:count], rest[count:]
            if not self._read(chunk, rest):
                return False
            timings["prompt_tokens"] += len(chunk)
            timings["prompt_seconds"] = time.perf_counter() - begin
        return True

    def _read(self, ids: np.ndarray, rest: np.ndarray) -> bool:
        """Read tokens into the state; False, with nothing changed, if interrupted.

        `rest` is what will still be unread: logits are needed only after the last token.
        """
        out = None if len(rest) else self.logits
        old = self._now
        new = self._next
        reader = self.model.reader
        if not reader.read(ids, old.data, new.data, out, self._interruption, self._hidden):
            return False
        new.tokens = old.tokens + len(ids)
        self._now = new
        self._next = old
        self.result._reach(new, rest)
        return True

    def _choose(self) -> tuple[int, float]:
        """Choose the next token from the logits; return it and its logprob."""
        if not np.isfinite(self.logits).all():
            path = self.model.path
            found = "nan or infinity"
            sentence = f"{path}: the model computed {found} as logits"
            raise TinyRWKVError(path, "logits", found, "numbers", "verify the file", sentence)
        if self._walk is not None:
            self._walk.mask(self.logits, self._exact)
        token, logprob = self.sampler.sample(self.logits)
        self.sampler.accept(token)
        return token, logprob

    def _exact_logits(self, ids: np.ndarray) -> np.ndarray:
        return self.model.exact_logits(ids, self.logits, self._hidden)

    def _add(self, token: int) -> tuple[str, str | None]:
        """Add a token; return the text to show, and why the generation ends here, if it does."""
        result = self.result
        result.tokens.append(token)
        result._reach(self._now, [token])
        result.timings["tokens"] += 1
        data = self._tokenizer.token_bytes(token) if self._tokenizer else b""
        shown, is_stop = self._take(data)
        if is_stop:
            return self._decoder.push(shown) + self._decoder.flush(), "stop"
        reason = None
        if self._walk is not None and not self._walk.advance(token):
            reason = "stop"
        elif len(result.tokens) == self.max_tokens:
            reason = "length"
        text = self._decoder.push(shown)
        if reason:
            text += self._rest()
        return text, reason

    def _take(self, data: bytes) -> tuple[bytes, bool]:
        """Take the bytes of a token; return those to show, and whether a stop string is complete.

        If it is complete, the text ends before it, maybe within a token. Then the result goes back
        to the state before that token, and the bytes up to the stop string are encoded anew.
        """
        self._match_bytes += data
        shown, size = self._stops.push(data)
        if size is not None and self._tokenizer is not None:
            unread = self._tokenizer.encode(self._match_bytes[:-size])
            self.result._reach(self._match_state or self._now, unread)
            return shown, True
        if not self._stops.partial:
            self._match_state = None
            self._match_bytes = b""
        elif self._match_state is None:
            self._match_state = self._now.copy()
        return shown, False

    def _rest(self) -> str:
        """Return the text that was kept back, as no stop string follows."""
        return self._decoder.push(self._stops.release()) + self._decoder.flush()

    def _interruption(self) -> str:
        """Return what ends the generation early, "cancelled" or "deadline"; "" if nothing does."""
        if self._cancelled.is_set():
            return "cancelled"
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return "deadline" if late else ""

    def _last_piece(self) -> Iterator[Piece]:
        """Yield the text that was kept back, if there is any."""
        text = self._rest()
        if text:
            yield Piece(text, NO_TOKEN, 0.0)

    def _end(self, reason: str) -> None:
        self.result.stop_reason = reason
        # Let go of the other buffer: who keeps a generation only needs its result.
        self._now = self._next = self.result._state


def _check_stops(stop: object) -> list[str]:
    """Return the stop strings as a list; raise an ArgumentError if one is not a text, or empty."""
    single = isinstance(stop, str) or not isinstance(stop, Iterable)
    stops = [stop] if single else list(cast(Iterable[object], stop))
    if not all(isinstance(text, str) and text for text in stops):
        found = show(stops)
        expected = "texts of 1 character or more"
        sentence = f"generate: stop must be {expected}, not {found}"
        raise ArgumentError("generate", "stop", found, expected, "leave out empty ones", sentence)
    return cast(list[str], stops)


def _check_methods(name: str, value: object, expected: str, methods: tuple[str, ...]) -> None:
    """Raise an ArgumentError if a value is a class, or an object without these methods."""
    if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
        found = show(value)
        expected += f", or an object with the methods {', '.join(methods)}"
        sentence = f"generate: {name} must be {expected}, not {found}"
        raise ArgumentError("generate", name, found, expected, "make one and give it", sentence)


class _StopStrings:
    """Finds stop strings in the bytes of tokens, wherever one token ends and the next begins.

    Attributes
    ----------
    partial : bytes
        The end of the text that may be the beginning of a stop string, and is not shown yet.
    """

    def __init__(self, stops: list[bytes]) -> None:
        self.stops = stops
        self.partial = b""

    def push(self, data: bytes) -> tuple[bytes, int | None]:
        """Add bytes to the text; return those to show, and the bytes from a stop string on.

        Returns
        -------
        shown : bytes
        size : int or None
            How many bytes there are from the stop string on; None if none is complete.
        """
        text = self.partial + data
        found = [start for stop in self.stops if (start := text.find(stop)) >= 0]
        if found:
            self.partial = b""
            return text[: min(found)], len(text) - min(found)
        end = len(text) - self._overlap(text)
        self.partial = text[end:]
        return text[:end], None

    def _overlap(self, text: bytes) -> int:
        """Return the length of the longest suffix of a text that is a prefix of a stop string."""
        longest = 0
        for stop in self.stops:
            for size in range(longest + 1, len(stop)):
                if text.endswith(stop[:size]):
                    longest = size
        return longest

    def release(self) -> bytes:
        """Return the partial match, and forget it, as no stop string follows."""
        partial = self.partial
        self.partial = b""
        return partial
