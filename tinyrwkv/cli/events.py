"""Events for programs: JSON objects, one per line, as docs/events.md describes them."""

from __future__ import annotations

import json
import math
from typing import Any, TextIO

from ..chat.thinking import AnyGeneration, Thinking, ThoughtPiece
from ..file import memory
from ..generate import NO_TOKEN, Piece


class Events:
    """Writes events to a stream, each one immediately.

    Parameters
    ----------
    out : text stream
    """

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def __call__(self, event: str, **values: Any) -> None:
        """Write an event with its values, in ASCII, which every encoding of a stream has."""
        print(json.dumps({"event": event, **values}), file=self.out, flush=True)

    def piece(self, piece: Piece) -> None:
        """Write ``piece``, or ``thought`` for a piece of a thought: text, token, logprob.

        Token and logprob are null if the text comes without a token.
        """
        token = None if piece.token == NO_TOKEN else piece.token
        logprob = piece.logprob if token is not None and math.isfinite(piece.logprob) else None
        event = "thought" if isinstance(piece, ThoughtPiece) else "piece"
        self(event, text=piece.text, token=token, logprob=logprob)

    def end(self, generation: AnyGeneration, **more: Any) -> None:
        """Write ``end`` (stop_reason, text, `more`), then ``stats`` (counts, seconds and bytes).

        If the model may have thought, ``end`` has its `thought` too.
        """
        result = generation.result
        if isinstance(generation, Thinking):
            more = {"thought": generation.result.thought, **more}
        self("end", stop_reason=result.stop_reason, text=result.text, **more)
        process = memory.process_memory()
        self(
            "stats",
            **result.timings,
            proposed=result.proposed,
            accepted=result.accepted,
            resident_bytes=generation.model.file.resident(),
            rss_bytes=process.get("rss"),
        )
