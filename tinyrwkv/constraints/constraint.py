"""Answers of a given form: tokens are left to choose from only as far as a pattern still can match."""

from __future__ import annotations

import copy
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from ..errors import ArgumentError, TinyRWKVError
from ..generate import END_OF_DOCUMENT
from ..tokenizer import Tokenizer
from .automaton import DEAD, Automaton, Machine, Parts, Place
from .pattern import Sequence, parse
from .trie import Filter, Trie

if TYPE_CHECKING:
    from ..model import Model

MASK_BYTES = 4 << 20
"""Memory for masks that were made, of each constraint; the one not used for the longest time goes first."""
OVERHEAD = 512  # bytes of the objects around a mask

FEW = 128
"""Where no more tokens are allowed than this, their ids are kept instead of a bit for every token."""

NEAR = 4.0
"""Of many allowed tokens those are looked at closely whose logits come so near to the largest."""

_tries: WeakKeyDictionary[Tokenizer, Trie] = WeakKeyDictionary()


class Regex:
    r"""A pattern that the whole text of a generation must match.

    Threads and models may share one. What it learns is kept, so that one used again is faster.

    Parameters
    ----------
    pattern : str
        A regular expression, see `tinyrwkv.constraints.pattern`.
    lead : str, optional
        What comes before it: a blank, where the prompt ends with a word such as "Assistant:", because models write it
        as part of the next word's token.
    tail : str, optional
        What comes after it: an empty line, where that is how the model was taught to end an answer. Given as `stop`
        too, it does not appear in the text.

    Attributes
    ----------
    pattern, lead, tail : str

    Raises
    ------
    ArgumentError, UnsupportedError
        The pattern is no regular expression, not one of those understood, or too large.

    Examples
    --------
    >>> import tinyrwkv
    >>> time = tinyrwkv.Regex(r"([01][0-9]|2[0-3]):[0-5][0-9]")
    >>> time.matches("17:45"), time.matches("25:00")
    (True, False)
    >>> model = tinyrwkv.load()
    >>> generation = model.generate("User: What time is it?\n\nAssistant:", constraint=time)
    >>> "".join(piece.text for piece in generation).count(":")
    1
    """

    def __init__(self, pattern: str, lead: str = "", tail: str = "") -> None:
        if not isinstance(lead, str) or not isinstance(tail, str):
            raise ArgumentError(
                "constraint", "lead or tail", repr((lead, tail))[:80], "texts", "give str"
            )
        self.pattern, self.lead, self.tail = pattern, lead, tail
        parts = (parse(re.escape(lead)), parse(pattern), parse(re.escape(tail)))
        self._parts = Parts(Sequence(parts))
        self._shared: WeakKeyDictionary[Tokenizer, _Masks] = WeakKeyDictionary()
        self._before = b""

    def after(self, text: str | bytes) -> Regex:
        """Return the same constraint for a generation that goes on after `text`, for instance one that was cut short.

        Parameters
        ----------
        text : str or bytes
            What was generated under this constraint; as bytes, where a character may be incomplete.
        """
        data = text.encode() if isinstance(text, str) else bytes(text)
        other = copy.copy(self)
        other._before = self._before + data
        return other

    def matches(self, text: str | bytes) -> bool:
        """Tell whether a whole text, with lead and tail, is one that the constraint allows.

        Parameters
        ----------
        text : str or bytes
        """
        machine = Machine(self._parts)
        place = machine.begin()
        for byte in text.encode() if isinstance(text, str) else text:
            place = machine.read(place, bytes([byte]))
        return place.automaton.accepts(place.state)

    def prepare(self, model: Model, most: int = 4096) -> int:
        """Learn beforehand what may follow in every state, so that no token of a generation takes longer than others.

        Parameters
        ----------
        model : Model
            Whose vocabulary to prepare for.
        most : int, optional
            States to look at; those nearest to the beginning come first.

        Returns
        -------
        int
            How many states there were.
        """
        return self._masks(model).prepare(most)

    def _masks(self, model: Model) -> _Masks:
        masks = self._shared.get(model.tokenizer)
        if masks is None:
            masks = self._shared.setdefault(model.tokenizer, _Masks(self._parts, _trie(model)))
        return masks

    def start(self, model: Model) -> Walk:
        """Return a walk along one text; `Model.generate` calls this.

        Raises
        ------
        ArgumentError
            The text before does not fit.
        UnsupportedError
            The model has no tokenizer.
        """
        walk = Walk(self._masks(model), model.tokenizer)
        if not walk.read(self._before):
            found = f"{self._before[-40:]!r} before"
            raise ArgumentError(
                "constraint", "text", found, "a beginning of what is allowed", "begin anew"
            )
        return walk


def _trie(model: Model) -> Trie:
    tokenizer = model.tokenizer
    trie = _tries.get(tokenizer)
    if trie is None:
        data, starts, ids = (model.file[f"tokenizer.{part}"] for part in ("bytes", "starts", "ids"))
        trie = _tries.setdefault(tokenizer, Trie(data, starts, ids, tokenizer.vocab_size))
    return trie


