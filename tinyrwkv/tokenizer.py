"""Text to token ids and back: greedy longest match over one sorted table of byte strings."""

from __future__ import annotations

import codecs
import sys
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np

from .arguments import BYTES, Text, items, refusal, whole_number
from .errors import ArgumentError, FormatError

END_OF_DOCUMENT = 0  # the id of a token that stands for no text

# Bytes in an entry; bounds the work that a hostile table can cause. The World vocabulary has 128.
LONGEST = 1024
MOST_IDS = 1 << 20  # ids in a vocabulary; bounds the memory


class Tokenizer:
    """A vocabulary, and the greedy longest match over it.

    At every place the tokenizer takes the longest entry that the text ahead begins with. Threads
    may share a tokenizer. The entries stay in the arrays given (the mapped file). Besides, there
    are three int32 arrays (0.8 MB for 65,529 entries).

    Parameters
    ----------
    data : ndarray, uint8, shape (total,), or bytes
        The entries, one behind the other, sorted by their bytes.
    starts : ndarray, int32, shape (n + 1,)
        Entry k is ``data[starts[k]:starts[k + 1]]``.
    ids : ndarray, int32, shape (n,)
        Entry k has id ``ids[k]``: at least 1 (id 0 ends a document) and below `vocab_size`, each
        used once.
    vocab_size : int
        Number of ids the model knows. Some may have no entry: they stand for no text.
    file : str, optional
        Where the arrays come from, for messages.

    Raises
    ------
    FormatError
        The arrays are not such a table, or one of the 256 single bytes is missing. Some texts would
        have no tokens then.
    """

    ARRAYS = ("bytes", "starts", "ids")

    def __init__(
        self,
        data: np.ndarray | bytes,
        starts: np.ndarray,
        ids: np.ndarray,
        vocab_size: int,
        file: str = "",
    ) -> None:
        if isinstance(data, bytes):
            data = np.frombuffer(data, np.uint8)
        self.file = file or "tokenizer"
        self.vocab_size = whole_number("Tokenizer", "vocab_size", vocab_size, 0, 2**32)
        self._check(data, starts, ids)
        lengths = starts[1:] - starts[:-1]  # (n,)
        prefixes = self._find_prefixes(data, starts[:-1], lengths)  # (n,)
        firsts = _first_entries(data, starts[:-1], lengths)  # (65537,)
        places = np.full(vocab_size, -1, np.int32)  # id -> entry
        places[ids] = np.arange(ids.size, dtype=np.int32)
        # The items of a memoryview are plain ints, and reading one is several times as fast as
        # reading one of an array.
        self._data = data.data
        self._starts = starts.data
        self._ids = ids.data
        self._prefixes = prefixes.data
        self._firsts = firsts.data
        self._places = places.data
        self._longest = int(lengths.max())

    def __repr__(self) -> str:
        return f"<Tokenizer of {self.file!r}: {len(self):,} tokens>"

    def __len__(self) -> int:
        """Return the number of entries; below `vocab_size`."""
        return len(self._ids)

    def encode(self, text: Text) -> list[int]:
        """Return the token ids of a text; `decode_bytes` turns them into its bytes again.

        Parameters
        ----------
        text : str or bytes
            A str is encoded as UTF-8. Python may have put surrogates in the place of bytes that it
            could not decode (PEP 383, as in ``sys.argv``): they become those bytes again. Bytes are
            taken as they are: any bytes have tokens.

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
        [b'turn', b' ', b'left']
        """
        return self.encode_part(to_bytes(text))[0]

    def encode_part(
        self, text: bytes, start: int = 0, most: int = sys.maxsize
    ) -> tuple[list[int], int]:
        """Return the tokens of a text from a place on, and the place after the last of them.

        Parameters
        ----------
        text : bytes
        start : int, optional
        most : int, optional
            Tokens at most.

        Returns
        -------
        tokens : list of int
        end : int
        """
        # Local names are faster in a loop.
        starts = self._starts
        ids = self._ids
        firsts = self._firsts
        prefixes = self._prefixes
        entry = self._entry
        entries = range(len(ids))
        tokens: list[int] = []
        place = start
        while place < len(text) and len(tokens) < most:
            ahead = text[place : place + self._longest]
            pair = ahead[0] << 8 | (ahead[1] if len(ahead) > 1 else 0)
            # Entry k is the last one that sorts before the text ahead, or is equal to it. Every
            # entry between the longest match and the text begins with the match. So the match is
            # entry k, or else the first of its prefixes that fits.
            k = bisect_right(entries, ahead, firsts[pair], firsts[pair + 1], key=entry) - 1
            while not ahead.startswith(entry(k)):
                k = prefixes[k]
            tokens.append(ids[k])
            place += starts[k + 1] - starts[k]
        return tokens, place

    def encode_sure(self, text: Text) -> list[int]:
        """Return the first tokens of all texts that begin with this one.

        Parameters
        ----------
        text : str or bytes
            As `encode` takes it.

        Returns
        -------
        list of int

        Examples
        --------
        >>> import tinyrwkv
        >>> tokenizer = tinyrwkv.load().tokenizer
        >>> [tokenizer.token_bytes(token) for token in tokenizer.encode_sure("turn left")]
        [b'turn', b' ']
        """
        ahead, tokens = to_bytes(text), self.encode(text)
        for count, token in enumerate(tokens):
            # A longer entry that begins with all that is ahead comes right behind it.
            k = bisect_right(range(len(self)), ahead, key=self._entry)
            if k < len(self) and self._entry(k).startswith(ahead):
                return tokens[:count]
            ahead = ahead[len(self.token_bytes(token)) :]
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
        ids = items(self.file, "ids", ids, "a list of token ids", "use those of encode")
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token.

        They are empty for id 0 (the end of a document) and for ids that the vocabulary leaves
        unused: a model's head has rows for those too, so sampling can yield them.

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
        last = self.vocab_size - 1
        fix = "use this model's ids"
        k = self._places[whole_number(self.file, "token", token, 0, last, fix, "a token")]
        return self._entry(k) if k >= 0 else b""

    def _entry(self, k: int) -> bytes:
        return bytes(self._data[self._starts[k] : self._starts[k + 1]])

    def _check(self, data: np.ndarray, starts: np.ndarray, ids: np.ndarray) -> None:
        """Check all but the order of the entries."""
        for name, array in zip(self.ARRAYS, (data, starts, ids), strict=True):
            dtype = "uint8" if name == "bytes" else "int32"
            if not isinstance(array, np.ndarray):
                raise refusal("Tokenizer", name, array, "an array", "give a NumPy array")
            if array.dtype != dtype or array.ndim != 1 or array.size == 0:
                found = f"{array.dtype.name} {array.shape}"
                raise self._refusal(name, found, f"1 dimension of {dtype}, not empty")
        if not 1 <= self.vocab_size <= MOST_IDS:
            raise self._refusal("ids", f"vocab_size {self.vocab_size:,}", f"1 to {MOST_IDS:,}")
        if ids.min() < 1 or ids.max() >= self.vocab_size or np.bincount(ids).max() > 1:
            expected = f"different ids from 1 to {self.vocab_size - 1:,}"
            raise self._refusal("ids", "other ids or one twice", expected)
        whole = starts[0] == 0 and starts[-1] == data.size and starts.size == ids.size + 1
        if not whole or np.any(starts[1:] <= starts[:-1]):
            expected = f"{ids.size + 1:,} increasing from 0 to {data.size:,}"
            raise self._refusal("starts", "other offsets", expected)
        longest = int((starts[1:] - starts[:-1]).max())
        if longest > LONGEST:
            found = f"an entry of {longest:,} bytes"
            raise self._refusal("starts", found, f"at most {LONGEST:,}")

    def _find_prefixes(
        self, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        """Return each entry's longest proper prefix among the entries, 0 if there is none.

        It goes through the byte positions, and checks the order on the way. Entries that agree up
        to a position are neighbours, and form a group. Within a group the next bytes must not
        decrease, and an entry that ends comes first: it is the prefix of the others.
        """
        prefixes = np.zeros(lengths.size, np.int32)
        rest = np.arange(lengths.size, dtype=np.int32)  # the entries that reach this position
        group = np.zeros(lengths.size, np.int32)  # their groups, numbered in order
        for position in range(int(lengths.max())):
            byte = data[starts[rest] + position]
            same_group = group[1:] == group[:-1]
            opens = np.concatenate(([True], ~same_group | (byte[1:] != byte[:-1])))
            ends = lengths[rest] == position + 1
            if np.any(same_group & (byte[1:] < byte[:-1])) or np.any(ends & ~opens):
                expected = "each once, sorted by their bytes"
                raise self._refusal("bytes", "entries out of order", expected)
            if position == 0 and np.count_nonzero(ends) != 256:
                found = f"{np.count_nonzero(ends)} single bytes"
                raise self._refusal("bytes", found, "an entry for each of the 256")
            group = np.cumsum(opens, dtype=np.int32) - 1
            first = np.flatnonzero(opens)[group]  # (rest,), places in rest where groups begin
            prefixed = ends[first] & ~ends
            prefixes[rest[prefixed]] = rest[first[prefixed]]
            rest, group = rest[~ends], group[~ends]
        return prefixes

    def _refusal(self, name: str, found: str, expected: str) -> FormatError:
        fix = "fetch or convert the model again"
        return FormatError(self.file, f"tensor 'tokenizer.{name}'", found, expected, fix)


def _first_entries(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return, for each pair of bytes, the first entry that starts with them.

    The entries that start with bytes a, b are those from ``[256 a + b]`` up to the next number. The
    entry that is the single byte a counts as (a, 0).
    """
    second = np.where(lengths > 1, data[np.minimum(starts + 1, data.size - 1)], 0)  # (n,)
    pairs = data[starts] * np.uint16(256) + second  # (n,)
    return np.searchsorted(pairs, np.arange(65537)).astype(np.int32)  # (65537,)


def to_bytes(text: Text) -> bytes:
    """Return a text as UTF-8; bytes as they are.

    The surrogates that carry undecodable bytes (PEP 383) become those bytes.

    Raises
    ------
    ArgumentError
        `text` is neither, or holds another lone surrogate.
    """
    try:
        if isinstance(text, str):
            return text.encode("utf-8", "surrogateescape")
        if isinstance(text, BYTES):
            return bytes(memoryview(text))
        found = f"a {type(text).__name__}"
    except UnicodeEncodeError as error:
        found = f"a lone surrogate at character {error.start:,}"
    except ValueError:
        found = "a memoryview that was released"
    expected = "Unicode text or bytes"
    fix = "convert it or replace that character"
    sentence = f"encode: text must be {expected}, not {found}"
    raise ArgumentError("encode", "text", found, expected, fix, sentence)


class StreamDecoder:
    r"""Decodes UTF-8 that arrives in pieces, to what ``bytes.decode(errors="replace")`` returns.

    Examples
    --------
    >>> decoder = StreamDecoder()
    >>> decoder.push(b"caf\xc3"), decoder.push(b"\xa9!"), decoder.push(b"\xe2\x82"), decoder.flush()
    ('caf', 'é!', '', '�')
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """Return the characters that are complete by now; keep at most 3 bytes of the next one.

        Parameters
        ----------
        data : bytes

        Returns
        -------
        str
        """
        return self._decoder.decode(to_bytes(data))

    def flush(self) -> str:
        """Return what is still kept, as U+FFFD, and begin anew.

        Returns
        -------
        str
        """
        return self._decoder.decode(b"", final=True)
