"""A model as users see it: they load it, generate, score, and look at its memory."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .core import Core
from .engine.plan import MemoryPlan, memory_plan
from .errors import ArgumentError, FormatError
from .file.mapped import open_file
from .file.verify import verify as check_all
from .generate import Generation, TokenConstraint
from .sampling import Sampler, TokenSampler
from .score import Scored, score
from .state import State

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
        "native", "numba", "numpy" or "auto". With "auto", the environment variable
        TINYRWKV_BACKEND decides; without it, the first of the three that can run.
    threads : int
        Threads for each token. The result has the same bits for every number.
    resident_limit : int, optional
        Bytes of the file that may be in this process's memory at one time. It makes tokens slower
        but changes no result.
    verify : bool
        Compare the whole file with its checksums first, and look for weights that are no numbers.
    prefault : bool
        Read the whole file into memory now, so that no token waits for the disk.
    lock : bool
        Keep the file in memory as far as the system's limits allow (mlock); not together with a
        resident_limit.

    Returns
    -------
    Model

    Raises
    ------
    FormatError
        The file is missing or damaged, or is not a model.
    ArgumentError, UnsupportedError
        A setting is out of range, or this machine cannot do it.

    Examples
    --------
    >>> model = load(threads=2)
    >>> model.config["arch"], model.config["n_layer"], model.config["vocab_size"]
    ('v7', 8, 4096)
    """
    if path is None and not os.path.exists(BUNDLED):
        expected = "the model that ships in the package"
        fix = "give load() a .trwkv file: tinyrwkv-convert makes one from any RWKV checkpoint"
        sentence = f"the bundled model is missing: no such file: {BUNDLED}"
        raise FormatError(BUNDLED, "bundled model", "no file", expected, fix, sentence)
    if lock and resident_limit is not None:
        found = "a resident_limit too"
        expected = "one of them: locked pages cannot be let go"
        fix = "leave one of them out"
        sentence = "load: lock and resident_limit exclude each other: locked pages cannot be let go"
        raise ArgumentError("load", "lock", found, expected, fix, sentence)
    file = open_file(BUNDLED if path is None else path)
    if verify:
        check_all(file)
    model = Model(file, backend, threads, resident_limit)
    if prefault:
        file.prefault(mapped=resident_limit is None)
    if lock:
        file.lock()
    return model


class Model(Core):
    """An RWKV model in one mapped file; made by `load`.

    Threads may share it, each with states of its own. In a ``with`` statement the file is closed at
    the end.

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

    Examples
    --------
    >>> with load() as model:
    ...     logits, state = model.forward([0, 1, 2])
    >>> state.tokens
    3
    """

    def generate(
        self,
        prompt: str | Iterable[int],
        *,
        state: State | None = None,
        sampler: TokenSampler | None = None,
        max_tokens: int = 100,
        stop: str | Iterable[str] = (),
        deadline: float | None = None,
        constraint: TokenConstraint | None = None,
    ) -> Generation:
        r"""Continue a prompt, piece by piece.

        Parameters
        ----------
        prompt : str or iterable of int
            Sent as it is. Token 0, which begins a document, is put first only if `state` is None.
        state : State, optional
            Previous state, not modified; defaults to a new one.
        sampler : Sampler, optional
            Settings for the choice of tokens. A copy is used, so that the same seed gives the same
            text. It may be of a class of your own (a `tinyrwkv.sampling.TokenSampler`).
        max_tokens : int
            Tokens to generate at most.
        stop : str or iterable of str
            End before any of these texts, even if it begins or ends within a token. Token 0 always
            ends the generation.
        deadline : float, optional
            Absolute ``time.monotonic()`` time to end at, within milliseconds.
        constraint : Choice, Regex or JsonSchema, optional
            What the whole text must match. In a class of your own (a
            `tinyrwkv.generate.TokenConstraint`), ``start(model)`` returns an object with two
            methods. ``mask(logits, exact)`` puts ``-inf`` in place for tokens that may not follow.
            ``advance(token)`` takes the token chosen and tells whether anything may follow it. If
            the head has a preview, ``exact(ids)`` returns logits from whole rows; otherwise `exact`
            is None.

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
        >>> prompt = "User: turn left\n\nAssistant:"
        >>> generation = model.generate(prompt, sampler=greedy, stop=["\n"])
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
        r"""Tell how probable it is that each of some texts follows a prompt, which is read once.

        Parameters
        ----------
        prompt : str or iterable of int
            Sent as it is, as by `generate`.
        choices : iterable of str
            Not empty. If the prompt ends with a word, they should begin with a space.
        state : State, optional
            Previous state, not modified; defaults to a new one.

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
        A text is scored as the tokens that the tokenizer makes of it alone. Other ways to spell it
        are not added. Nor is the probability that the text ends there: if the tokens of a text are
        the first ones of another, it is never less probable than the other.

        A sum favours short texts: if the lengths differ, compare ``per_token`` or ``per_byte``.
        Every token of every choice is read once, without a deadline. If the head has a preview, the
        logits of the choices are exact and the others approximate.

        Examples
        --------
        >>> choices = [" turn(90)", " turn(-90)", " photo()"]
        >>> scores = load().score("User: turn left\n\nAssistant:", choices)
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
            resident_bytes_typical (after 200 tokens from a cold start), state_bytes,
            workspace_bytes, and parts: a list of dicts of part, file_bytes, touched_bytes_per_token
            and resident_bytes_max.

        Examples
        --------
        >>> plan = load().plan()
        >>> plan["touched_bytes_per_token"] < plan["resident_bytes_max"] < 10e6
        True
        >>> [part["part"] for part in plan["parts"]]
        ['embedding', 'time_mix', 'channel_mix', 'head', 'tokenizer']
        """
        self.file.check_open()
        return memory_plan(self.steps, self.resident_limit)

    def resident(self) -> int | None:
        """Return how many bytes of the file are in this process's memory now.

        Returns
        -------
        int or None
            A multiple of the page size; None if the system does not tell.
        """
        self.file.check_open()
        return self.file.resident()

    def cached(self) -> int | None:
        """Return how many bytes of the file are in the page cache, whoever read them.

        Returns
        -------
        int or None
            A multiple of the page size; None if the system does not tell.
        """
        self.file.check_open()
        return self.file.cached()

    def close(self) -> None:
        """Close the file; the model cannot be used afterwards."""
        self.file.close()

    def __enter__(self) -> Model:
        """Return the model itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self.close()

    def __repr__(self) -> str:
        config = self.config
        sizes = f"{config['n_layer']} layers of width {config['n_embd']}"
        threads = "1 thread" if self.backend.threads == 1 else f"{self.backend.threads} threads"
        runs = f"{self.backend.name} backend, {threads}"
        closed = ", closed" if self.file.map is None else ""
        return f"<Model {self.path!r}: {config['arch']}, {sizes}, {runs}{closed}>"
