# Cutting the singular values of W S changes the output least. The size of this error can be told
# without multiplying any matrices.
import pathlib
import sys

import numpy as np

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[3])
)  # a checkout that is not installed

from converters.techniques import low_rank

random = np.random.default_rng(0)
W = random.standard_normal((48, 64)).astype(np.float32)
X = random.standard_normal((500, 64)) * np.geomspace(1, 0.01, 64)  # some directions hardly occur
metric = low_rank.Metric(X.T @ X / len(X))
a, b = low_rank.spectrum(W, metric).factors(16)

values = low_rank.spectrum(W).values  # <- repair this line
lost = np.square(X @ (W - b @ a).T).sum(axis=1).mean()
assert np.isclose(lost, np.square(values[16:]).sum(), rtol=0.01), lost
