# What does it cost to leave neurons out? If the columns of V are orthogonal, the cost is exactly
# the sum of the neurons' energies.
import pathlib
import sys

import numpy as np

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[3])
)  # a checkout that is not installed

from tinyrwkv.versions import reference

random = np.random.default_rng(0)
K = random.standard_normal((32, 64))
V = np.linalg.qr(random.standard_normal((64, 32)))[0] * random.uniform(
    0.5, 2, 32
)  # orthogonal columns
ffn = {"token_shift": np.zeros((1, 64)), "key.weight": K, "value.weight": V}
x = random.standard_normal(64)
k = np.maximum(K @ x, 0)

energy = k**2 * np.square(V).sum(axis=0)  # <- repair this line
left_out = np.argsort(energy)[:24]
kept = ffn | {"value.weight": np.where(np.isin(np.arange(32), left_out), 0, V)}
change = np.square(reference.channel_mix_v7(ffn, x, x) - reference.channel_mix_v7(kept, x, x)).sum()
assert np.isclose(change, energy[left_out].sum()), (change, energy[left_out].sum())
