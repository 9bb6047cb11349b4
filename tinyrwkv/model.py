"""A model: its file mapped once, its program, and the calls that read tokens."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from .engine.backends import make
from .engine.limit import NoLimit, ResidentLimit
from .engine.plan import MemoryPlan, memory_plan
from .engine.reader import Reader
from .engine.steps import Steps
from .errors import ArgumentError, FormatError, UnsupportedError
from .file.mapped import open_file
from .file.table import show
from .file.verify import verify as check_all
from .generate import END_OF_DOCUMENT, Generation
from .kernels.abi import MAX_TOKENS
from .program.program import Program
from .sampling import Sampler
from .score import Scored, score
from .state import State
from .tokenizer import Tokenizer

BUNDLED = os.path.join(os.path.dirname(__file__), "models", "default.trwkv")


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    backend: str = "auto",
    threads: int = 1,
    resident_limit: int | None = None,
    verify: bool = False,
    prefault: bool = False,
    lock: bool = False,
) -> Model:
    """Map a model file and make it ready; no weight is read before the first token.

    Parameters
    ----------
    path : str or path-like, optional
        A .trwkv file; without one, the small model that ships in the package.
    backend : str
        "auto" (what TINYRWKV_BACKEND says, otherwise the first that can run), "native", "numba" or "numpy".
    threads : int
        Threads for each token. The result has the same bits for every number.
    resident_limit : int, optional
        Bytes of the file that may be in this process's memory at one time; slower, never another answer.
    verify : bool
        Compare the whole file with its checksums first, and look for weights that are no numbers.
    prefault : bool
        Read the whole file into memory now, so that no token waits for the disk.
    lock : bool
        Keep the file in memory as far as the system's limits allow (mlock); not together with a resident_limit.

    Returns
    -------
    Model

    Raises
    ------
    FormatError
        The file is missing or damaged, or is not a model.
    ArgumentError, UnsupportedError
        A setting is out of range, or not to be had on this machine.

    Examples
    --------
    >>> model = load(threads=2)
    >>> model.config["arch"], model.config["n_layer"], model.config["vocab_size"]
    ('v7', 8, 4096)
    """
    if path is None and not os.path.exists(BUNDLED):
        fix = "give load() a .trwkv file: tinyrwkv-convert makes one from any RWKV checkpoint"
        raise FormatError(
            BUNDLED, "bundled model", "no file", "the model that ships in the package", fix
        )
    if lock and resident_limit is not None:
        fix = "leave one of them out"
        raise ArgumentError(
            "load",
            "lock",
            "a resident_limit too",
            "one of them: locked pages cannot be let go",
            fix,
        )
    file = open_file(BUNDLED if path is None else path)
    if verify:
        check_all(file)
    model = Model(file, backend, threads, resident_limit)
    if prefault:
        file.prefault(mapped=resident_limit is None)
    if lock:
        file.lock()
    return model


class Model:
    """An RWKV model in one mapped file; made by `load`. Threads may share it, each with states of its own.

    Attributes
    ----------
    config : dict
        The metadata of the file.
    path : str
        Where the file is.
    hash : str
        SHA-256 that identifies its contents.
    backend : Backend
        What runs it: ``backend.name``, ``backend.threads``.
    """

    def __init__(
        self, file: Any, backend: str = "auto", threads: int = 1, resident_limit: int | None = None
    ) -> None:
        if file.metadata["kind"] != "model":
            raise FormatError(
                file.path, "kind", "a state", "a model", "give the model; State.load reads states"
            )
        self.file, self.config, self.path, self.hash = file, file.metadata, file.path, file.hash
        self.program = Program(file)
        self.steps = Steps(self.program)
        self.backend = make(self.program, backend, threads)
        self.resident_limit = resident_limit
        self._limit = (
            NoLimit(self.steps)
            if resident_limit is None
            else ResidentLimit(self.steps, resident_limit)
        )
        self.reader = Reader(self.steps, self.backend, self._limit)
        sizes = ("arch", "n_layer", "n_embd", "n_head", "head_size")
        self._origin = {"model": self.hash, **{key: self.config[key] for key in sizes}}
        self.steps.advise(in_large_pages=resident_limit is None)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer packed in the file.

        Raises
        ------
        UnsupportedError
            The file was converted without a vocabulary.
        """
        if "tokenizer.bytes" not in self.file:
            fix = "convert it with --vocab, or give token ids"
            raise UnsupportedError(
                self.path, "tokenizer", "none in the file", "one, to read text", fix
            )
        data, starts, ids = (self.file[f"tokenizer.{part}"] for part in ("bytes", "starts", "ids"))
        return Tokenizer(data, starts, ids, vocab_size=self.config["vocab_size"], file=self.path)

    def new_state(self) -> State:
        """Return the state before the first token.

        Returns
        -------
        State

        Examples
        --------
        >>> load().new_state().tokens
        0
        """
        return State(self.program.initial_state(), 0, self._origin)

    def forward(
        self,
        tokens: int | Iterable[int],
        state: State | None = None,
        *,
        logits: str | None = "last",
    ) -> tuple[np.ndarray | None, State]:
        r"""Read tokens and return what the model expects next.

        Parameters
        ----------
        tokens : int or iterable of int
            At least one.
        state : State, optional
            What came before, not changed; nothing, where left out.
        logits : str or None
            "last" for those after the last token, "all" for those after each, None for none: only the state.

        Returns
        -------
        logits : ndarray, float32, shape (V,) or (T, V), or None
        state : State
            After the last token.

        Raises
        ------
        ArgumentError
            A token is not one of the model's, or the state belongs to another model.

        Examples
        --------
        >>> model = load()
        >>> prompt = model.tokenizer.encode("User: turn left\n\nAssistant:")
        >>> logits, state = model.forward([0, *prompt])
        >>> model.tokenizer.decode([logits.argmax()]), state.tokens
        (' turn', 8)
        >>> logits, later = model.forward(logits.argmax(), state)  # state is as it was
        >>> model.tokenizer.decode([logits.argmax()]), state.tokens, later.tokens
        ('(', 8, 9)
        """
        ids, state = self.check_tokens(tokens), self.check_state(state)
        if logits not in ("last", "all", None):
            raise ArgumentError(
                "forward", "logits", repr(logits), '"last", "all" or None', "choose one of them"
            )
        out = np.empty((len(ids) if logits == "all" else 1, self.config["vocab_size"]), np.float32)
        old, new = state.data, np.empty_like(state.data)
        spare = np.empty_like(new) if len(ids) > MAX_TOKENS else new  # a second costs page faults
        for start in range(0, len(ids), MAX_TOKENS):
            chunk, last = ids[start : start + MAX_TOKENS], start + MAX_TOKENS >= len(ids)
            self.reader.read(
                chunk,
                old,
                new,
                out[start:] if logits == "all" else out if logits and last else None,
            )
            old, new = new, spare if old is state.data else old
        return out if logits == "all" else out[0] if logits else None, State(
            old, state.tokens + len(ids), self._origin
        )

    def generate(
        self,
        prompt: str | Iterable[int],
        *,
        state: State | None = None,
        sampler: Sampler | None = None,
        max_tokens: int = 100,
        stop: Iterable[str] = (),
        deadline: float | None = None,
        constraint: Any = None,
    ) -> Generation:
        r"""Continue a prompt, piece by piece.

        Parameters
        ----------
        prompt : str or iterable of int
            Sent as it is; token 0, which begins a document, is put first only where `state` is None.
        state : State, optional
            What came before; not changed.
        sampler : Sampler, optional
            Settings for the choice of tokens; used as a copy, so that the same seed gives the same text.
        max_tokens : int
            Tokens to generate at most.
        stop : iterable of str
            End before any of these, wherever the borders of tokens lie; token 0 always ends.
        deadline : float, optional
            Absolute ``time.monotonic()`` time to end at, within milliseconds.
        constraint : Choice, Regex or JsonSchema, optional
            What the whole text must match. In general an object whose ``start(model)`` returns one with two methods:
            ``mask(logits, exact)`` puts ``-inf`` in place where a token may not follow, ``advance(token)`` goes on
            by the token chosen and tells whether anything may follow it. Where the head has a preview, ``exact(ids)``
            returns logits from whole rows; otherwise `exact` is None.

        Returns
        -------
        Generation
            An iterator of pieces (text, token, logprob), with ``cancel()`` and ``result``.

        Raises
        ------
        ArgumentError, UnsupportedError
            A setting is out of range, or text is given to a model without a tokenizer.

        Examples
        --------
        >>> import tinyrwkv
        >>> model = load()
        >>> greedy = tinyrwkv.Sampler(temperature=0)
        >>> generation = model.generate("User: turn left\n\nAssistant:", sampler=greedy, stop=["\n"])
        >>> "".join(piece.text for piece in generation)
        ' turn(90)'
        >>> generation.result.stop_reason
        'stop'
        """
        return Generation(
            self, prompt, state, sampler or Sampler(), max_tokens, stop, deadline, constraint
        )

    def score(
        self, prompt: str | Iterable[int], choices: Iterable[str], state: State | None = None
    ) -> list[Scored]:
        r"""Tell how probable it is that a prompt goes on with each of some texts; the prompt is read once.

        Parameters
        ----------
        prompt : str or iterable of int
            Sent as it is, as by `generate`.
        choices : iterable of str
            Not empty. Where the prompt ends with a word, they begin with a blank.
        state : State, optional
            What came before; not changed.

        Returns
        -------
        list of Scored
            In the order of the choices: ``text``, ``logprob``, ``per_token``, ``per_byte``.

        Raises
        ------
        ArgumentError, UnsupportedError
            There are no choices, one is empty, or the model has no tokenizer.

        Notes
        -----
        A text is scored as the tokens that the tokenizer makes of it alone: other ways to spell it are not added, nor
        whether it ends there, so a text whose tokens begin those of another is never less probable. A sum favours
        short texts: compare ``per_token`` or ``per_byte`` where lengths differ. Every token of every choice is read
        once, without a deadline. Where the head has a preview, the logits of the choices are exact, others rough.

        Examples
        --------
        >>> scores = load().score("User: turn left\n\nAssistant:", [" turn(90)", " turn(-90)", " photo()"])
        >>> max(scores, key=lambda scored: scored.logprob).text
        ' turn(90)'
        """
        return score(self, prompt, choices, state)

    def plan(self) -> MemoryPlan:
        """Return the bytes of each part; no weight is read for it.

        Returns
        -------
        dict
            file_bytes, touched_bytes_per_token, resident_bytes_max (whole pages, or the limit),
            resident_bytes_typical (after 200 tokens from a cold start), state_bytes, workspace_bytes, and parts: a
            list of dicts of part, file_bytes, touched_bytes_per_token and resident_bytes_max.

        Examples
        --------
        >>> plan = load().plan()
        >>> plan["touched_bytes_per_token"] < plan["resident_bytes_max"] < 10e6
        True
        >>> [part["part"] for part in plan["parts"]]
        ['embedding', 'time_mix', 'channel_mix', 'head', 'tokenizer']
        """
        return memory_plan(self.steps, self.resident_limit)

    def resident(self) -> int | None:
        """Return how many bytes of the file are in this process's memory now.

        Returns
        -------
        int or None
            A multiple of the page size; None where the system does not tell.
        """
        return self.file.resident()

    def cached(self) -> int | None:
        """Return how many bytes of the file are in the page cache, whoever read them.

        Returns
        -------
        int or None
            A multiple of the page size; None where the system does not tell.
        """
        return self.file.cached()

    def check_tokens(self, tokens: int | Iterable[int]) -> np.ndarray:
        """Return tokens as int32, shape (T,); ArgumentError where one is not the model's or there is none."""
        V, found = self.config["vocab_size"], type(tokens).__name__
        # One token, as decoding gives it, without five calls of NumPy.
        if (
            isinstance(tokens, (int, np.integer))
            and not isinstance(tokens, bool)
            and 0 <= tokens < V
        ):
            return np.array([tokens], np.int32)
        try:
            listed = (
                tokens
                if isinstance(tokens, np.ndarray) or not isinstance(tokens, Iterable)
                else list(tokens)
            )
            ids = np.atleast_1d(np.asarray(listed))
        except (TypeError, ValueError, OverflowError):
            ids = np.zeros(0)
        if ids.ndim == 1 and ids.size and ids.dtype.kind in "iu":
            if ids.min() >= 0 and ids.max() < V:
                return np.ascontiguousarray(ids, np.int32)
            found = f"{ids.min()} to {ids.max()}"
        raise ArgumentError(
            self.path,
            "tokens",
            found,
            f"at least one id, 0 to {V - 1}",
            "use this model's tokenizer",
        )

    def check_prompt(
        self, prompt: str | Iterable[int], state: State | None
    ) -> tuple[np.ndarray, State]:
        """Return the tokens of a prompt and the state that they follow.

        Parameters
        ----------
        prompt : str, bytes or iterable of int
        state : State, optional
            What came before; without one, token 0 is put first and the state is the first one.

        Returns
        -------
        tokens : ndarray, int32, shape (T,)
        state : State

        Raises
        ------
        ArgumentError, UnsupportedError
            They are none of this model's, or text is given to a model without a tokenizer.
        """
        if not isinstance(prompt, (str, bytes, Iterable)):
            raise ArgumentError(
                self.path, "prompt", repr(prompt), "text or token ids", "give one of them"
            )
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, (str, bytes)) else list(prompt)
        return self.check_tokens(
            [END_OF_DOCUMENT, *ids] if state is None else ids
        ), self.check_state(state)

    def check_state(self, state: State | None) -> State:
        """Return a state, the first one for None; ArgumentError where it belongs to another model."""
        if state is None:
            return self.new_state()
        if not isinstance(state, State) or state.origin != self._origin:
            found = show(getattr(state, "origin", state))
            raise ArgumentError(
                self.path, "state", found, f"one of {self.hash[:12]}", "use model.new_state()"
            )
        data, shape = state.data, (self.program.state_size,)
        good = isinstance(data, np.ndarray) and data.dtype == np.float32 and data.flags.c_contiguous
        if not good or data.shape != shape:
            raise ArgumentError(
                self.path, "state", "other data", f"contiguous float32 {shape}", "use new_state()"
            )
        return state

    def exact_logits(self, ids: np.ndarray, logits: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Return the logits of some tokens from their rows in the head, where `logits` may have only a preview.

        Parameters
        ----------
        ids : ndarray of int, shape (n,)
        logits, hidden : ndarray, float32, shapes (V,) and (C + 1,)
            What `read` made after the last token.

        Returns
        -------
        ndarray, float32, shape (n,)
            The bits that kernels give; of a head without a preview the same as ``logits[ids]``.
        """
        if "head.rows.weight" not in self.file:
            return logits[ids]
        rows = self._limit.take("head.places", np.asarray(ids))
        q, scale = (
            self._limit.take(name, rows) for name in ("head.rows.weight", "head.rows.weight.scale")
        )
        sums = q.astype(np.int32) @ hidden[:-1].astype(np.int32)  # (n,)
        return sums.astype(np.float32) * (scale * hidden[-1])

    def close(self) -> None:
        """Let the file go; the model is of no use afterwards."""
        self.file.close()
