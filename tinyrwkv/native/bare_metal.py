"""Change LLVM code of the kernels for a chip with one core, no system and little memory."""

from __future__ import annotations

import re
from collections.abc import Collection

from ..file.sha256 import sha256
from .load import source_hash

NAME_SYMBOL = "tinyrwkv_kernels"
"""What an object calls its `identity`, so that a firmware can compare it with its table."""

_LOAD = re.compile(r"load atomic (i32, ptr %[^ ]+) seq_cst")
_STORE = re.compile(r"store atomic (i32 %?[^ ]+, ptr %[^ ]+) seq_cst")
_ADD = re.compile(r"^  (%[^ ]+) = atomicrmw add ptr (%[^ ]+), i32 ([^ ]+) seq_cst, align 4$", re.M)
_YIELD = "declare i32 @sched_yield()"


def for_one_core(code: str) -> str:
    """Return LLVM code whose threads need not meet: atomic operations become plain ones.

    With one core there is one thread, which waits for nobody.
    """
    code = _LOAD.sub(r"load \1", code)
    code = _STORE.sub(r"store \1", code)
    code = _ADD.sub(_plain_add, code)
    return code.replace(_YIELD, "define internal i32 @sched_yield() {\n  ret i32 0\n}")


def _plain_add(found: re.Match[str]) -> str:
    result, place, number = found.groups()
    return (
        f"  {result} = load i32, ptr {place}, align 4\n"
        f'  %"one_core.sum" = add i32 {result}, {number}\n'
        f'  store i32 %"one_core.sum", ptr {place}, align 4'
    )


def without(code: str, kernels: Collection[str]) -> str:
    """Return LLVM code whose named kernels do nothing.

    A program without their operations never calls them.

    Parameters
    ----------
    code : str
    kernels : collection of str
        Module and name of each, such as "wkv.wkv4".
    """
    for kernel in kernels:
        module, name = kernel.split(".")
        mangled = f"kernels{len(module)}{module}{len(name)}{name}B"
        definition = rf"^(define [^\n]*{mangled}[^\n]*\{{\n).*?^}}$"
        pattern = re.compile(definition, re.MULTILINE | re.DOTALL)
        code, count = pattern.subn(r"\1  ret i32 0\n}", code)
        assert count, f"no kernel {kernel}"
    return code


def identity(target: str, unused: Collection[str]) -> str:
    """Return 16 hex digits that tell objects of other sources, targets or kernels apart."""
    parts = [source_hash(), target, *sorted(unused)]
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


def with_identity(code: str, target: str, unused: Collection[str]) -> str:
    """Return LLVM code with its `identity`, a string of C."""
    text = identity(target, unused)
    return f'{code}\n@{NAME_SYMBOL} = constant [{len(text) + 1} x i8] c"{text}\\00"\n'
