"""Text to token ids and back: greedy longest match over one sorted, packed table of byte strings."""

from __future__ import annotations

import codecs
import operator
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np

from .errors import ArgumentError, FormatError

LONGEST = 1024  # bytes in an entry; bounds the work that a hostile table can cause (the World vocabulary has 128)
MOST_IDS = 1 << 20  # ids in a vocabulary; bounds the memory


class Tokenizer:
    """A vocabulary, and the greedy longest match over it.

    At every place the longest entry that the text begins with is taken. Threads may share a tokenizer. The entries
    stay in the arrays given (the mapped file); three int32 arrays are made beside them (0.8 MB for 65,529 entries).

    Parameters
    ----------
    data : ndarray, uint8, shape (total,), or bytes
        The entries, one behind the other, sorted by their bytes.
    starts : ndarray, int32, shape (n + 1,)
        Entry k is ``data[starts[k]:starts[k + 1]]``.
    ids : ndarray, int32, shape (n,)
        Entry k has id ``ids[k]``: at least 1 (id 0 ends a document) and below `vocab_size`, each used once.
    vocab_size : int
        Number of ids the model knows. Some may have no entry: they stand for no text.
    file : str, optional
        Where the arrays come from, for messages.

    Raises
    ------
    FormatError
        The arrays are no such table, or lack one of the 256 single bytes, without which some texts have no tokens.
    """

    def __init__(
        self,
        data: np.ndarray | bytes,
        starts: np.ndarray,
        ids: np.ndarray,
        vocab_size: int,
        file: str = "",
    ) -> None:
        data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        self.file, self.vocab_size = file or "tokenizer", vocab_size
        self._check(data, starts, ids)
        lengths = starts[1:] - starts[:-1]  # (n,)
        prefixes = self._find_prefixes(data, starts[:-1], lengths)  # (n,)
        places = np.full(vocab_size, -1, np.int32)  # id -> entry
        places[ids] = np.arange(ids.size, dtype=np.int32)
        # The entries that begin with bytes a, b are those from firsts[256 a + b] up to the next; a alone is in (a, 0).
        second = np.where(lengths > 1, data[np.minimum(starts[:-1] + 1, data.size - 1)], 0)  # (n,)
        firsts = np.searchsorted(
            data[starts[:-1]] * np.uint16(256) + second, np.arange(65537)
        )  # (65537,)
        # The items of a memoryview are plain ints, several times faster to read one by one than those of an array.
        self._data, self._starts, self._ids = data.data, starts.data, ids.data
        self._prefixes, self._places, self._firsts = (
            prefixes.data,
            places.data,
            firsts.astype(np.int32).data,
        )
        self._longest = int(lengths.max())

    def __len__(self) -> int:
        """Return the number of entries; below `vocab_size`."""
        return len(self._ids)

    def encode(self, text: str | bytes) -> list[int]:
        """Return the token ids of a text; `decode_bytes` of them gives its bytes again.

        Parameters
        ----------
        text : str or bytes
            A str is encoded as UTF-8; the surrogates by which Python carries undecodable bytes (PEP 383, as in
            ``sys.argv``) become those bytes again. Bytes are taken as they are: any bytes have tokens.

        Returns
        -------
        list of int

        Raises
        ------
        ArgumentError
            `text` is neither, or holds another lone surrogate, which UTF-8 cannot express.

        Examples
        --------
        >>> import tinyrwkv
        >>> tokenizer = tinyrwkv.load().tokenizer
        >>> [tokenizer.token_bytes(token) for token in tokenizer.encode("turn left")]
        [b't', b'urn', b' left']
        """
        text = to_bytes(text)
        starts, ids, firsts, prefixes, entry = (
            self._starts,
            self._ids,
            self._firsts,
            self._prefixes,
            self._entry,
        )
        every, place = range(len(ids)), 0
        tokens: list[int] = []
        while place < len(text):
            ahead = text[place : place + self._longest]
            pair = ahead[0] << 8 | (ahead[1] if len(ahead) > 1 else 0)
            # The last entry <= the text ahead is the match or begins with it: whatever sorts between the match and
            # the text begins with the match too. So the match is that entry or the first of its prefixes that fits.
            k = bisect_right(every, ahead, firsts[pair], firsts[pair + 1], key=entry) - 1
            while not ahead.startswith(entry(k)):
                k = prefixes[k]
            tokens.append(ids[k])
            place += starts[k + 1] - starts[k]
        return tokens

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of some tokens, U+FFFD in place of bytes that are not UTF-8.

        A character may be spread over tokens: to print them one by one use a `StreamDecoder`.

        Parameters
        ----------
        ids : iterable of int

        Returns
        -------
        str

        Raises
        ------
        ArgumentError
            An id is not an integer from 0 to ``vocab_size - 1``.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of some tokens.

        Parameters
        ----------
        ids : iterable of int

        Returns
        -------
        bytes

        Raises
        ------
        ArgumentError
            An id is not an integer from 0 to ``vocab_size - 1``.
        """
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token.

        They are empty for id 0 (the end of a document) and for ids that the vocabulary leaves unused: a model's head
        has rows for those too, so sampling can yield them.

        Parameters
        ----------
        token : int

        Returns
        -------
        bytes

        Raises
        ------
        ArgumentError
            The id is not an integer from 0 to ``vocab_size - 1``.
        """
        try:
            k = self._places[operator.index(token) if token >= 0 else self.vocab_size]
        except (TypeError, IndexError):
            expected = f"0 to {self.vocab_size - 1:,}"
            raise ArgumentError(
                self.file, "token", repr(token), expected, "use this model's ids"
            ) from None
        return self._entry(k) if k >= 0 else b""

    def _entry(self, k: int) -> bytes:
        return bytes(self._data[self._starts[k] : self._starts[k + 1]])

    def _check(self, data: np.ndarray, starts: np.ndarray, ids: np.ndarray) -> None:
        """Check all but the order of the entries."""
        for name, array, dtype in (
            ("bytes", data, "uint8"),
            ("starts", starts, "int32"),
            ("ids", ids, "int32"),
        ):
            if array.dtype != dtype or array.ndim != 1 or array.size == 0:
                raise self._refusal(
                    name, f"{array.dtype.name} {array.shape}", f"1 dimension of {dtype}, not empty"
                )
        if not 1 <= self.vocab_size <= MOST_IDS:
            raise self._refusal("ids", f"vocab_size {self.vocab_size:,}", f"1 to {MOST_IDS:,}")
        if ids.min() < 1 or ids.max() >= self.vocab_size or np.bincount(ids).max() > 1:
            raise self._refusal(
                "ids", "other ids or one twice", f"different ids from 1 to {self.vocab_size - 1:,}"
            )
        if (
            starts.size != ids.size + 1
            or starts[-1] != data.size
            or starts[0]
            or np.any(starts[1:] <= starts[:-1])
        ):
            raise self._refusal(
                "starts", "other offsets", f"{ids.size + 1:,} increasing from 0 to {data.size:,}"
            )
        if (longest := int((starts[1:] - starts[:-1]).max())) > LONGEST:
            raise self._refusal("starts", f"an entry of {longest:,} bytes", f"at most {LONGEST:,}")

    def _find_prefixes(
        self, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        """Return each entry's longest proper prefix among the entries (0 if none), checking the order on the way.

        Goes through the byte positions. Entries that agree so far form a group of neighbours; within a group the next
        bytes must not decrease, and an entry that ends there comes first: it is the prefix of the others.
        """
        prefixes = np.zeros(lengths.size, np.int32)
        rest = np.arange(lengths.size, dtype=np.int32)  # the entries that reach this position
        group = np.zeros(lengths.size, np.int32)  # their groups, numbered in order
        for position in range(int(lengths.max())):
            byte = data[starts[rest] + position]
            same = group[1:] == group[:-1]
            new = np.concatenate(([True], ~same | (byte[1:] != byte[:-1])))
            ends = lengths[rest] == position + 1
            if np.any(same & (byte[1:] < byte[:-1])) or np.any(ends & ~new):
                raise self._refusal(
                    "bytes", "entries out of order", "each once, sorted by their bytes"
                )
            if position == 0 and np.count_nonzero(ends) != 256:
                raise self._refusal(
                    "bytes",
                    f"{np.count_nonzero(ends)} single bytes",
                    "an entry for each of the 256",
                )
            group = np.cumsum(new, dtype=np.int32) - 1
            heads = np.flatnonzero(new)[group]  # where in rest each entry's group begins
            inside = ends[heads] & ~ends
            prefixes[rest[inside]] = rest[heads[inside]]
            rest, group = rest[~ends], group[~ends]
        return prefixes

    def _refusal(self, name: str, found: str, expected: str) -> FormatError:
        return FormatError(
            self.file,
            f"tensor 'tokenizer.{name}'",
            found,
            expected,
            "fetch or convert the model again",
        )


def to_bytes(text: str | bytes) -> bytes:
    """Return a text as UTF-8, the surrogates that carry undecodable bytes (PEP 383) as these; bytes as they are."""
    try:
        return (
            text.encode("utf-8", "surrogateescape")
            if isinstance(text, str)
            else bytes(memoryview(text))
        )
    except UnicodeEncodeError as error:
        found = f"a lone surrogate at character {error.start:,}"
    except TypeError:
        found = f"a {type(text).__name__}"
    raise ArgumentError(
        "encode", "text", found, "Unicode text or bytes", "convert it or replace that character"
    )


class StreamDecoder:
    r"""UTF-8 that arrives in pieces: the same text as ``bytes.decode(errors="replace")`` of the whole.

    Examples
    --------
    >>> decoder = StreamDecoder()
    >>> decoder.push(b"caf\xc3"), decoder.push(b"\xa9!"), decoder.push(b"\xe2\x82"), decoder.flush()
    ('caf', 'é!', '', '�')
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """Return the characters that are complete by now; keeps at most the first 3 bytes of the next.

        Parameters
        ----------
        data : bytes

        Returns
        -------
        str
        """
        return self._decoder.decode(data)

    def flush(self) -> str:
        """Return what is still kept, as U+FFFD, and begin anew.

        Returns
        -------
        str
        """
        return self._decoder.decode(b"", final=True)
