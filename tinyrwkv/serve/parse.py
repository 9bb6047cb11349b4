"""The JSON of a request: strict, and refused with the reason."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from .refusal import Refusal


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


DECODER = json.JSONDecoder(parse_constant=_no_number)


def parse(data: bytes) -> Any:
    """Return what JSON in UTF-8 holds; raise a Refusal if it is none.

    Examples
    --------
    >>> parse(b'{"a": [1]}')
    {'a': [1]}
    """
    try:
        return DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(":")[0][:80] or "it is not"
        sentence = f"the request is not JSON: {reason}"
        what = ("something else", "JSON in UTF-8", "correct it", sentence)
        raise Refusal(400, None, *what, "invalid_json") from None
