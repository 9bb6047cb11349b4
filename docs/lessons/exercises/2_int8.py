# A bound must hold for the worst input. This one does not.
import pathlib
import sys

import numpy as np

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[3])
)  # a checkout that is not installed

from tinyrwkv.file import quant

random = np.random.default_rng(0)
W = random.standard_normal((64, 256)).astype(np.float32)
q, scale = quant.quantize_rows(W)
error = W - quant.dequantize_rows(q, scale)

x = np.sign(error[0])  # the input that hurts row 0 most
bound = scale / np.sqrt(12) * np.linalg.norm(x)  # <- repair this line
assert (np.abs(error @ x) <= bound * 1.0001).all(), np.abs(error @ x)[0] / bound[0]
