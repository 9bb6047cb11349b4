"""Models that say a given text, whatever was said before."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.random_model import sizes, values
from tests.helpers.tiny_models import tokenizer_tensors, write_tensors
from tests.helpers.vocabularies import single_bytes
from tinyrwkv.versions.layout import tensor_shapes

END = b""
"""In a text to say: the end of the document."""

CAFE = (
    *(b":", b" ca", b"f", b"\xc3", b"\xa9", b" cost", b"s"),
    *(b" \xe2", b"\x82\xac", b"5", b"\n\n"),
)
"""A price, with two characters that are split between tokens."""

LOOP = (b":", b" so", b" on", b" and", b" so")
"""A text without an end."""

THOUGHT = (b" <think", b">", b"\nA caf", b"\xc3", b"\xa9 ", b"may", b" be.</", b"think>x")
ANSWER = (b"</think", b">\n", b"\xe2", b"\x82\xac", b"5.", b" Yes", END)
"""What a model with the template think says: a thought, and an answer."""


def write_talker(path: str | os.PathLike[str], *texts: Sequence[bytes], **metadata: Any) -> str:
    """Write a model of 2 layers that says these texts; return its path.

    After each token of a text it says the next one. Its layers have a state as those of any model
    do, but add nothing to the embedding of the last token. The row of the head for a token is the
    sum of the embeddings of the tokens before it.
    """
    rng = np.random.default_rng(1)
    tokens = single_bytes()
    for token in dict.fromkeys(token for text in texts for token in text if len(token) > 1):
        tokens[len(tokens) + 1] = token
    ids = {data: token for token, data in tokens.items()} | {END: 0}
    config = sizes("v7", 2, 64, len(tokens) + 1, head_size=16, ffn=96)
    embedding = rng.choice(np.array([-1, 1], np.float32), (config["vocab_size"], 64))
    head = np.zeros_like(embedding)
    for text in texts:
        for token, following in itertools.pairwise(text):
            head[ids[following]] += 4 * embedding[ids[token]]
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        array = values(name, tuple(n if isinstance(n, int) else 8 for n in shape), "v7", rng)
        if name.endswith(("output.weight", "ffn.value.weight", "ln_out.bias")):
            array[:] = 0
        elif name == "ln_out.weight":
            array[:] = 1
        tensors[name] = array
    tensors |= {"emb.weight": embedding, "head.weight": head} | tokenizer_tensors(tokens)
    return write_tensors(path, {**config, "dtype": "f32", **metadata}, tensors)
