"""Continue a prompt token by token, up to a stop string, a deadline or a cancellation."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import ClassVar, NamedTuple, Protocol, TypedDict

import numpy as np

from .arguments import TEXTS, items, real_number, refusal, whole_number
from .core import Core
from .errors import TinyRWKVError
from .reading import Reading, Speculation
from .sampling import TokenSampler
from .state import State
from .stop_strings import StopStrings
from .tokenizer import END_OF_DOCUMENT, StreamDecoder, Tokenizer, to_bytes

NO_TOKEN = -1

MOST_STOP_BYTES = 16_384
"""Bytes of all stop strings together; bounds the time and the memory to prepare them."""

PIECE_OF_PROMPT = 256
"""Tokens that a text is turned into at a time, so that a deadline can end a long one."""


class InterruptionError(Exception):
    """Ends the reading of tokens, or the work of a constraint, when there is no time left."""


WAIT = 60
"""Seconds that a request may wait after its deadline; the clock begins with the machine."""

ExactLogits = Callable[[np.ndarray], np.ndarray]
"""Takes ids (n,) and returns their logits (n,), computed from whole rows of the head."""


class ConstraintWalk(Protocol):
    """How far one generation has come in the texts that a `TokenConstraint` allows."""

    def mask(self, logits: np.ndarray, exact: ExactLogits | None) -> None:
        """Put ``-inf``, in place, for every token that may not follow.

        A walk that may take long has an attribute ``stopped`` besides. The generation puts a
        function there. When it returns a true value, `mask` should leave the logits as they were
        and raise an `InterruptionError`.

        Parameters
        ----------
        logits : ndarray, float32, shape (V,)
        exact : callable or None
            If the head has a preview, ``exact(ids)`` returns better logits for some ids.
        """

    def advance(self, token: int) -> bool:
        """Go on by the token chosen; return False if nothing may follow it.

        A walk may have a method ``forced(most)`` besides: it returns the tokens, `most` at most,
        that spell what must follow. They are read together. Which tokens are chosen is as without.
        """


class TokenConstraint(Protocol):
    """What the text of a generation must match: `Choice`, `Regex`, `JsonSchema` or your class."""

    def start(self, model: Core) -> ConstraintWalk:
        """Begin a text for one generation."""


class StartSpeculation(Protocol):
    """Makes what guesses the tokens of a generation."""

    def __call__(
        self,
        model: Core,
        walk: ConstraintWalk | None,
        lookup: bool,
        draft: Core | None,
        stopped: Callable[[], str],
    ) -> Speculation | None:
        """Do what `tinyrwkv.speculate.start` does."""


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
        The pieces joined. Before the first piece was asked for, a TinyRWKVError.
    tokens : list of int
        The tokens sampled, without the one that ends a document.
    stop_reason : str or None
        "stop" (a stop string, the end of the document or of what a constraint allows), "length",
        "deadline", "cancelled"; None while it runs.
    timings : dict
        prompt_tokens, prompt_seconds, tokens, seconds. The time that the caller spends on the
        pieces is not counted.
    proposed, accepted : int
        Tokens that were guessed and read ahead, and those of them that were chosen.

    Examples
    --------
    >>> import tinyrwkv
    >>> generation = tinyrwkv.load().generate("User: Hello", max_tokens=3)
    >>> pieces = list(generation)
    >>> generation.result.stop_reason, generation.result.timings["tokens"]
    ('length', 3)
    """

    def __init__(self, model: Core, state: State, unread: Iterable[int]) -> None:
        self._text: io.StringIO | None = None  # grows by what is added, unlike a str
        self.tokens: list[int] = []
        self.stop_reason: str | None = None
        self.timings = Timings(prompt_tokens=0, prompt_seconds=0.0, tokens=0, seconds=0.0)
        self.proposed = self.accepted = 0
        self._model = model
        self._reach(state, unread)

    def __repr__(self) -> str:
        return f"<Result: {self._about()}>"

    def _about(self) -> str:
        """Return the text and why it ended, as a repr shows them."""
        if self._text is None:
            return "no text yet"
        count = len(self.tokens)
        ended = f"ended by {self.stop_reason}" if self.stop_reason else "not ended"
        return f"{self.text!r}, {count} token{'s' * (count != 1)}, {ended}"

    @property
    def text(self) -> str:
        """The pieces joined."""
        if self._text is None:
            fix = "iterate over the generation, or call its text()"
            sentence = "generate: there is no text yet, because nobody asked for a piece"
            raise TinyRWKVError("generate", "result", "no piece", "a piece", fix, sentence)
        return self._text.getvalue()

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

    def _reach(self, state: State, unread: Iterable[int] = ()) -> None:
        """Set the state that was reached, and the tokens that it has not read."""
        self._state = state
        self._unread = unread

    def _move_to_own_memory(self) -> None:
        """Move the state away from those of a chunk, if it is one of them."""
        if self._state.data.base is not None:
            self._state = self._state.copy()

    def _settle(self) -> None:
        """Read what the state lacks, if the text has ended; before that there may be no time."""
        if self.stop_reason in ("stop", "length") and (rest := list(self._unread)):
            _, state = self._model.forward(rest, self._state, logits=None)
            self._reach(state)


