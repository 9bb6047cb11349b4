"""Prompts of the server, prepared without a thread."""

from __future__ import annotations

from typing import Any

from tinyrwkv.serve.job import Prompt, prepare


def prepared(*what: Any) -> Prompt:
    """Take all steps of `prepare`."""
    return steps_and_prompt(*what)[1]


def steps_and_prompt(*what: Any) -> tuple[int, Prompt]:
    """Return how many steps `prepare` takes besides the last, and what comes of them."""
    steps = prepare(*what)
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as end:
            return count, end.value
