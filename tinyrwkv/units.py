"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

from .errors import ArgumentError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as "12MB", "1.5 GiB" or "4096".

    Parameters
    ----------
    text : str
        A number, then B, kB, MB, GB (powers of 1000) or KiB, MiB, GiB (powers of 1024), in upper
        or lower case.

    Returns
    -------
    int

    Raises
    ------
    ArgumentError
        The text is not a size.

    Examples
    --------
    >>> parse_size("12MB"), parse_size("1.5KiB")
    (12000000, 1536)
    """
    match = re.fullmatch(
        r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMG]I?)?B?\s*", text, re.IGNORECASE | re.ASCII
    )
    if not match:
        what = ("arguments", "size", repr(text), "a number of B, kB, MB, GB or MiB")
        raise ArgumentError(*what, "write it like 12MB", f"{text!r} is not a size")
    number, unit = match.groups(default="")
    return round(float(number) * UNITS[unit.upper()])


def show_size(size: int | None) -> str:
    """Return a number of bytes in a form that people read; "unknown" for None.

    Examples
    --------
    >>> show_size(9426289), show_size(512)
    ('9.4 MB', '512 B')
    """
    if size is None:
        return "unknown"
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"
