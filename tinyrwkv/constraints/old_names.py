"""Accept `lead` and `tail`, the names that `prefix` and `suffix` had first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

NEW_NAMES = {"lead": "prefix", "tail": "suffix"}


def accept_old_names(init: Callable[P, None]) -> Callable[P, None]:
    """Let a constructor take the old names as keywords; they mean the same as the new ones."""

    @functools.wraps(init)
    def with_new_names(*args: P.args, **kwargs: P.kwargs) -> None:
        for old, new in NEW_NAMES.items():
            if old in kwargs:
                kwargs[new] = kwargs.pop(old)
        init(*args, **kwargs)

    return with_new_names