class Choice(Regex):
    """One of several texts.

    Parameters
    ----------
    choices : iterable of str
    lead, tail : str, optional
        As for `Regex`.

    Attributes
    ----------
    choices : tuple of str

    Raises
    ------
    ArgumentError
        There are none, or too many, or one is no text.

    Examples
    --------
    >>> Choice(["yes", "no"]).matches("no")
    True
    """

    def __init__(self, choices: Iterable[str], lead: str = "", tail: str = "") -> None:
        self.choices = (
            tuple(choices)
            if isinstance(choices, Iterable) and not isinstance(choices, (str, bytes))
            else ()
        )
        if not self.choices or not all(isinstance(choice, str) for choice in self.choices):
            found = f"{choices!r}"[:80]
            raise ArgumentError(
                "Choice", "choices", found, "texts, at least one", "give a list of str"
            )
        super().__init__("|".join(map(re.escape, self.choices)), lead, tail)


class _Masks:
    """An automaton over one vocabulary, and which tokens each of its states lets pass; for any number of threads."""

    def __init__(self, parts: Parts, trie: Trie) -> None:
        self.vocab_size, self._lock = trie.vocab_size, threading.Lock()
        self._machine = Machine(parts)
        self._filter = Filter(trie, self._machine.automaton.classes)
        self._of = self._machine.automaton
        self._alike = parts.alike(trie.longest)
        self._names: dict[
            int, tuple[int, ...]
        ] = {}  # the same for states that the same tokens may follow
        self._kept: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._bytes = 0

    def begin(self) -> Place:
        """Return where texts begin."""
        with self._lock:
            return self._machine.begin()

    def read(self, place: Place, data: bytes) -> Place:
        """Return the place after some bytes; false where they do not fit."""
        with self._lock:
            return self._machine.read(place, data)

    def allowed(self, place: Place) -> np.ndarray:
        """Return the allowed tokens: int32 ids, or for many of them packed bits that are set where one is not."""
        with self._lock:
            return self._machine.ask(place, self._mask)

    def prepare(self, most: int) -> int:
        """Make the masks of the states nearest to the beginning; return how many states there were."""
        places = [self.begin()]
        seen = {places[0].state}
        for place in places:  # grows meanwhile
            self.allowed(place)
            with self._lock:
                following = set(self._machine.ask(place, Automaton.row).tolist()) - seen - {DEAD}
                if self._machine.automaton is not place.automaton:  # it was full
                    break
            new = sorted(following)[: most - len(places)]
            seen.update(new)
            places += [Place(place.automaton, state) for state in new]
        return len(places)

    def _mask(self, automaton: Automaton, state: int) -> np.ndarray:
        if self._of is not automaton:
            self._of = automaton
            self._names.clear()
        if state not in self._names:
            self._names[state] = tuple(
                sorted({self._alike[member] for member in automaton.members[state]})
            )
        name = self._names[state]
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        tokens = self._filter.tokens(automaton, state)
        if automaton.accepts(state):
            tokens = np.append(tokens, np.int32(END_OF_DOCUMENT))
        if len(tokens) > FEW:
            forbidden = np.ones(self.vocab_size, bool)
            forbidden[tokens] = False
            tokens = np.packbits(forbidden)
        self._kept[name] = tokens
        self._bytes += tokens.nbytes + OVERHEAD
        while self._bytes > MASK_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes + OVERHEAD
        return tokens


class Walk:
    """How far one generation has come."""

    def __init__(self, masks: _Masks, tokenizer: Tokenizer) -> None:
        self._masks, self._tokenizer = masks, tokenizer
        self._place = masks.begin()

    def mask(
        self, logits: np.ndarray, exact: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        """Put ``-inf`` in the place of the logits of tokens that may not follow.

        Parameters
        ----------
        logits : ndarray, float32, shape (V,)
            At least one stays: wherever a walk is, a byte can follow, which is a token, or the text is complete and
            token 0 can.
        exact : callable, optional
            Returns better logits for some ids; asked for those that stay, of more than `FEW` for the best of them.
        """
        allowed = self._masks.allowed(self._place)
        if allowed.dtype == np.int32:
            kept = logits.take(allowed) if exact is None else exact(allowed)
            logits.fill(-np.inf)
            logits.put(allowed, kept)
        else:
            np.copyto(logits, -np.inf, where=np.unpackbits(allowed, count=len(logits)).view(bool))
            if exact is not None:
                best = np.flatnonzero(logits > logits.max() - NEAR)
                if len(best) > FEW:
                    best = best[np.argpartition(logits[best], -FEW)[-FEW:]]
                logits[best] = exact(best)

    def advance(self, token: int) -> bool:
        """Go on by a token that was chosen; False where nothing can follow it: the text is complete.

        Raises
        ------
        TinyRWKVError
            The token was not allowed.
        """
        data = self._tokenizer.token_bytes(token)
        if not data or not self.read(data):
            found = f"token {token}, {data[:40]!r}"
            fix = "let it choose only where logits are not -inf"
            raise TinyRWKVError(
                "generate", "sampler", found, "a token that the constraint allows", fix
            )
        return self._place.automaton.goes_on(self._place.state)

    def read(self, data: bytes) -> bool:
        """Go on by some bytes; False where they do not fit."""
        self._place = self._masks.read(self._place, data)
        return bool(self._place)
