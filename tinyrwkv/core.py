"""What reads tokens: a mapped model file, its program, and the checks of what a caller gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast, overload

import numpy as np

from .arguments import TEXTS, Text, items, refusal, whole_number
from .engine.limit import Limit, NoLimit, ResidentLimit
from .engine.reader import Reader
from .engine.steps import Steps
from .engine.workspace import Backend
from .errors import ArgumentError, UnsupportedError, attempt
from .file import int4
from .file.config import Config, Origin
from .file.tensors import TensorFile
from .kernels.abi import MAX_TOKENS
from .program.program import Program
from .state import State
from .tokenizer import END_OF_DOCUMENT, Tokenizer

BOOLEANS = frozenset((bool, np.bool_))


class Core:
    """The part of a `Model` that `generate` and `score` need: it reads tokens and returns logits.

    Attributes
    ----------
    file : TensorFile
        The mapped file.
    config : dict
        The metadata of the file.
    path : str
        Where the file is.
    hash : str
        SHA-256 that identifies its contents.
    origin : dict
        The hash and sizes that every state of this model carries.
    state_size : int
        Numbers in a state.
    has_preview : bool
        Whether the head has a preview; then only some logits are exact.
    backend : Backend
        What runs the program: ``backend.name``, ``backend.threads``.
    reader : Reader
        Reads up to 16 tokens, pausing for deadlines.
    """

    def __init__(
        self,
        file: TensorFile,
        program: Program,
        backend: Backend,
        resident_limit: int | None = None,
    ) -> None:
        if resident_limit is not None:
            fix = "raise the limit or compress the model"
            resident_limit = whole_number("load", "resident_limit", resident_limit, fix=fix)
        self.file = file
        self.path = file.path
        self.hash = file.hash
        self.config = file.config
        self.origin = _origin(self.config, self.hash)
        self.program = program
        self.state_size = self.program.state_size
        self._tokenizer: Tokenizer | None = None
        self.has_preview = "head.rows.weight" in file
        self.steps = Steps(self.program)
        self.backend = backend
        self.resident_limit = resident_limit
        limit: Limit = NoLimit(self.steps)
        if resident_limit is not None:
            limit = ResidentLimit(self.steps, resident_limit)
        self.reader = Reader(self.steps, self.backend, limit)
        self.steps.advise(in_large_pages=resident_limit is None)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer packed in the file.

        Raises
        ------
        UnsupportedError
            The file was converted without a vocabulary.
        """
        if self._tokenizer is None:
            self._tokenizer = self._read_tokenizer()
        return self._tokenizer

    def _read_tokenizer(self) -> Tokenizer:
        if "tokenizer.bytes" not in self.file:
            fix = "convert it with --vocab, or give token ids"
            sentence = f"{self.path} has no tokenizer, so it cannot read text"
            raise UnsupportedError(
                self.path, "tokenizer", "none in the file", "one, to read text", fix, sentence
            )
        entries, starts, ids = (self.file[f"tokenizer.{name}"] for name in Tokenizer.ARRAYS)
        return Tokenizer(entries, starts, ids, self.config["vocab_size"], self.path)

    def new_state(self) -> State:
        """Return the state before the first token.

        Returns
        -------
        State

        Examples
        --------
        >>> import tinyrwkv
        >>> tinyrwkv.load().new_state().tokens
        0
        """
        return State(self.program.initial_state(), 0, self.origin)

    @overload
    def forward(
        self,
        tokens: int | Iterable[int],
        state: State | None = None,
        *,
        logits: Literal["last", "all"] = "last",
        states: Literal["last"] = "last",
    ) -> tuple[np.ndarray, State]: ...

    @overload
    def forward(
        self,
        tokens: int | Iterable[int],
        state: State | None = None,
        *,
        logits: None,
        states: Literal["last"] = "last",
    ) -> tuple[None, State]: ...

    @overload
    def forward(
        self,
        tokens: int | Iterable[int],
        state: State | None = None,
        *,
        logits: Literal["last", "all"] = "last",
        states: Literal["all"],
    ) -> tuple[np.ndarray, list[State]]: ...

    @overload
    def forward(
        self,
        tokens: int | Iterable[int],
        state: State | None = None,
        *,
        logits: None,
        states: Literal["all"],
    ) -> tuple[None, list[State]]: ...

    def forward(
        self,
        tokens: int | Iterable[int],
        state: State | None = None,
        *,
        logits: Literal["last", "all"] | None = "last",
        states: Literal["last", "all"] = "last",
    ) -> tuple[np.ndarray | None, State | list[State]]:
        r"""Read tokens and return what the model expects next.

        Parameters
        ----------
        tokens : int or iterable of int
            At least one.
        state : State, optional
            Previous state, not modified; defaults to a new one.
        logits : str or None
            "last" for the logits after the last token, "all" for those after each token. With None
            no logits are computed, only the state.
        states : str
            "last" for the state after the last token, "all" for those after each token, of at most
            16 tokens. These states share one piece of memory, as large as all of them: whoever
            keeps only one should keep its ``copy()``.

        Returns
        -------
        logits : ndarray, float32, shape (V,) or (T, V), or None
        state : State or list of State
            After the last token, or after each.

        Raises
        ------
        ArgumentError
            A token is not one of the model's, the state belongs to another model, or all states are
            asked for of more than 16 tokens.

        Examples
        --------
        >>> import tinyrwkv
        >>> model = tinyrwkv.load()
        >>> prompt = model.tokenizer.encode("User: turn left\n\nAssistant:")
        >>> logits, state = model.forward([0, *prompt])
        >>> model.tokenizer.decode([logits.argmax()]), state.tokens
        (' turn(', 7)
        >>> logits, later = model.forward(logits.argmax(), state)  # state is as it was
        >>> model.tokenizer.decode([logits.argmax()]), state.tokens, later.tokens
        ('9', 7, 8)
        >>> _, states = model.forward([0, *prompt], states="all")
        >>> [each.tokens for each in states]
        [1, 2, 3, 4, 5, 6, 7]
        """
        ids = self.check_tokens(tokens)
        state = self.check_state(state)
        if logits is not None:
            _check_which("logits", logits, '"last", "all" or None')
        _check_which("states", states, '"last" or "all"')
        out = None
        if logits is not None:
            rows = len(ids) if logits == "all" else 1
            out = np.empty((rows, self.config["vocab_size"]), np.float32)  # (T, V) or (1, V)
        read = self._read if states == "last" else self._read_with_states
        after = read(ids, state, out)
        return (out[0] if out is not None and logits == "last" else out), after

    def _read_with_states(
        self, ids: np.ndarray, state: State, out: np.ndarray | None = None
    ) -> list[State]:
        """Return the states after each of some tokens; `out` as for `_read`."""
        if len(ids) > MAX_TOKENS:
            what = f'the number of tokens with states="all" is {len(ids):,}'
            fix = "read them in several calls"
            sentence = f"forward: {what}, but at most {MAX_TOKENS} are possible"
            found, most = str(len(ids)), f"at most {MAX_TOKENS}"
            raise ArgumentError("forward", "states", found, most, fix, sentence)
        after = np.empty((len(ids), len(state.data)), np.float32)  # (T, state_size)
        self.reader.read(ids, state.data, after, out)
        return [State(row, state.tokens + n, self.origin) for n, row in enumerate(after, 1)]

    def _read(self, ids: np.ndarray, state: State, out: np.ndarray | None = None) -> State:
        """Return the state after some tokens; `out` has a row for each, or one for the last."""
        before = state.data
        after = np.empty_like(before)
        # A second buffer costs page faults, so it is only made for a second chunk.
        spare = np.empty_like(after) if len(ids) > MAX_TOKENS else after
        for start in range(0, len(ids), MAX_TOKENS):
            chunk = ids[start : start + MAX_TOKENS]
            end = start + len(chunk)
            rows = None
            if out is not None and len(out) == len(ids):
                rows = out[start:end]
            elif end == len(ids):
                rows = out
            self.reader.read(chunk, before, after, rows)
            # The caller's own state is never written to.
            free = spare if before is state.data else before
            before, after = after, free
        return State(before, state.tokens + len(ids), self.origin)

    def check_tokens(self, tokens: int | Iterable[int]) -> np.ndarray:
        """Return tokens as an array.

        Parameters
        ----------
        tokens : int or iterable of int

        Returns
        -------
        ndarray, int32, shape (T,)

        Raises
        ------
        ArgumentError
            There is no token, or one of them is not a token of this model.
        """
        vocab_size = self.config["vocab_size"]
        # Decoding reads tokens one by one: for a single one, this saves five calls of NumPy.
        if _is_token(tokens, vocab_size):
            return np.array([tokens], np.int32)
        expected = "token ids"
        if isinstance(tokens, TEXTS):
            fix = "turn the text into tokens with model.tokenizer.encode"
            raise refusal(self.path, "tokens", tokens, expected, fix)
        if isinstance(tokens, Iterable) and not isinstance(tokens, np.ndarray):
            tokens = items(self.path, "tokens", tokens, expected, "give a list of int")
        ids = _as_integers(tokens)
        if ids is None or ids.size == 0 or ids.min() < 0 or ids.max() >= vocab_size:
            raise self._refuse_tokens(tokens)
        return np.ascontiguousarray(ids, np.int32)

    def _refuse_tokens(self, tokens: Any) -> ArgumentError:
        """Return the error that says which of the tokens is not one."""
        vocab_size = self.config["vocab_size"]
        expected = f"one or more token ids of this model, from 0 to {vocab_size - 1}"
        fix = "use the ids of this model's tokenizer"
        each = tokens.tolist() if isinstance(tokens, np.ndarray) else tokens
        if isinstance(each, list):
            tokens = next((one for one in each if not _is_token(one, vocab_size)), each)
        found = tokens.item() if isinstance(tokens, np.generic) else tokens
        return refusal(self.path, "tokens", found, expected, fix)

    def check_prompt(
        self, prompt: Text | Iterable[int], state: State | None
    ) -> tuple[np.ndarray, State]:
        """Return the tokens of a prompt and the state that they follow.

        Parameters
        ----------
        prompt : text, as `Tokenizer.encode` takes it, or iterable of int
        state : State, optional
            Previous state. Without one, the state is a new one and token 0 is put first.

        Returns
        -------
        tokens : ndarray, int32, shape (T,)
        state : State

        Raises
        ------
        ArgumentError, UnsupportedError
            The tokens or the state are not of this model, or it has no tokenizer to read a text.
        """
        if isinstance(prompt, TEXTS):
            ids = self.tokenizer.encode(prompt)
        else:
            ids = items(self.path, "prompt", prompt, "text or token ids", "give one of them")
        if state is None:
            ids = [END_OF_DOCUMENT, *ids]
        return self.check_tokens(ids), self.check_state(state)

    def check_state(self, state: State | None) -> State:
        """Return a state, a new one for None; raise an ArgumentError if it is of another model."""
        self.file.check_open()
        if state is None:
            return self.new_state()
        fix = "use model.new_state()"
        if not isinstance(state, State):
            raise refusal(self.path, "state", state, "a State", fix)
        if not isinstance(state.origin, dict) or state.origin != self.origin:
            owner = _owner(state)
            own = self.hash[:12]
            sentence = f"{self.path}: this state belongs to {owner}, not to this model, {own}"
            raise ArgumentError(self.path, "state", owner, own, fix, sentence)
        data = state.data
        shape = (self.state_size,)
        good = isinstance(data, np.ndarray) and data.dtype == np.float32 and data.flags.c_contiguous
        if not good or data.shape != shape or not isinstance(state.tokens, int):
            expected = f"contiguous float32 {shape} and a number of tokens"
            sentence = f"{self.path}: the data of the state are not {expected}"
            raise ArgumentError(self.path, "state", "other data", expected, fix, sentence)
        return state

    def exact_logits(self, ids: np.ndarray, logits: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Return the logits of some tokens from their rows in the head.

        If the head has a preview, `logits` may hold only a guess for these tokens.

        Parameters
        ----------
        ids : ndarray of int, shape (n,)
            At least one.
        logits, hidden : ndarray, float32, shapes (V,) and (C + 1,)
            What `Reader.read` wrote for the last token.

        Returns
        -------
        ndarray, float32, shape (n,)
            The same bits as the kernels compute. Without a preview they are ``logits[ids]``.

        Raises
        ------
        ArgumentError
            The ids are not tokens, or the arrays have other shapes.
        """
        ids = self.check_tokens(ids)
        name, row, size = "logits", logits, self.config["vocab_size"]
        if self.has_preview:
            name, row, size = "hidden", hidden, self.config["n_embd"] + 1
        if not isinstance(row, np.ndarray) or row.shape != (size,) or row.dtype != np.float32:
            fix = "give what Reader.read wrote"
            raise refusal("exact_logits", name, row, f"float32 of shape ({size},)", fix)
        if not self.has_preview:
            return logits[ids]
        take = self.reader.limit.take
        rows = take("head.places", ids)  # (n,)
        weight = take("head.rows.weight", rows)  # int8, (n, C), or packed int4
        x, x_scale = hidden[:-1], hidden[-1]
        if weight.dtype == np.uint8:
            return int4.products(weight, x.astype(np.int32)) * x_scale
        # logit = (weight @ x) * scale * x_scale; the sums are whole numbers, so they are exact.
        scale = take("head.rows.weight.scale", rows)  # (n,)
        sums = weight.astype(np.int32) @ x.astype(np.int32)  # (n,)
        return sums.astype(np.float32) * (scale * x_scale)


def _check_which(name: str, value: object, expected: str) -> None:
    """Raise an ArgumentError if a value is neither "last" nor "all"."""
    if not isinstance(value, str) or value not in ("last", "all"):
        raise refusal("forward", name, value, expected, "choose one of them")


def _origin(config: Config, model_hash: str) -> Origin:
    return {
        "model": model_hash,
        "arch": config["arch"],
        "n_layer": config["n_layer"],
        "n_embd": config["n_embd"],
        "n_head": config["n_head"],
        "head_size": config["head_size"],
    }


def _owner(state: State) -> str:
    """Return the model that a state belongs to, as its origin says."""
    origin: Any = state.origin
    known = isinstance(origin, dict) and isinstance(origin.get("model"), str)
    return f"model {origin['model'][:12]}" if known else "no model"


def _is_token(value: object, vocab_size: int) -> bool:
    whole = type(value) is int or isinstance(value, np.integer)
    return whole and 0 <= cast(int, value) < vocab_size


def _as_integers(tokens: Any) -> np.ndarray | None:
    """Return tokens as an array of integers with one dimension; None if they are not integers."""
    if isinstance(tokens, list) and not BOOLEANS.isdisjoint(map(type, tokens)):
        return None  # NumPy would take True for 1 if other integers stand beside it
    ids = attempt(lambda: np.atleast_1d(np.asarray(tokens)))
    # An empty list has no integers in it, so NumPy gives it another type.
    return ids if ids is not None and ids.ndim == 1 and ids.dtype.kind in "iu" else None
