"""A model as users see it: they generate, score, and look at its memory."""

from __future__ import annotations

from collections.abc import Iterable

from .core import Core
from .engine.plan import MemoryPlan, memory_plan
from .generate import Generation, TokenConstraint
from .sampling import Sampler, TokenSampler
from .score import Scored, score
from .state import State


class Model(Core):
    """An RWKV model in one mapped file; made by `tinyrwkv.load`.

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
    lookup : bool
        Whether `generate` looks for the last tokens in the text before them; it may be set.
    draft : Model or None
        A smaller model that guesses for `generate`; it is closed with this one.

    Examples
    --------
    >>> import tinyrwkv
    >>> with tinyrwkv.load() as model:
    ...     logits, state = model.forward([0, 1, 2])
    >>> state.tokens
    3
    """

    lookup = True
    draft: Model | None = None

    def generate(
        self,
        prompt: str | Iterable[int],
        *,
        state: State | None = None,
        sampler: TokenSampler | None = None,
        max_tokens: int = 100,
        stop: str | Iterable[str] = (),
        deadline: float | None = None,
        timeout: float | None = None,
        constraint: TokenConstraint | None = None,
        lookup: bool | None = None,
        draft: Core | None = None,
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
            End before any of these texts, even if it begins or ends within a token. They may have
            16,384 bytes together. Token 0 always ends the generation.
        deadline : float, optional
            Absolute ``time.monotonic()`` time to end at, within milliseconds. A number of seconds
            is refused.
        timeout : float, optional
            Instead of a deadline: the seconds from this call on.
        constraint : Choice, Regex or JsonSchema, optional
            What the whole text must match. In a class of your own (a
            `tinyrwkv.generate.TokenConstraint`), ``start(model)`` returns an object with two
            methods. ``mask(logits, exact)`` puts ``-inf`` in place for tokens that may not follow.
            ``advance(token)`` takes the token chosen and tells whether anything may follow it. If
            the head has a preview, ``exact(ids)`` returns logits from whole rows; otherwise `exact`
            is None.
        lookup : bool, optional
            Guess that the text goes on as after the same words before, and read several tokens at
            once where that saves time; by default as the model's attribute says. Text, tokens and
            logprobs are the same with and without.
        draft : Model, optional
            A smaller model of the same vocabulary that guesses too; by default the model's
            attribute. It changes no result either.

        Returns
        -------
        Generation
            An iterator of pieces (text, token, logprob), with ``cancel()``, ``result`` and
            ``text()``, which returns the whole text. It begins to work when it is asked for a
            piece. One thread at a time may iterate.

        Raises
        ------
        ArgumentError, UnsupportedError
            A setting is out of range, text is given to a model without a tokenizer, or the draft
            has another vocabulary.

        Examples
        --------
        >>> import tinyrwkv
        >>> model = tinyrwkv.load()
        >>> greedy = tinyrwkv.Sampler(temperature=0)
        >>> prompt = "User: turn left\n\nAssistant:"
        >>> generation = model.generate(prompt, sampler=greedy, stop=["\n"])
        >>> generation.text()
        ' turn(90)'
        >>> generation.result.stop_reason
        'stop'
        """
        chosen = Sampler() if sampler is None else sampler
        ends = (max_tokens, stop, deadline, timeout)
        guess = (
            self.lookup if lookup is None else lookup,
            self.draft if draft is None else draft,
        )
        return Generation(self, prompt, state, chosen, *ends, constraint, *guess)

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
        >>> import tinyrwkv
        >>> scores = tinyrwkv.load().score("User: turn left\n\nAssistant:", choices)
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
            resident_bytes_typical (after 200 tokens from a cold start; a copy is all there),
            state_bytes,
            workspace_bytes, chunk_bytes (the most for tokens that `generate` guesses), and parts: a
            list of dicts of part, file_bytes, touched_bytes_per_token and resident_bytes_max.

        Examples
        --------
        >>> import tinyrwkv
        >>> plan = tinyrwkv.load().plan()
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
        draft, self.draft = self.draft, None  # it may be this model, or have this one as its draft
        if isinstance(draft, Model):
            draft.close()

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
