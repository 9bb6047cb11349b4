"""Turn an order to a robot into a script, in slices of time, and tell whether it may be run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..chat.templates import template
from ..errors import ArgumentError
from .guard import objections, out_of_bounds, says_only_stop, says_stop
from .scripts import Call, Scripts
from .slices import Slices

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["THRESHOLD", "Commander", "Decision", "decide", "says_only_stop", "says_stop"]

THRESHOLD = -0.5898
"""The bundled model is trusted from this log-probability on; docs/robot.md says why."""


class Decision(NamedTuple):
    """What to do about an order.

    Attributes
    ----------
    kind : str
        "run": do the calls. "ask": do them only if the user says yes. "refuse": the robot must
        not do them, whatever the user says. "unknown": there is no script.
    script : str
    calls : list of Call
        What may be done. It is empty for "refuse" and "unknown".
    logprob : float
        How sure the model is: the natural logarithm of the probability that it gives the script
        itself, without the grammar.
    reasons : tuple of str
        Short sentences: why the guard refuses, or why it wants a question. It may be empty for
        "ask": then only the model is not sure.
    """

    kind: str
    script: str
    calls: list[Call]
    logprob: float
    reasons: tuple[str, ...] = ()


def decide(
    command: str,
    script: str,
    logprob: float,
    scripts: Scripts,
    threshold: float = THRESHOLD,
    wide: Scripts | None = None,
) -> Decision:
    """Decide about a script that a model has written for an order.

    Parameters
    ----------
    command : str
        What the user said.
    script : str
        Any text: one that is not a whole script, whatever its numbers, is "unknown".
    logprob : float
        As in `Decision`.
    scripts : Scripts
        What the robot can do.
    threshold : float, optional
        Log-probability below which a script is only a guess.
    wide : Scripts, optional
        ``scripts.with_any_number()``, if it has been made already.

    Examples
    --------
    >>> decide("turn left", "turn(90)", -0.01, Scripts()).kind
    'run'
    >>> decide("go 30 metres", "move(30)", -0.01, Scripts()).reasons
    ('move(30) is outside of -20 to 20 metres',)
    """
    script = script.strip()
    try:
        calls = (wide or scripts.with_any_number()).parse(script)
    except ArgumentError:
        calls = []
    if not calls:
        return Decision("unknown", script, [], logprob)
    refused = out_of_bounds(calls, scripts.verbs)
    if refused:
        return Decision("refuse", script, [], logprob, refused)
    doubts = objections(command, calls)
    sure = logprob >= threshold and not doubts
    return Decision("run" if sure else "ask", script, calls, logprob, doubts)


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
        self._wide = scripts.with_any_number()
        self._wide.prepare(model)
        self._command = ""
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
        self._command = command
        self._thought = Slices(
            self.model, prompt, constraint=self._wide, max_tokens=self.max_tokens
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
        script = thought.text.strip() if thought.stop_reason == "stop" else ""
        return decide(
            self._command, script, thought.logprob, self.scripts, self.threshold, self._wide
        )
