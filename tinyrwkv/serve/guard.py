"""Who may ask: the API key, and the names that a server on this machine answers to."""

from __future__ import annotations

import functools
import hmac
import ipaddress
from collections.abc import Mapping

from ..errors import show
from ..file.sha256 import sha256
from .refusal import Refusal


class Guard:
    """Checks the headers of requests.

    Parameters
    ----------
    key : str or None
        What clients must send as ``Authorization: Bearer KEY``.
    is_local : bool
        Whether the server is bound to a loopback address. Then, without a key, it answers only to
        names of this machine: a page from elsewhere whose name leads here (DNS rebinding) is
        refused.
    """

    def __init__(self, key: str | None, is_local: bool) -> None:
        self._digest = None if key is None else sha256(key.encode()).digest()
        self._is_local = is_local

    @property
    def is_closed(self) -> bool:
        """Whether a key is needed, or only programs on this machine can ask."""
        return self._digest is not None or self._is_local

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise a Refusal if these are not the headers of somebody who may ask."""
        if self._digest is not None:
            self._check_key(headers.get("authorization", ""))
        elif self._is_local:
            host = headers.get("host", "")
            if not is_loopback(host_of(host)):
                sentence = f"the request is for {show(host)}, but this server is only for localhost"
                what = (show(host), "localhost", "ask localhost, or give the server an API key")
                raise Refusal(403, None, *what, sentence, "wrong_host")

    def _check_key(self, given: str) -> None:
        scheme, _, key = given.partition(" ")
        # Digests are of one length, so the time tells nothing about the key.
        digest = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        is_right = hmac.compare_digest(digest, self._digest or b"")
        if scheme.lower() != "bearer" or not is_right:
            sentence = "the API key is wrong" if given else "the API key is missing"
            what = ("another key", "the server's", "send Authorization: Bearer KEY", sentence)
            raise Refusal(401, None, *what, "invalid_api_key")


def host_of(header: str) -> str:
    """Return the name in a ``Host`` header, without its port.

    Examples
    --------
    >>> host_of("localhost:8000"), host_of("[::1]:8000")
    ('localhost', '::1')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


@functools.lru_cache(maxsize=16)  # clients ask for the same host each time
def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine and cannot be reached from others.

    Examples
    --------
    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
