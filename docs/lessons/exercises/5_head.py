# If a cluster is not read, it must still get the probability that the cluster head gives to it.
import pathlib
import sys

import numpy as np

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[3])
)  # a checkout that is not installed

from converters.techniques.preview_head import softmax

share = np.array([0.7, 0.2, 0.1])  # by the cluster head; the first is read
exact = np.array([3.0, 2.0, 1.0])  # logits of its rows
prior = np.log([0.5, 0.25, 0.25])  # of the three tokens of the second, and of the third
Q = np.exp(exact).sum()

second = np.log(Q * share[1]) + prior  # <- repair this line
third = np.log(Q * share[2] / share[0]) + prior
p = softmax(np.concatenate([exact, second, third])[None])[0]
assert np.allclose([p[:3].sum(), p[3:6].sum(), p[6:].sum()], share), p
