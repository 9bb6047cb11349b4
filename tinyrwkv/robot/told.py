"""What a program is told about an answer that should be a script, whatever way it asks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .commander import THRESHOLD, decide
from .scripts import UNKNOWN, Scripts

if TYPE_CHECKING:
    from ..generate import Result


def told(
    command: str,
    result: Result,
    logprob: float,
    scripts: Scripts,
    threshold: float = THRESHOLD,
    wide: Scripts | None = None,
) -> dict[str, Any]:
    """Return the keys of a JSON object about an answer.

    Parameters
    ----------
    command : str
        What the user said.
    result : Result
        The answer.
    logprob, scripts, threshold, wide
        As for `decide`.

    Returns
    -------
    dict
        text, logprob (None if it is not finite), decision, reasons. If the decision is "refuse",
        the text is ``unknown()``, so that nobody runs it by mistake, and `refused` is what the
        model wrote.
    """
    script = result.text if result.stop_reason == "stop" else ""
    decision = decide(command, script, logprob, scripts, threshold, wide)
    keys: dict[str, Any] = {
        "text": result.text,
        "logprob": round(logprob, 4) if math.isfinite(logprob) else None,
        "decision": decision.kind,
        "reasons": decision.reasons,
    }
    if decision.kind == "refuse":
        keys |= {"text": scripts.prefix + UNKNOWN, "refused": decision.script}
    return keys
