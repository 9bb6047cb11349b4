"""What a request over MQTT is: it reads the JSON of a message, and refuses what is no request.

docs/mqtt.md describes the keys. Strangers write these messages, so nothing here trusts them.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

import tinyrwkv
from tinyrwkv.chat import answer_settings
from tinyrwkv.errors import ArgumentError
from tinyrwkv.robot.scripts import VERBS, Argument, Names, Number, Scripts

MOST_BYTES = 1 << 16  # of a request
MOST_DIGITS = 20  # of a whole number: a seed has up to 20
KEYS = ("id", "prompt", "stop", "max_tokens", "deadline", "reset", "sampling_config", "constraint")
TYPES = {
    "prompt": str,
    "reset": bool,
    "sampling_config": dict,
    "max_tokens": int,
    "constraint": dict,
}


def scripts(told: dict[str, Any], prefix: str) -> Scripts:
    """Return the grammar of robot scripts, with other arguments for some calls.

    Parameters
    ----------
    told : dict
        The argument of each of these calls: names, [low, high], or None for no argument.
    prefix : str
        What comes before a script.
    """
    return Scripts(VERBS | {verb: argument(value) for verb, value in told.items()}, prefix)


def argument(value: Any) -> Argument | None:
    """Return the argument that a call takes."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(map(is_number, value)):
        return Number(*value)
    return Names(value)


def is_number(value: object) -> bool:
    """Tell whether a value of JSON is a number, and not infinite."""
    return isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)


def whole(digits: str) -> int | float:
    """Return an integer of JSON. A huge one becomes a float, which may be infinite.

    Nothing that is asked for here needs more digits, and arithmetic with huge integers fails where
    arithmetic with floats does not.
    """
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)


CONSTRAINTS = {
    "choice": tinyrwkv.Choice,
    "regex": tinyrwkv.Regex,
    "json_schema": tinyrwkv.JsonSchema,
    "scripts": scripts,
}
KINDS = {"choice": list, "regex": str, "json_schema": dict, "scripts": dict}
"""The type of JSON that each of them is made from."""


@dataclass
class Request:
    """A request that waits for its answer or is being answered.

    Attributes
    ----------
    id, prompt : str
    stop : list of str, or None for that of the template
    max_tokens : int
    until : float
        Absolute ``time.monotonic()`` time.
    reset : bool
        Whether it stands alone. If not, it goes on from the answer before.
    sampler : Sampler
    constraint : dict, or None
        The name of one of `CONSTRAINTS`, and what to make it from.
    """

    id: str
    prompt: str
    stop: list[str] | None
    max_tokens: int
    until: float
    reset: bool
    sampler: tinyrwkv.Sampler
    constraint: dict[str, Any] | None
    cancelled: bool = False
    generation: tinyrwkv.Generation | None = None
    arrived: float = field(default_factory=time.monotonic)

    def cancel(self) -> None:
        """End the answer within milliseconds, or do not begin it."""
        self.cancelled = True
        if self.generation is not None:
            self.generation.cancel()


def refuse(key: str, found: object, expected: str, sentence: str | None = None) -> ArgumentError:
    """Return the error for a value of a request."""
    shown = repr(found)[:80]
    sentence = sentence or f"{key} is {shown}, but must be {expected}"
    return ArgumentError("request", key, shown, expected, "see docs/mqtt.md", sentence)


def read(payload: bytes) -> dict[str, Any]:
    """Return the JSON object in a message; raise ArgumentError if there is none with an id."""
    if len(payload) > MOST_BYTES:
        found, expected = f"{len(payload):,} bytes", f"at most {MOST_BYTES:,}"
        sentence = f"message has {found}, but may have {expected}"
        raise refuse("message", found, expected, sentence)
    try:
        told = json.loads(payload, parse_int=whole)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise refuse("message", payload[:60], "a JSON object with an id and a prompt")
    valid_id(told.get("id"))
    return told


def parse(told: dict[str, Any], longest: float) -> Request:
    """Return the request in an object; raise ArgumentError if it is not a request.

    Parameters
    ----------
    told : dict
        As `read` returns it.
    longest : float
        Most seconds that a request may take. It is also the default.
    """
    check_keys(told)
    seconds = told.get("deadline", longest)
    if not is_number(seconds) or not 0 < seconds <= longest:
        raise refuse("deadline", seconds, f"seconds up to {longest:g}")
    constraint = told.get("constraint")
    if constraint is not None:
        is_known = constraint.keys() <= CONSTRAINTS.keys()
        if len(constraint) != 1 or not is_known:
            raise refuse("constraint", constraint, f"an object of one of {', '.join(CONSTRAINTS)}")
    return Request(
        id=told["id"],
        prompt=told["prompt"],
        stop=told.get("stop"),
        max_tokens=told.get("max_tokens", 200),
        until=time.monotonic() + seconds,
        reset=told.get("reset", True),
        sampler=sampler(told.get("sampling_config", {})),
        constraint=constraint,
    )


def check_keys(told: dict[str, Any]) -> None:
    """Raise ArgumentError if a key is missing or unknown, or its value is of another type."""
    unknown = sorted(told.keys() - set(KEYS))
    if unknown:
        raise refuse("key", unknown[0], f"one of {', '.join(KEYS)}")
    if "prompt" not in told:
        raise refuse("prompt", None, "what is said", "the request has no prompt")
    for key, kind in TYPES.items():
        if key in told and type(told[key]) is not kind:
            raise refuse(key, told[key], f"of type {kind.__name__}")


def sampler(told: dict[str, Any]) -> tinyrwkv.Sampler:
    """Return the sampler of a request. It is greedy if the request says nothing about it."""
    values = {"temperature": 0.0, **told}
    if "max_tokens" in values or not all(map(is_number, values.values())):
        expected = f"an object of numbers with the keys {', '.join(answer_settings.OF_SAMPLER)}"
        raise refuse("sampling_config", values, expected)
    return tinyrwkv.Sampler(**answer_settings.check(values))


def valid_id(text: object) -> str:
    """Return an id that can be part of a topic; raise ArgumentError if it cannot."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise refuse("id", text, "1 to 64 letters, digits, _ . or -")
    return text
