"""What `Choice`, `Regex` and `JsonSchema` share: a pattern, and the masks that it gives."""

from __future__ import annotations

import copy
import re
from weakref import WeakKeyDictionary

from ..arguments import refusal, whole_number
from ..core import Core
from ..errors import ArgumentError
from ..tokenizer import Tokenizer, to_bytes
from .automaton import Machine
from .masks import Masks
from .nfa import Nfa
from .old_names import accept_old_names
from .pattern import Node, Sequence, parse
from .trie import trie_of
from .walk import Walk


class Constraint:
    """A pattern that the whole text of a generation must match.

    Threads and models may share it. It keeps what it learns, so it is faster the next time.

    Parameters
    ----------
    pattern : str or Node
        A regular expression, or the tree of one, see `tinyrwkv.constraints.pattern`.
    prefix, suffix : str, optional
        Fixed text before and after the pattern, see `Regex`.
    name : str, optional
        What messages call the pattern.

    Attributes
    ----------
    pattern : str
        Empty if a tree was given.
    prefix, suffix : str
    nfa : Nfa
        The automaton of all three.

    Raises
    ------
    ArgumentError, UnsupportedError
        The pattern is not a regular expression, is too large, or uses what is not understood.
    """

    @accept_old_names
    def __init__(
        self, pattern: str | Node, prefix: str = "", suffix: str = "", name: str = "pattern"
    ) -> None:
        for argument, text in (("prefix", prefix), ("suffix", suffix)):
            if not isinstance(text, str):
                raise refusal("constraint", argument, text, "text", "give a str")
        self.pattern = pattern if isinstance(pattern, str) else ""
        self.prefix = prefix
        self.suffix = suffix
        tree = pattern if isinstance(pattern, Node) else parse(pattern)
        parts = (parse(re.escape(prefix)), tree, parse(re.escape(suffix)))
        self.nfa = Nfa(Sequence(parts), name)
        self._masks: WeakKeyDictionary[Tokenizer, Masks] = WeakKeyDictionary()
        self._before = b""

    @property
    def lead(self) -> str:
        """The first name of `prefix`."""
        return self.prefix

    @property
    def tail(self) -> str:
        """The first name of `suffix`."""
        return self.suffix

    def after(self, text: str | bytes) -> Constraint:
        """Return the same constraint for a generation that goes on after `text`.

        Parameters
        ----------
        text : str or bytes
            What was generated under this constraint, for instance by a generation that was cut
            short. Give bytes if a character may be incomplete.

        Returns
        -------
        Constraint
            Of the same class; it shares what this one has learned.
        """
        data = to_bytes(text)
        other = copy.copy(self)
        other._before = self._before + data
        return other

    def matches(self, text: str | bytes) -> bool:
        """Tell whether the constraint allows a whole text, with its prefix and suffix.

        Parameters
        ----------
        text : str or bytes

        Raises
        ------
        ArgumentError
            It is neither, or the pattern takes too much work.
        """
        machine = Machine(self.nfa)
        place = machine.begin()
        for byte in to_bytes(text):
            place = machine.read(place, bytes([byte]))
        return place.automaton.accepts(place.state)

    def prepare(self, model: Core, most: int = 4096) -> int:
        """Learn beforehand which tokens may follow in every state.

        After that, no token of a generation takes longer than the others.

        Parameters
        ----------
        model : Model
            The model whose vocabulary counts.
        most : int, optional
            States to look at. Those nearest to the beginning come first.

        Returns
        -------
        int
            The number of states.
        """
        return self.masks(model).prepare(whole_number("prepare", "most", most, 1))

    def masks(self, model: Core) -> Masks:
        """Return the masks for the vocabulary of a model, the same ones each time.

        Parameters
        ----------
        model : Core
            A model with a tokenizer.

        Returns
        -------
        Masks

        Raises
        ------
        ArgumentError
            It is not a model.
        UnsupportedError
            The model has no tokenizer.
        """
        if not isinstance(model, Core):
            fix = "give what tinyrwkv.load returns"
            raise refusal("constraint", "model", model, "a Model", fix)
        masks = self._masks.get(model.tokenizer)
        if masks is None:
            masks = self._masks.setdefault(model.tokenizer, Masks(self.nfa, trie_of(model)))
        return masks

    def start(self, model: Core) -> Walk:
        """Return a walk along one text; `Model.generate` calls this.

        Raises
        ------
        ArgumentError
            The constraint does not allow what was generated before (`after`).
        UnsupportedError
            The model has no tokenizer.
        """
        walk = Walk(self.masks(model), model.tokenizer)
        if not walk.read(self._before):
            text = self._before[-40:]
            found = f"{text!r} before"
            expected = "a beginning of what is allowed"
            sentence = f"the constraint does not allow {text!r}, which was generated before"
            raise ArgumentError("constraint", "text", found, expected, "begin anew", sentence)
        return walk
