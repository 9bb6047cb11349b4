"""Count the work of a call in steps of the interpreter: the same on every machine, busy or not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps(call: Callable[[], Any]) -> int:
    """Return how many bytecodes a call executes in this thread.

    What C code does is not seen, so a loop over items must be one in Python to be counted.
    """
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 counts none before a frame has asked
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count
