"""Which matrices of a model are stored in int4, and which stay in int8."""

from __future__ import annotations

import re

from tinyrwkv.file.int4 import GROUP

PARTS = ("body", "all")
"""body: the large matrices of the layers. all: the embedding and the head too."""

SCALES = {"scale": "one per 64 weights"}
"""What the metadata say about the scales of int4."""

_ATT, _FFN = "receptance|key|value|gate|output", "receptance|key|value"
_BODY = rf"blocks\.\d+\.(att\.({_ATT})|ffn\.({_FFN}))\.weight|blocks\.\d+\.ffn\.value\.rows"
_NAMES = {"body": re.compile(_BODY), "all": re.compile(rf"{_BODY}|emb\.weight|head\.weight")}


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
        One of `PARTS`.

    Examples
    --------
    >>> is_int4("blocks.0.att.key.weight", 768, "body"), is_int4("head.weight", 768, "body")
    (True, False)
    """
    return columns % GROUP == 0 and _NAMES[parts].fullmatch(name) is not None
