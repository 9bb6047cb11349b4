"""How many requests may be under way at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .refusal import Refusal


class Places:
    """So many places; for use in one thread.

    Parameters
    ----------
    most : int
    status : int
        Of the refusal if all are taken: 429, or 503.
    sentence : str
        What it says.
    """

    def __init__(self, most: int, status: int, sentence: str) -> None:
        self.most = most
        self.taken = 0
        self._status = status
        self._sentence = sentence

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Take a place; raise a Refusal if there is none."""
        if self.taken >= self.most:
            expected = f"{self.most} at most"
            what = (f"{self.taken} requests", expected, "ask again later", self._sentence)
            raise Refusal(self._status, None, *what, "too_many_requests")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
