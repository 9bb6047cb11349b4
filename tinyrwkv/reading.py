"""The state of one generation as it reads tokens, some of them before they are chosen."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from .core import Core
from .engine.reader import MOST_AT_ONCE
from .state import State


class Speculation(Protocol):
    """Guesses, for one generation, which tokens follow. A wrong guess costs time, nothing else."""

    def hear(self, tokens: Iterable[int]) -> None:
        """Take note of the next tokens of the prompt."""

    def choose(self, token: int) -> None:
        """Take note of a token that was chosen and is to be read."""

    def propose(self, most: int) -> Sequence[int]:
        """Return the tokens that may follow the text, at most `most`, and none if it may not pay.

        It may raise an `InterruptionError`, as constraints may.
        """

    def judge(self, read: int, right: int) -> None:
        """Learn how many of the tokens proposed last were read, and were chosen, the first ones."""

    def learn(self, tokens: int, seconds: float) -> None:
        """Learn how long it took to read a number of tokens at once, with the logits of each."""


MOST_CHUNKS = 4
"""Generations that may have memory for a chunk at one time; more of them read token by token.

Who leaves a generation before its end leaves it to Python's garbage collector, which lets many of
them pile up.
"""


class ChunkMemory(NamedTuple):
    """Memory for what is known after each token of a chunk, a row for each.

    Attributes
    ----------
    states : ndarray, float32, shape (MOST_AT_ONCE, state_size)
    logits : ndarray, float32, shape (MOST_AT_ONCE, V)
    hidden : ndarray, float32, shape (MOST_AT_ONCE, C + 1)
    """

    states: np.ndarray
    logits: np.ndarray
    hidden: np.ndarray

    @classmethod
    def of(cls, model: Core) -> ChunkMemory | None:
        """Return memory that nobody is using; None if others have all that there may be.

        The system gives what is written to, not more.
        """
        reader = model.reader
        try:
            return reader.chunks.pop()
        except IndexError:
            reader.chunks_made = [made for made in reader.chunks_made if made() is not None]
        if len(reader.chunks_made) >= MOST_CHUNKS:
            return None
        widths = model.state_size, model.config["vocab_size"], model.config["n_embd"] + 1
        memory = cls(*(np.zeros((MOST_AT_ONCE, width), np.float32) for width in widths))
        reader.chunks_made.append(weakref.ref(memory.states))
        return memory


class Reading:
    """Reads tokens for one generation, and some ahead of their choice.

    A chosen token must be read before the next one can be chosen. With a speculation, the tokens
    that may follow are read with it, since several tokens need one reading of the weights. The
    kernels compute for each token of a chunk the bits that they compute for it alone. If the next
    token that is chosen was read ahead, its logits and its state are already there. If another one
    is chosen, the rest of the chunk is forgotten.

    Parameters
    ----------
    model : Core
    state : State
        Where it begins; left alone.
    stopped : callable
        Asked while tokens are read; a true answer ends that.

    Attributes
    ----------
    now : State
        After the last token that was read.
    before : State
        The state that the last call began from; if it read a chosen token, before that token.
    last : ndarray, int32
        The tokens between the two.
    logits : ndarray, float32, shape (V,)
        After the last token.
    hidden : ndarray, float32, shape (C + 1,)
        What went into the head after the last token, see ``Reader.read``.
    speculation : Speculation or None
    proposed, accepted : int
        Tokens that were read ahead, and those of them that were chosen.
    """

    def __init__(self, model: Core, state: State, stopped: Callable[[], Any]) -> None:
        self._model = model
        self._stopped = stopped
        self.now = self.before = state.copy()
        # Each call reads one state and writes another: the caller's own state is left alone.
        self._own = (self.now.data, np.empty_like(state.data))
        self.last = np.empty(0, np.int32)
        self.logits = np.zeros(model.config["vocab_size"], np.float32)  # (V,)
        self.hidden = np.zeros(model.config["n_embd"] + 1, np.float32)  # (C + 1,)
        self.speculation: Speculation | None = None
        self.proposed = self.accepted = 0
        self._chunk: list[int] = []  # the tokens read at once; those from _place on are ahead
        self._place = 0
        self._memory: ChunkMemory | None = None

    def read(self, ids: np.ndarray, with_logits: bool = True) -> bool:
        """Read tokens; return False, and stay where it was, if `stopped` ended it.

        Parameters
        ----------
        ids : ndarray, int32, shape (T,), 1 <= T <= 16
        with_logits : bool, optional
            Whether the logits after the last one are wanted.
        """
        new = self._spare()
        out = self.logits if with_logits else None
        reader = self._model.reader
        if not reader.read(ids, self.now.data, new, out, self._stopped, self.hidden):
            return False
        self._reach(new, ids)
        return True

    def read_chosen(self, token: int, most: int, seconds: float | None) -> bool:
        """Read a token that was chosen, if it was not read ahead; return False as `read` does.

        Parameters
        ----------
        token : int
        most : int
            Tokens that may be read ahead with it.
        seconds : float or None
            Time until a deadline, if there is one.
        """
        speculation = self.speculation
        if speculation is None:
            return self.read(np.array([token], np.int32))
        if self._stopped():
            return False
        speculation.choose(token)
        if self._place < len(self._chunk) and self._chunk[self._place] == token:
            self.accepted += 1
            self._take()
            return True
        if self._chunk:
            speculation.judge(len(self._chunk) - 1, self._place - 1)
            self._chunk = []
        ahead = speculation.propose(min(most, MOST_AT_ONCE - 1)) if most > 0 else ()
        if ahead:
            ahead = ahead[: self._model.reader.pace.chunk(seconds) - 1]
        if ahead and self._memory is None:
            self._memory = ChunkMemory.of(self._model)
            ahead = () if self._memory is None else ahead
        begin = time.perf_counter()
        done = self._read_chunk(token, ahead) if ahead else self.read(np.array([token], np.int32))
        if done:
            speculation.learn(1 + len(ahead), time.perf_counter() - begin)
        return done

    def _read_chunk(self, token: int, ahead: Sequence[int]) -> bool:
        """Read a token and some ahead; return False as `read` does."""
        assert self._memory is not None, "there are tokens ahead"
        self._move_from_chunk()
        chunk = [token, *ahead]
        n = len(chunk)
        new, out, hidden = (part[:n] for part in self._memory)
        ids = np.array(chunk, np.int32)
        if not self._model.reader.read(ids, self.now.data, new, out, self._stopped, hidden):
            return False
        self.proposed += len(ahead)
        self._chunk = chunk
        self._place = 0
        self._take()
        return True

    def _take(self) -> None:
        """Go on to the next token of the chunk."""
        assert self._memory is not None, "a chunk was read"
        i = self._place
        self._place += 1
        self.logits[:] = self._memory.logits[i]
        self.hidden[:] = self._memory.hidden[i]
        self._reach(self._memory.states[i], np.array([self._chunk[i]], np.int32))

    def _reach(self, data: np.ndarray, ids: np.ndarray) -> None:
        self.before = self.now
        self.now = State(data, self.before.tokens + len(ids), self.before.origin)
        self.last = ids

    def _spare(self) -> np.ndarray:
        """Return the memory of a state that the next call may write to."""
        return self._own[self.now.data is self._own[0]]

    def end(self) -> None:
        """Give the memory of the chunks back; what lies in it is void, and nothing more is read."""
        if self._memory is not None:
            self._model.reader.chunks.append(self._memory)
            self._memory = None

    def _move_from_chunk(self) -> None:
        """Move the state that was reached to memory of its own, if it is one of the chunk."""
        if not any(self.now.data is own for own in self._own):
            spare = self._own[0]
            spare[:] = self.now.data
            self.now.data = spare  # the same numbers: whoever has the state sees no change
