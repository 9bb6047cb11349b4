"""Which matrices of a model are stored in int4, and which stay in int8."""

from __future__ import annotations

import re

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.int4 import GROUP

PARTS = ("body", "embedding", "head")
"""body: the large matrices of the layers. Several parts are named with commas, all with "all"."""

SCALES = {"scale": "one per 64 weights"}
"""What the metadata say about the scales of int4."""

_ATT, _FFN = "receptance|key|value|gate|output", "receptance|key|value"
_BODY = rf"blocks\.\d+\.(att\.({_ATT})|ffn\.({_FFN}))\.weight|blocks\.\d+\.ffn\.value\.rows"
_NAMES = {"body": _BODY, "embedding": r"emb\.weight", "head": r"head\.weight"}


def split_parts(parts: str) -> tuple[str, ...]:
    """Return the parts that a text names.

    Raises
    ------
    ArgumentError
        It names another part, or one twice.

    Examples
    --------
    >>> split_parts("all"), split_parts("body,head")
    (('body', 'embedding', 'head'), ('body', 'head'))
    """
    named = PARTS if parts == "all" else tuple(parts.split(","))
    if not set(named) <= set(PARTS) or len(set(named)) < len(named):
        expected = f"all, or some of {', '.join(PARTS)} with commas between them"
        sentence = f"there are no parts {parts!r}"
        raise ArgumentError("arguments", "parts", parts, expected, f"choose {expected}", sentence)
    return named


def is_int4(name: str, columns: int, parts: str) -> bool:
    """Tell whether a matrix is stored in int4.

    Small matrices, such as those that RWKV-6 and 7 make decays and gates with, save little. They
    stay in int8, and so do matrices that cannot be cut into groups.

    Parameters
    ----------
    name : str
    columns : int
        Of the matrix.
    parts : str
        Some of `PARTS`: see `split_parts`.

    Examples
    --------
    >>> is_int4("blocks.0.att.key.weight", 768, "body"), is_int4("head.weight", 768, "body")
    (True, False)
    """
    is_chosen = any(re.fullmatch(_NAMES[part], name) for part in split_parts(parts))
    return columns % GROUP == 0 and is_chosen
