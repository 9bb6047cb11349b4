# Errors are fed forward here, but the outputs come out worse than the errors promise. Each column
# should add $|e|^2$ to the error of the outputs.
import pathlib
import sys

import numpy as np

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[3])
)  # a checkout that is not installed

from converters.techniques.gptq import inverse_root

random = np.random.default_rng(0)
x = random.standard_normal((1000, 3)) @ random.standard_normal((3, 8))  # 8 inputs, 3 of them free
H = x.T @ x / len(x) + 0.01 * np.eye(8)
U = inverse_root(H, 0)

W = 3 * random.standard_normal((16, 8))
left, rounded, promised = W.copy(), np.empty_like(W), 0.0
for j in range(8):
    rounded[:, j] = np.rint(left[:, j])  # to whole numbers
    e = left[:, j] - rounded[:, j]  # <- repair this line
    left[:, j + 1 :] -= np.outer(e, U[j, j + 1 :])
    promised += e @ e

off = W - rounded
error = ((off @ H) * off).sum()  # E|(W - W') x|^2
assert np.isclose(error, promised, rtol=1e-3), (error, promised)
