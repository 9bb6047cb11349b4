# Top-p comes after temperature. It keeps only the most probable tokens, just enough of them to hold
# the share 0.5.
import pathlib
import sys

import numpy as np

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[3])
)  # a checkout that is not installed

import tinyrwkv

logits = np.array([2.0, 1.9, 1.0, 0.5, -1.0, -3.0], np.float32)
p = np.exp(logits / 2)  # <- repair this line
order = np.argsort(-p)
kept = order[: np.searchsorted(np.cumsum(p[order]), 0.5) + 1]
ours = np.zeros(len(p))
ours[kept] = p[kept] / p[kept].sum()

sampler = tinyrwkv.Sampler(temperature=2, top_p=0.5)
assert np.allclose(ours, sampler.probabilities(logits), atol=1e-6), (
    ours,
    sampler.probabilities(logits),
)