class _Prompt:
    """What is left of a prompt; a text becomes tokens piece by piece, as they are read."""

    def __init__(self, model: Core, prompt: str | Iterable[int], state: State | None) -> None:
        self._text = b""
        self._place = 0
        if isinstance(prompt, TEXTS):
            self._tokenizer = model.tokenizer
            self._text = to_bytes(prompt)
            prompt = self._encode()
        self.ids, self.state = model.check_prompt(prompt, state)

    def _encode(self) -> list[int]:
        """Return the next tokens of the text."""
        ids, self._place = self._tokenizer.encode_part(self._text, self._place, PIECE_OF_PROMPT)
        return ids

    def drop(self, count: int) -> None:
        """Forget the first tokens, which were read."""
        self.ids = self.ids[count:]
        if not len(self.ids) and self._place < len(self._text):
            self.ids = np.array(self._encode(), np.int32)

    def ends_after(self, count: int) -> bool:
        """Tell whether these are all tokens."""
        return count == len(self.ids) and self._place == len(self._text)

    def __iter__(self) -> Iterator[int]:
        """Yield all tokens."""
        yield from self.ids.tolist()
        if self._text:
            yield from self._tokenizer.encode(self._text[self._place :])


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

    speculate: ClassVar[StartSpeculation]
    """The function `speculate.start`; the package puts it here: no token needs what it imports."""

    def __init__(
        self,
        model: Core,
        prompt: str | Iterable[int],
        state: State | None,
        sampler: TokenSampler,
        max_tokens: int,
        stop: str | Iterable[str],
        deadline: float | None,
        timeout: float | None = None,
        constraint: TokenConstraint | None = None,
        lookup: bool = True,
        draft: Core | None = None,
    ) -> None:
        self.deadline = check_time(deadline, timeout)
        stops = _check_stops(stop)
        _check_methods("sampler", sampler, "a Sampler", ("copy", "reset", "sample", "accept"))
        if constraint is not None:
            _check_methods("constraint", constraint, "Choice, Regex or JsonSchema", ("start",))
        self.model = model
        self.max_tokens = whole_number("generate", "max_tokens", max_tokens)

        self._tokenizer: Tokenizer | None = None
        if stops or "tokenizer.bytes" in model.file:
            self._tokenizer = model.tokenizer
        self._prompt = _Prompt(model, prompt, state)
        self._reading = Reading(model, self._prompt.state, self._interruption)
        self.logits = self._reading.logits  # (V,)

        self.sampler = sampler.copy()
        self.sampler.reset()
        self._walk = None if constraint is None else constraint.start(model)
        if self._walk is not None and hasattr(self._walk, "stopped"):
            self._walk.stopped = self._interruption
        self._exact: ExactLogits | None = None
        if model.has_preview:
            self._exact = lambda ids: model.exact_logits(ids, self.logits, self._reading.hidden)
        guess = lookup, draft, self._interruption
        self._reading.speculation = self.speculate(model, self._walk, *guess)
        self._stops = StopStrings(stops)
        # If a stop string may have begun: states before two tokens, the first of them not after
        # the place where it begins, and the bytes from each of these tokens on.
        self._marks: list[tuple[State, bytearray]] = []
        self._decoder = StreamDecoder()
        self._cancelled = False
        self.result = Result(model, self._reading.now, self._prompt)
        self._steps = self._run()

    def __repr__(self) -> str:
        return f"<Generation: {self.result._about()}>"

    def cancel(self) -> None:
        """End the generation within milliseconds; may be called from any thread."""
        self._cancelled = True

    def text(self) -> str:
        """Generate all that is left, and return the whole text.

        Returns
        -------
        str
            The same as ``result.text`` at the end.
        """
        for _ in self:
            pass
        return self.result.text

    def __next__(self) -> Piece:
        """Make the next piece.

        Raises
        ------
        TinyRWKVError
            The model's logits are not numbers, because the file is damaged. Or another thread is
            making a piece: a generation belongs to one thread at a time.
        """
        text = self.result._text = self.result._text or io.StringIO()
        try:
            piece = next(self._steps)
        except ValueError as error:
            if str(error) != "generator already executing":
                raise
            what = ("generate", "next", "two calls at a time", "one at a time")
            sentence = "generate: another thread is iterating over this generation"
            raise TinyRWKVError(*what, "let one thread iterate", sentence) from None
        text.write(piece.text)
        return piece

    def _run(self) -> Iterator[Piece]:
        try:
            reason = yield from self._pieces()
        except InterruptionError:  # the kernels or the constraint were interrupted
            reason = self._interruption()
            if not reason:
                raise
            yield from self._last_piece()
        self.result.stop_reason = reason
        # Let go of the other states: who keeps a generation only needs its result.
        self.result._move_to_own_memory()
        self._reading.end()
        del self._reading, self._exact, self._walk  # some refer to this object: it would stay
        self._marks = []

    def _pieces(self) -> Generator[Piece, None, str]:
        """Yield the pieces; return why there are no more."""
        self._read_prompt()
        timings = self.result.timings
        while len(self.result.tokens) < self.max_tokens:
            begin = time.perf_counter()
            token, logprob = self._choose()
            if token == END_OF_DOCUMENT:
                yield from self._last_piece()
                return "stop"
            text, reason = self._add(token)
            timings["seconds"] += time.perf_counter() - begin
            yield Piece(text, token, logprob)
            if reason:
                return reason

            begin = time.perf_counter()
            self._read_chosen(token)
            timings["seconds"] += time.perf_counter() - begin
        return "length"

    def _read_prompt(self) -> None:
        """Read the prompt in chunks that the deadline leaves time for."""
        timings = self.result.timings
        begin = time.perf_counter()
        prompt = self._prompt
        reading = self._reading
        while len(prompt.ids):
            chunk = prompt.ids[: self.model.reader.pace.chunk(self._seconds_left())]
            if not reading.read(chunk, prompt.ends_after(len(chunk))):
                raise InterruptionError
            prompt.drop(len(chunk))
            self.result._reach(reading.now, prompt)
            if reading.speculation is not None:
                reading.speculation.hear(chunk.tolist())
            timings["prompt_tokens"] += len(chunk)
            timings["prompt_seconds"] = time.perf_counter() - begin

    def _read_chosen(self, token: int) -> None:
        """Read a token that was chosen. An InterruptionError leaves the state as it is."""
        result, reading = self.result, self._reading
        # The last token of a generation is chosen and not read, so the one before ends a chunk.
        most = self.max_tokens - len(result.tokens) - 1
        if not reading.read_chosen(token, most, self._seconds_left()):
            raise InterruptionError
        result._reach(reading.now)
        result.proposed, result.accepted = reading.proposed, reading.accepted

    def _choose(self) -> tuple[int, float]:
        """Choose the next token from the logits; return it and its logprob."""
        if not np.isfinite(self.logits).all():
            path = self.model.path
            found = "nan or infinity"
            sentence = f"{path}: the model computed {found} as logits"
            raise TinyRWKVError(path, "logits", found, "numbers", "verify the file", sentence)
        if self._walk is not None:
            # If the constraint is interrupted, the last tokens must be read again for the logits.
            self.result._reach(self._reading.before, self._reading.last)
            self._walk.mask(self.logits, self._exact)
            self.result._reach(self._reading.now)
        token, logprob = self.sampler.sample(self.logits)
        token = whole_number("sampler", "token", token, 0, len(self.logits) - 1)
        self.sampler.accept(token)
        return token, logprob

    def _add(self, token: int) -> tuple[str, str | None]:
        """Add a token; return the text to show, and why the generation ends here, if it does."""
        result = self.result
        result.tokens.append(token)
        result._reach(self._reading.now, [token])
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
        for _, since in self._marks:
            since += data
        shown, size = self._stops.push(data)
        if size is not None and self._tokenizer is not None:
            here = self._reading.now, bytearray(data)
            state, since = self._marks[0] if self._marks else here
            self.result._reach(state, self._tokenizer.encode(bytes(since[:-size])))
            return shown, True
        self._set_marks(data)
        return shown, False

    def _set_marks(self, data: bytes) -> None:
        """Keep the states that are needed if what may be a stop string is one.

        There are at most two, since states are large. The second one takes the place of the first
        when the stop string can only begin after it. So what must be read again never grows longer
        than two stop strings.
        """
        partial = len(self._stops.partial)
        if not partial:
            self._marks = []
            return
        if len(self._marks) == 2 and len(self._marks[1][1]) >= partial:
            del self._marks[0]
        if len(self._marks) < 2:
            self._marks.append((self._reading.now.copy(), bytearray(data)))

    def _rest(self) -> str:
        """Return the text that was kept back, as no stop string follows."""
        return self._decoder.push(self._stops.release()) + self._decoder.flush()

    def _seconds_left(self) -> float | None:
        """Return the time until the deadline; None if there is none."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def _interruption(self) -> str:
        """Return what ends the generation early, "cancelled" or "deadline"; "" if nothing does."""
        if self._cancelled:
            return "cancelled"
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return "deadline" if late else ""

    def _last_piece(self) -> Iterator[Piece]:
        """Yield the text that was kept back, if there is any."""
        text = self._rest()
        if text:
            yield Piece(text, NO_TOKEN, 0.0)


def check_time(deadline: float | None, timeout: float | None) -> float | None:
    """Return the deadline; raise an ArgumentError if it is of another clock, or none."""
    now = time.monotonic()
    if timeout is not None:
        if deadline is not None:
            expected = "given without a deadline"
            raise refusal("generate", "timeout", timeout, expected, "leave one of them out")
        return now + real_number("generate", "timeout", timeout, 0, fix="give seconds")
    if deadline is None:
        return None
    fix = "give timeout=seconds, or deadline=time.monotonic() + seconds"
    expected = "an absolute time.monotonic() time"
    deadline = real_number("generate", "deadline", deadline, fix=fix)
    # Whoever computed a deadline added something to a time. Nobody waits for a minute after it, nor
    # since the clock showed half of what it shows now. So this is a number of seconds, or
    # time.time(). 0 is no mistake: by every clock there is no time left.
    is_duration = 0 < deadline < min(now / 2, now - WAIT)
    is_unix_time = abs(deadline - time.time()) < now and deadline > 2 * now
    if is_duration or is_unix_time:
        raise refusal("generate", "deadline", deadline, expected, fix)
    return deadline


def _check_stops(stop: object) -> list[bytes]:
    """Return the stop strings; raise an ArgumentError if one is not a text, empty, or too long."""
    expected = f"texts of 1 character or more, of {MOST_STOP_BYTES:,} bytes together at most"
    fix = "leave out empty ones; of long ones, the first words are enough"
    stops = [stop] if isinstance(stop, str) else items("generate", "stop", stop, expected, fix)
    found = [to_bytes(text) for text in stops if isinstance(text, str)]
    if len(found) < len(stops) or not all(found) or sum(map(len, found)) > MOST_STOP_BYTES:
        raise refusal("generate", "stop", stops, expected, fix)
    return found


def _check_methods(name: str, value: object, expected: str, methods: tuple[str, ...]) -> None:
    """Raise an ArgumentError if a value is a class, or an object without these methods."""
    has_all = all(callable(getattr(value, method, None)) for method in methods)
    if isinstance(value, type) or not has_all:
        expected += f", or an object with the methods {', '.join(methods)}"
        raise refusal("generate", name, value, expected, "make one and give it")
