"""Turn an order to a robot into a script, in slices of time, and tell whether it may be run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ..chat.templates import template
from .scripts import Call, Scripts
from .slices import Slices

if TYPE_CHECKING:
    from ..model import Model

THRESHOLD = -0.1176
"""The bundled model is trusted from this log-probability on; docs/robot.md says why."""

_STOP_WORDS = "stop|halt|freeze|whoa|emergency"
_FILLERS = "robot|please|now|it|right|there|at|once|immediately|moving"
_STOP = re.compile(rf"\b(?:{_STOP_WORDS})\b", re.IGNORECASE)
_NOTHING_ELSE = re.compile(rf"(?:\b(?:{_STOP_WORDS}|{_FILLERS})\b|[^\w]+)+", re.IGNORECASE)


def says_stop(text: str) -> bool:
    """Tell whether a text has a word at which a robot must stop, whatever else the text says.

    This needs no model.

    Examples
    --------
    >>> says_stop("Stop it, please!"), says_stop("never stop"), says_stop("use the stopper")
    (True, True, False)
    """
    return _STOP.search(text) is not None


def says_only_stop(text: str) -> bool:
    """Tell whether a text that says stop says nothing else.

    Examples
    --------
    >>> says_only_stop("Stop, please!"), says_only_stop("stop and turn around")
    (True, False)
    """
    return says_stop(text) and _NOTHING_ELSE.fullmatch(text) is not None


class Decision(NamedTuple):
    """What to do about an order.

    Attributes
    ----------
    kind : str
        "run": do the calls. "ask": do them only if the user says yes. "unknown": there is no
        script.
    script : str
    calls : list of Call
    logprob : float
        How sure the model is: the natural logarithm of the probability that it gives the script
        itself, without the grammar.
    """

    kind: str
    script: str
    calls: list[Call]
    logprob: float


class Commander:
    """Turns orders into scripts, one at a time, in the time that it is given.

    The constructor prepares the grammar, so that later no token takes longer than the others.

    Parameters
    ----------
    model : Model
    scripts : Scripts
        What the robot can do.
    threshold : float, optional
        Log-probability below which a script is only a guess.
    max_tokens : int, optional
        Most tokens of a script. A longer script counts as no script.
    """

    def __init__(
        self, model: Model, scripts: Scripts, threshold: float = THRESHOLD, max_tokens: int = 120
    ) -> None:
        self.model = model
        self.scripts = scripts
        self.threshold = threshold
        self.max_tokens = max_tokens
        self._template = template("robot")
        scripts.prepare(model)
        self._thought: Slices | None = None

    @property
    def thinking(self) -> bool:
        """Whether an order waits for its script."""
        return self._thought is not None

    def hear(self, command: str) -> None:
        """Begin to think about an order, and stop thinking about the one before.

        Parameters
        ----------
        command : str
            What the user says.

        Raises
        ------
        ArgumentError
            The order is not a text that the tokenizer can read.
        """
        prompt = self._template.prompt(command)
        self._thought = Slices(
            self.model, prompt, constraint=self.scripts, max_tokens=self.max_tokens
        )

    def forget(self) -> None:
        """Stop thinking about the order."""
        self._thought = None

    def work(self, deadline: float) -> Decision | None:
        """Think until a deadline.

        Parameters
        ----------
        deadline : float
            Absolute ``time.monotonic()`` time.

        Returns
        -------
        Decision or None
            None if there is no order, or if there is no decision yet.
        """
        thought = self._thought
        if thought is None or not thought.work(deadline):
            return None
        self._thought = None
        script = thought.text.strip()
        calls = self.scripts.parse(script) if thought.stop_reason == "stop" else []
        if not calls:
            kind = "unknown"
        elif thought.logprob >= self.threshold:
            kind = "run"
        else:
            kind = "ask"
        return Decision(kind, script, calls, thought.logprob)
