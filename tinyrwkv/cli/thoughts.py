"""How a chat shows what a model thinks before it answers."""

from __future__ import annotations

from .terminal import Trimmer, Wrapper, dim

WAYS = ("hide", "dim", "show")
"""Leave thoughts out, show them faintly, or show them as text between tags.

Without colours, "dim" is the same as "show".
"""


class ThoughtView:
    r"""Turns the pieces of one thought into what is written.

    Parameters
    ----------
    way : str
        One of `WAYS`.
    colours : bool
        Whether the output can show text faintly.
    wrapper : Wrapper, optional
        Breaks lines. By default lines stay as they are.

    Examples
    --------
    >>> view = ThoughtView("show", False)
    >>> view.push("\nHm.") + view.push("\n") + view.end() + view.end()
    '<think>\nHm.\n</think>\n'
    """

    def __init__(self, way: str, colours: bool, wrapper: Wrapper | None = None) -> None:
        self._is_hidden = way == "hide"
        self._is_faint = way == "dim" and colours
        self._wrapper = wrapper
        self._trimmer = Trimmer()
        self._is_open = False

    def push(self, text: str) -> str:
        """Return what to write for a piece."""
        shown = self._trimmer.push(text)
        if self._is_hidden or not shown:
            return ""
        begin = "" if self._is_open or self._is_faint else "<think>\n"
        self._is_open = True
        if self._wrapper is not None:
            shown = self._wrapper.push(shown)
        return begin + dim(shown, self._is_faint)

    def end(self) -> str:
        """Return what to write when the answer begins, or nothing follows."""
        if not self._is_open:
            return ""
        self._is_open = False
        rest = "" if self._wrapper is None else self._wrapper.flush()
        return dim(rest, self._is_faint) + ("\n\n" if self._is_faint else "\n</think>\n")
