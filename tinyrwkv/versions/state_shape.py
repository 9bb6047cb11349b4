"""How large a model's state is, and what it holds before the first token.

For each layer in turn, a state has att_x (C,) and ffn_x (C,), the normed inputs of the last token,
and what the time mix keeps: aa, bb and pp (C,) in v4, the matrices S (H, N, N) in the others.
"""

from __future__ import annotations

import numpy as np

from ..file.config import Sizes

NO_EXPONENT = -1e30
"""The first value of v4's pp: the largest exponent of a sum that is still empty."""


def layer_state_size(config: Sizes) -> int:
    """Return how many float32 the state of one layer has.

    Parameters
    ----------
    config : mapping
        The metadata of the model file.
    """
    C = config["n_embd"]
    if config["arch"] == "v4":
        return 5 * C
    return 2 * C + config["n_head"] * config["head_size"] ** 2


def first_state(config: Sizes) -> np.ndarray:
    """Return the state before the first token: all zeros, except v4's exponents.

    Parameters
    ----------
    config : mapping
        The metadata of the model file.

    Returns
    -------
    ndarray, float32, shape (S,)
    """
    C, L = config["n_embd"], config["n_layer"]
    state = np.zeros((L, layer_state_size(config)), np.float32)
    if config["arch"] == "v4":
        state[:, 4 * C :] = NO_EXPONENT
    return state.reshape(-1)
