"""The presets of ``tinyrwkv-convert --preset``: what each of them does to a model."""

from __future__ import annotations

from .options import Options

EXACT = Options(sparse_ffn="exact")
"""Reads less for each token and computes the same bits.

* Channel mix: values of neurons that do not fire are not read.
* Projections and head stay dense.
"""

LITE = Options(
    int4="body",
    sparse_ffn="predict",
    keep=0.17,
    head="preview",
    max_nll_rise=0.03,
)
"""Reads least for each token, by techniques whose loss is small and measured.

* Layers: the large matrices are rounded to int4 by GPTQ.
* Channel mix: predictors choose 17 % of the neurons; only these are read.
* Head: a preview of all logits chooses 3,072 candidates, a quarter of the tokens at most; only
  their rows are read, in int8.
* A technique that raises the nll of held-out documents by more than 3 % is left out.
"""

PRESETS = {"exact": EXACT, "lite": LITE}
