"""What a client is told if it gets no answer: a status, and OpenAI's form of errors."""

from __future__ import annotations

from typing import Any

from ..errors import TinyRWKVError, UnsupportedError

RETRY_AFTER = 2
"""Seconds after which a client may ask again if the server had too much to do."""

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
"""OpenAI's types of errors by status. All others are errors of the request."""


class Refusal(TinyRWKVError):
    """A request that is not answered.

    Parameters
    ----------
    status : int
        Of HTTP.
    param : str or None
        The parameter that is wrong; None if it is not one of them.
    found, expected : str
        What is there, and what should be there.
    fix : str
        What the client can do about it.
    sentence : str
        What is wrong.
    code : str, optional
        OpenAI's name for it.
    """

    def __init__(
        self,
        status: int,
        param: str | None,
        found: object,
        expected: object,
        fix: str,
        sentence: str,
        code: str | None = None,
    ) -> None:
        super().__init__("request", param or "request", found, expected, fix, sentence)
        self.status = status
        self.param = param
        self.code = code

    @property
    def headers(self) -> dict[str, str]:
        """What the response says besides."""
        if self.status in (429, 503):
            return {"Retry-After": str(RETRY_AFTER)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}

    @property
    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        kind = KINDS.get(self.status, "invalid_request_error")
        return {
            "error": {
                "message": f"{self.sentence[0].upper()}{self.sentence[1:]}; {self.fix}.",
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


def wrong(param: str, found: object, expected: str, fix: str = "correct it") -> Refusal:
    """Return the refusal of a value that is not what its parameter takes."""
    sentence = f"{param} is {found}, but must be {expected}"
    return Refusal(400, param, found, expected, fix, sentence, "invalid_value")


def unsupported(param: str, found: object, sentence: str, fix: str = "leave it out") -> Refusal:
    """Return the refusal of something that OpenAI has and this server has not."""
    return Refusal(400, param, found, "what is supported", fix, sentence, "unsupported_parameter")


def of_error(error: TinyRWKVError, param: str | None = None) -> Refusal:
    """Return what a client is told of an error that its parameters have caused.

    Parameters
    ----------
    error : TinyRWKVError
    param : str, optional
        The parameter; by default the object of the error.
    """
    if isinstance(error, Refusal):
        return error
    code = "unsupported_value" if isinstance(error, UnsupportedError) else "invalid_value"
    sentence = error.sentence.removeprefix(f"{error.file}: ")
    what = (error.found, error.expected, error.fix, sentence)
    return Refusal(400, param or error.object, *what, code)


def ending() -> Refusal:
    """Return what is told to all who wait when the server ends."""
    what = ("no server", "one that runs", "ask again later", "the server is ending")
    return Refusal(503, None, *what, "server_ending")


def failure() -> Refusal:
    """Return what is told if the server itself is wrong; its log has the reason."""
    fix = "look at the log of the server"
    return Refusal(500, None, "an error", "an answer", fix, "the server has failed", "failure")
