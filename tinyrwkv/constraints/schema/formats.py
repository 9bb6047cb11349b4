"""The values of ``format``, as patterns of ECMA-262.

Each pattern is narrower than its format where the format has rare forms: no leap seconds, no years
before 1000, no quoted names in addresses, no IPv4 inside of IPv6.

References
----------
RFC 3339 (date, time), RFC 4122 (uuid), RFC 5321 (email), RFC 1123 (hostname), RFC 3986 (uri), RFC
2673 (ipv4), RFC 4291 (ipv6).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from .ecma import parse
from .shapes import Pattern


class Format(NamedTuple):
    """What a format allows.

    Attributes
    ----------
    pattern : str
    longest : int or None
        Characters at most. So short, a name of a host or a user need not be counted by itself.
    """

    pattern: str
    longest: int | None = None


_OTHER_YEARS = r"[1-9]\d{3}"
_LEAP_YEARS = (
    r"(?:[1-9]\d(?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"  # 2024, 2000
)
_DATE = (
    rf"(?:{_OTHER_YEARS}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
    rf"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP_YEARS}-02-29)"
)
_HOUR = r"(?:[01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_HOUR}:[0-5]\d(?:\.\d{{1,6}})?(?:Z|[+-]{_HOUR})"

_LABEL = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_GROUP = r"[0-9A-Fa-f]{1,4}"
_IPV6 = f"(?:{_GROUP}:){{7}}{_GROUP}"
for _before in range(8):  # at most so many groups before "::", which stands for at least one
    _first = rf"(?:{_GROUP}(?::{_GROUP}){{0,{_before - 1}}})?" if _before else ""
    _last = rf"(?:{_GROUP}(?::{_GROUP}){{0,{6 - _before}}})?" if _before < 7 else ""
    _IPV6 += f"|{_first}::{_last}"

_REST = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*"
_URI = rf"[A-Za-z][A-Za-z0-9+.-]*://{_HOST}(?::[1-9]\d{{0,4}})?(?:[/?]{_REST})?(?:#{_REST})?"

FORMATS = {
    "date": Format(_DATE),
    "time": Format(_TIME),
    "date-time": Format(rf"{_DATE}T{_TIME}"),
    "uuid": Format(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    "email": Format(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})+", 64),
    "hostname": Format(_HOST, 63),
    "uri": Format(_URI),
    "ipv4": Format(rf"{_OCTET}(?:\.{_OCTET}){{3}}"),
    "ipv6": Format(f"(?:{_IPV6})"),
}

NUMBER_FORMATS = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
"""The formats of OpenAPI that say the size of a whole number: the lowest and the highest one."""

NO_FORMATS = {"float", "double", "password"}
"""Formats that allow every value of their type."""


@functools.cache
def format_of(name: str) -> Pattern:
    """Return the pattern of a format, the same object each time."""
    path = f"format {name}"
    return Pattern(parse(f"^(?:{FORMATS[name].pattern})$", path)[0], path)
