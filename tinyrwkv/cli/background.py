"""Run a generation in a thread of its own, so that Ctrl-C never stops it inside a token."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator

from ..chat.thinking import AnyGeneration
from ..errors import UnsupportedError
from ..generate import Piece

END = None


def stream(generation: AnyGeneration) -> Generator[Piece, None, None]:
    """Yield the pieces of a generation that another thread makes.

    A KeyboardInterrupt is raised in the thread of the caller, as always. Whenever the iteration
    ends, also by this exception, the generation is cancelled. The iteration then waits until the
    generation has ended, so that its ``result.state`` is complete.

    Parameters
    ----------
    generation : Generation or Thinking

    Yields
    ------
    Piece

    Raises
    ------
    TinyRWKVError
        As the generation does.
    """
    pieces: queue.SimpleQueue[Piece | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for piece in generation:
                pieces.put(piece)
        except BaseException as error:
            pieces.put(error)
        finally:
            pieces.put(END)

    worker = threading.Thread(target=work, name="tinyrwkv-generate", daemon=True)
    try:
        _start(worker)
        while True:
            try:
                piece = pieces.get(timeout=0.2)  # on Windows, Ctrl-C waits for this
            except queue.Empty:
                continue
            if piece is END:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        generation.cancel()
        _wait(worker)


def _start(worker: threading.Thread) -> None:
    try:
        worker.start()
    except RuntimeError as error:
        fix = "end other programs, or raise the limit on processes (ulimit -u)"
        sentence = "the system gives this process no thread to answer in"
        what = ("chat", "thread", str(error), "a new thread")
        raise UnsupportedError(*what, fix, sentence) from None


def _wait(worker: threading.Thread) -> None:
    """Wait for a thread that ends in milliseconds, even if Ctrl-C is pressed again."""
    while worker.is_alive():
        try:
            worker.join(1)
        except KeyboardInterrupt:
            continue
