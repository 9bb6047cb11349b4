"""Find the texts at which a generation stops, wherever tokens end."""

from __future__ import annotations


class StopStrings:
    """Finds stop strings in the bytes of tokens, wherever one token ends and the next begins.

    The automaton of Aho and Corasick: "Efficient string matching", 1975. Its nodes are the texts
    that stop strings begin with. A byte takes a few steps, however many and long the strings are.

    Attributes
    ----------
    partial : bytes
        The end of the text that may be the beginning of a stop string, and is not shown yet.
    """

    def __init__(self, stops: list[bytes]) -> None:
        self.partial = b""
        self._node = 0
        self._next: dict[tuple[int, int], int] = {}  # the node, by the one before and a byte
        self._depth = [0]
        self._found = [0]  # bytes of the longest stop string that ends at a node
        for stop in stops:
            node = 0
            for depth, byte in enumerate(stop, 1):
                node = self._next.setdefault((node, byte), len(self._depth))
                if node == len(self._depth):
                    self._depth.append(depth)
                    self._found.append(0)
            self._found[node] = len(stop)
        # If a byte does not follow: the longest of the other nodes that the text ends with.
        self._other = [0] * len(self._depth)
        by_depth = sorted(self._next.items(), key=lambda item: self._depth[item[1]])
        for (before, byte), node in by_depth:
            if before:
                self._other[node] = self._after(self._other[before], byte)
            self._found[node] = self._found[node] or self._found[self._other[node]]

    def _after(self, node: int, byte: int) -> int:
        """Return the longest node that the text ends with after a byte."""
        while node and (node, byte) not in self._next:
            node = self._other[node]
        return self._next.get((node, byte), 0)

    def push(self, data: bytes) -> tuple[bytes, int | None]:
        """Add bytes to the text; return those to show, and the bytes from a stop string on.

        Returns
        -------
        shown : bytes
        size : int or None
            How many bytes there are from the stop string on; None if none is complete.
        """
        text = self.partial + data
        begin = len(text)  # of the first stop string that is complete
        for end, byte in enumerate(data, len(self.partial) + 1):
            self._node = self._after(self._node, byte)
            if self._found[self._node]:
                begin = min(begin, end - self._found[self._node])
        if begin < len(text):
            self.partial = b""
            return text[:begin], len(text) - begin
        end = len(text) - self._depth[self._node]
        self.partial = text[end:]
        return text[:end], None

    def release(self) -> bytes:
        """Return the partial match, and forget it, as no stop string follows."""
        partial = self.partial
        self.partial = b""
        return partial
