"""Types of arguments for argparse: each function turns a text into a value."""

from __future__ import annotations

import argparse
import math
import re

from tinyrwkv.cli.options import size
from tinyrwkv.errors import ArgumentError

from .write.encode import DTYPES
from .write.parts import split_parts

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"

LEAST_BUDGET = 1 << 14
"""Bytes: a number without a unit that is smaller is surely meant in a larger unit."""


def dtype(text: str) -> str:
    """Return the type of matrices; name the one that is meant by a type of llama.cpp."""
    if text in DTYPES:
        return text
    bits = re.search(r"[2-8]", text)
    meant = "int4" if bits is not None and int(bits[0]) < 6 else "int8"
    raise argparse.ArgumentTypeError(
        f"there is no type {text}, only {', '.join(DTYPES)}; did you mean {meant}?"
    )


def parts(text: str) -> str:
    """Return the parts of a model, as they are named."""
    try:
        split_parts(text)
    except ArgumentError as error:
        raise _refused(text, error.expected) from None
    return text


def divisor(text: str) -> float:
    """Return K of a text such as 1/K or K."""
    match = re.fullmatch(rf"(?:1/)?({_NUMBER})", text.strip())
    if not match or not 1 <= float(match[1]) < math.inf:
        raise _refused(text, "1/K or K, such as 1/4 or 4")
    return float(match[1])


def whole_number(text: str) -> int:
    """Return a whole number, of any size."""
    try:
        return int(text)
    except ValueError:
        raise _refused(text, "a whole number") from None


def count(text: str) -> int:
    """Return a whole number of 1 or more."""
    if not text.isdecimal() or not 1 <= int(text) < 1 << 31:
        raise _refused(text, "a whole number of 1 or more")
    return int(text)


def rows(text: str) -> int:
    """Return a number of rows, which may be 0."""
    if not text.isdecimal() or not int(text) < 1 << 31:
        raise _refused(text, "a whole number of 0 or more")
    return int(text)


def seed(text: str) -> int:
    """Return the seed of a random generator."""
    if not text.isdecimal() or not int(text) < 1 << 32:
        raise _refused(text, f"a whole number from 0 to {(1 << 32) - 1}")
    return int(text)


def share(text: str) -> float:
    """Return a share above 0, at most 1."""
    try:
        part = float(text)
    except ValueError:
        part = math.nan
    if not 0 < part <= 1:
        raise _refused(text, "a number above 0 and at most 1, such as 0.16")
    return part


def positive(text: str) -> float:
    """Return a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise _refused(text, "a number above 0")
    return number


def size_or_share(text: str) -> float:
    """Return the bytes of a text such as 4MB, or the share of one such as 70%."""
    match = re.fullmatch(rf"({_NUMBER})\s*%", text.strip())
    if not match:
        return float(size(text))
    if not 0 < float(match[1]) <= 100:
        raise _refused(text, "a share above 0 % and at most 100 %")
    return float(match[1]) / 100


def budget(text: str) -> int:
    """Return the bytes of a text such as 24MB; a small number without a unit lacks one."""
    found = size(text)
    if text.strip().isdecimal() and found < LEAST_BUDGET:
        raise argparse.ArgumentTypeError(
            f"{text} means {text} bytes, less than any model needs; add a unit, such as {text}MB"
        )
    return found


def _refused(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r} is not {expected}")
