"""Answers that match a regular expression."""

from __future__ import annotations

from .constraint import Constraint


class Regex(Constraint):
    r"""A regular expression that the whole text of a generation must match.

    Threads and models may share it. It keeps what it learns, so it is faster the next time.

    Parameters
    ----------
    pattern : str
        A regular expression, see `tinyrwkv.constraints.pattern`.
    prefix : str, optional
        Text before it. Give a space, ``" "``, if the prompt ends with a word such as
        "Assistant:": models write that space as part of the next word's token.
    suffix : str, optional
        Text after it. Give an empty line, ``"\n\n"``, if the model was taught to end its
        answers with one. If `stop` has the same text, the result does not show it.

    Attributes
    ----------
    pattern, prefix, suffix : str

    Raises
    ------
    ArgumentError, UnsupportedError
        The pattern is not a regular expression, is too large, or uses what is not understood.

    Examples
    --------
    >>> import tinyrwkv
    >>> time = tinyrwkv.Regex(r"([01][0-9]|2[0-3]):[0-5][0-9]")
    >>> time.matches("17:45"), time.matches("25:00")
    (True, False)
    >>> model = tinyrwkv.load()
    >>> generation = model.generate("User: What time is it?\n\nAssistant:", constraint=time)
    >>> "".join(piece.text for piece in generation).count(":")
    1
    """
