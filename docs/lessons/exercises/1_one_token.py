# RWKV-4 stores its sums as a e^-q and b e^-q. When a token comes, the old sums decay by the factor
# e^w. They are also rescaled to fit the new q.
import pathlib
import sys

import numpy as np

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[3])
)  # a checkout that is not installed

from tinyrwkv.versions import reference

memory = np.array([[0.0], [0.0], [-1e30]], np.float32)  # aa, bb, pp of one channel
att = {
    "token_shift": np.zeros((3, 1), np.float32),
    "time_first": np.zeros(1),
    "time_decay": np.full(1, -0.5),
}
att |= {f"{name}.weight": np.eye(1) for name in ("receptance", "key", "value", "output")}
aa, bb, pp = 0.0, 0.0, -1e30
for x in (1.0, 3.0, 2.0):
    _, memory = reference.time_mix_v4(att, np.array([x]), np.array([x]), memory)
    k = v = x  # all matrices are 1
    q = max(pp - 0.5, k)
    past, now = np.exp(pp - q), np.exp(k - q)  # <- repair this line
    aa, bb, pp = past * aa + now * v, past * bb + now, q

assert np.allclose([aa, bb, pp], memory[:, 0]), (aa, bb, pp)
