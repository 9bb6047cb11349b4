"""The presets of ``tinyrwkv-convert --preset``: what each of them does to a model."""

from __future__ import annotations

from .options import Options

EXACT = Options(sparse_ffn="exact")
"""Reads less for each token and computes the same bits.

* Channel mix: values of neurons that do not fire are not read.
* Projections and head stay dense.
"""

LITE = Options(
    rank_budget=0.55,
    sparse_ffn="predict",
    keep=0.17,
    head="preview",
    max_nll_rise=0.03,
)
"""The techniques of RWKV-Lite, each with a loss that is measured.

* Projections: low-rank factors with adaptive ranks, in 55 % of the bytes of the dense ones.
* Channel mix: predictors choose 17 % of the neurons; only these are read.
* Head: a preview of all logits chooses 3,072 candidates, a quarter of the tokens at most; only
  their rows are read.
* A technique that raises the nll of held-out documents by more than 3 % is left out.
"""

PRESETS = {"exact": EXACT, "lite": LITE}
