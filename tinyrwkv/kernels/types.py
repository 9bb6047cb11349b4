"""Names for the types of kernels: Numba infers the types, and the names tell them to the reader."""

from __future__ import annotations

from typing import Any, NamedTuple

Arguments = Any  # pointer to the arguments of a call: args[TOKENS]
Fields = Any  # pointer to the fields of an operation: fields[NORM_AT.width]
Address = Any  # int64
Offset = Any  # int64, bytes from an address
Int = Any  # int32
Bool = Any
Float = Any  # float32
Floats = Any  # pointer to float32: x[j]
Ints = Any  # pointer to integers


class Inputs(NamedTuple):
    """Activations of the tokens that a matrix is multiplied with.

    Attributes
    ----------
    x : Address
    x_bytes : Offset
        From one token to the next.
    tokens, cols : Int
    sums : Address
        For int4, the sums of each group, int32, token by token.
    split : Offset
        For int4, where the bytes of a token begin after its x, 0 if there are none.
    y_bytes : Offset
        From the dot products of one token to those of the next.
    """

    x: Address
    x_bytes: Offset
    tokens: Int
    cols: Int
    sums: Address
    split: Offset
    y_bytes: Offset
