"""From what somebody says to a robot to a script that it may run: in slices of time, and only as far as it is sure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ..chat.templates import template
from .scripts import Call, Scripts
from .slices import Slices

if TYPE_CHECKING:
    from ..model import Model

THRESHOLD = -0.1176
"""Log-probability from which on the bundled model is taken at its word; docs/robot.md tells how it was chosen."""

_STOP = re.compile(r"\b(?:stop|halt|freeze|whoa|emergency)\b", re.IGNORECASE)
_NOTHING_ELSE = re.compile(
    r"(?:\b(?:stop|halt|freeze|whoa|emergency|robot|please|now|it|right|there|at|once|immediately|moving)\b|[^\w]+)+",
    re.IGNORECASE,
)


def says_stop(text: str) -> bool:
    """Tell whether a text has a word at which a robot has to stop, whatever else it says: no model is asked.

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
    """What a command came to.

    Attributes
    ----------
    kind : str
        "run": the calls are to be done; "ask": only after a question; "unknown": there is no script.
    script : str
    calls : list of Call
    logprob : float
        How sure the model is: the logarithm of the probability it gave the script before anything was ruled out.
    """

    kind: str
    script: str
    calls: list[Call]
    logprob: float


class Commander:
    """Turns commands into scripts, one at a time, whenever it is given time.

    It prepares the grammar at once, so that later no token takes longer than others.

    Parameters
    ----------
    model : Model
    scripts : Scripts
        What the robot can do.
    threshold : float, optional
        Log-probability below which a script is only a guess.
    max_tokens : int, optional
        Of a script; one that is not complete by then is none.

    Attributes
    ----------
    thinking : bool
        Whether a command waits for its script.
    """

    def __init__(
        self, model: Model, scripts: Scripts, threshold: float = THRESHOLD, max_tokens: int = 120
    ) -> None:
        self.model, self.scripts, self.threshold, self.max_tokens = (
            model,
            scripts,
            threshold,
            max_tokens,
        )
        self._template = template("robot")
        scripts.prepare(model)
        self._thought: Slices | None = None

    @property
    def thinking(self) -> bool:  # noqa: D102 - described above
        return self._thought is not None

    def hear(self, command: str) -> None:
        """Begin to think about a command, and no longer about the one before.

        Raises
        ------
        ArgumentError
            The command is no text that the tokenizer can read.
        """
        prompt = self._template.prompt(command)
        self._thought = Slices(
            self.model, prompt, constraint=self.scripts, max_tokens=self.max_tokens
        )

    def forget(self) -> None:
        """Think about nothing."""
        self._thought = None

    def work(self, deadline: float) -> Decision | None:
        """Think until `deadline`, an absolute ``time.monotonic()`` time; return what it came to, once it is known."""
        thought = self._thought
        if thought is None or not thought.work(deadline):
            return None
        self._thought = None
        script = thought.text.strip()
        if thought.stop_reason != "stop" or not (calls := self.scripts.parse(script)):
            return Decision("unknown", script, [], thought.logprob)
        return Decision(
            "run" if thought.logprob >= self.threshold else "ask", script, calls, thought.logprob
        )
