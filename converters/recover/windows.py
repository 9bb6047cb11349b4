"""The windows of tokens that training reads: from a text, and from what the teacher writes."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch

from tinyrwkv.errors import ArgumentError
from tinyrwkv.tokenizer import Tokenizer

from ..calibrate.documents import BROKEN, WIDTHS, break_lines
from ..judge.texts import END_OF_DOCUMENT, WINDOW, split_documents
from ..write.vocab import read_vocab
from .network import Network, Weights
from .scan import Tensor

Array = np.ndarray

PIECE = 1 << 14
"""Characters of a document whose lines are all broken or none, about 4,000 tokens."""


def text_windows(text: str, vocab: str, vocab_size: int, seed: int = 0) -> Array:
    """Cut a text into windows, its documents in a random order.

    One piece in four has its lines broken: a document, or a part of a long one. A conversion breaks
    as many lines of what it is fitted to.

    Parameters
    ----------
    text : str
        Documents separated by a line ``<|doc|>``, or a plain text.
    vocab : str
        A vocabulary in BlinkDL's format.
    vocab_size : int
    seed : int, optional

    Returns
    -------
    ndarray, int32, shape (n, 512)
        Each window begins with token 0, and so does each document in it.

    Raises
    ------
    ArgumentError
        The text has too few tokens for two windows.
    """
    data, starts, ids = read_vocab(vocab, vocab_size)
    tokenizer = Tokenizer(data, starts, ids, vocab_size, vocab)
    documents = split_documents(text)
    chance = random.Random(seed)
    chance.shuffle(documents)
    stream: list[int] = []
    pieces = 0
    for document in documents:
        stream.append(END_OF_DOCUMENT)
        for start in range(0, len(document), PIECE):
            piece = document[start : start + PIECE]
            if pieces % BROKEN == 1:  # not the first one: a short text has no other
                piece = break_lines(piece, chance.choice(WIDTHS))
            stream += tokenizer.encode(piece)
            pieces += 1
    length = WINDOW - 1
    count = len(stream) // length
    if count < 2:
        found, expected = f"{len(stream)} tokens", f"at least {2 * length}"
        sentence = f"the calibration text has {found}, but must have {expected}"
        raise ArgumentError("calibrate", "text", found, expected, "give a longer text", sentence)
    rows = np.array(stream[: count * length], np.int32).reshape(count, length)
    return np.concatenate([np.full((count, 1), END_OF_DOCUMENT, np.int32), rows], axis=1)


def split_held_out(windows: Array) -> tuple[Array, Array]:
    """Return the windows to train on, and those to judge by: a twentieth, 1 to 32, from the end."""
    count = min(32, max(1, len(windows) // 20))
    return windows[:-count], windows[-count:]


UNLIKE = 0.5
"""Share of the windows that are made unlike any text, see `Windows`."""

EXCHANGED = 0.3
"""The highest chance of a kind of tokens in such a window that another one stands for it."""


class Windows:
    """What a training reads: half of it text, half of it what the teacher wrote.

    A student that reads nothing else forgets what is rare in both. So in half of the windows, some
    tokens are exchanged: another token, which occurs elsewhere, stands for each of them all over
    the window. What the teacher makes of a strange habit of writing is learnt as well.

    Parameters
    ----------
    text, samples : ndarray, int32, shape (n, 512)
        The windows of the text follow each other. If there are none of one kind, all are of the
        other one.
    """

    def __init__(self, text: Array, samples: Array) -> None:
        self._stream = torch.from_numpy(text[:, 1:].reshape(-1)).long()
        self._samples = torch.from_numpy(samples).long()
        seen = torch.cat([self._stream, self._samples[:, 1:].flatten()]).unique()
        self._seen = seen[seen != END_OF_DOCUMENT]

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Return `count` windows: int64, (count, 512).

        Those of the text begin anywhere in it, so that there are many more of them.
        """
        samples, last = len(self._samples), len(self._stream) - WINDOW + 1
        is_text = torch.rand(count, generator=random) < 0.5
        drawn = torch.zeros(count, WINDOW, dtype=torch.int64)
        for window, of_text in zip(drawn, is_text.tolist(), strict=True):
            if samples == 0 or (of_text and last >= 0):
                first = int(torch.randint(last + 1, (), generator=random))
                window[1:] = self._stream[first : first + WINDOW - 1]
            else:
                window[:] = self._samples[int(torch.randint(samples, (), generator=random))]
            if float(torch.rand((), generator=random)) < UNLIKE:
                window[1:] = self._exchanged(window[1:], random)
        return drawn

    def _exchanged(self, tokens: Tensor, random: torch.Generator) -> Tensor:
        """Return tokens of which other ones stand for some, each for all of a kind.

        The ends of documents stay.
        """
        kinds, places = tokens.unique(return_inverse=True)
        chance = EXCHANGED * torch.rand((), generator=random)
        is_exchanged = torch.rand(len(kinds), generator=random) < chance
        is_exchanged &= kinds != END_OF_DOCUMENT
        others = self._seen[torch.randint(len(self._seen), (len(kinds),), generator=random)]
        return torch.where(is_exchanged, others, kinds)[places]


def sample_windows(
    network: Network,
    weights: Weights,
    count: int,
    generator: torch.Generator,
    progress: Callable[[int, int], None],
) -> Array:
    """Let a model write windows at temperature 1, all of them at once.

    Parameters
    ----------
    network : Network
    weights : mapping of str to Tensor
    count : int
    generator : torch.Generator
        On the device of the weights.
    progress : callable
        Called as ``progress(tokens, WINDOW)`` for the tokens of each window.

    Returns
    -------
    ndarray, int32, shape (count, 512)
        Each begins with token 0.
    """
    head = weights["head.weight"]
    tokens: Tensor = torch.zeros(count, WINDOW, dtype=torch.int64, device=head.device)
    states = None
    with torch.no_grad():
        for place in range(1, WINDOW):
            read = tokens[:, place - 1 : place]
            streams, states = network.forward(weights, read, states)
            p = torch.softmax(streams[-1][:, 0] @ head.T, -1)
            tokens[:, place] = torch.multinomial(p, 1, generator=generator)[:, 0]
            progress(place + 1, WINDOW)
    found: Array = tokens.cpu().numpy().astype(np.int32)
    return found
