# # int8 and its error bound
#
# **Claim.** Round a row of weights to 255 levels. The output of the row then changes by at most
# half the step between two levels, times the sum of $|x|$. This holds for every row and every
# input. In practice, the change is about twenty times smaller, as the square-root law predicts.
#
# **Picture.** Left: the changes of 308,224 real outputs, each by its bound. Right: what scales for
# smaller groups of weights cost and bring.
#
# A float32 weight takes four bytes, and reading the weights is what costs time and memory.
# `tinyrwkv` stores one byte for each weight, and one scale for each row:
#
# $$s_i = \max_j |W_{ij}| / 127, \quad q_{ij} = \mathrm{round}(W_{ij} / s_i), \quad
# |W_{ij} - s_i q_{ij}| \le s_i / 2$$
#
# The bound on the output follows at once. It needs only the triangle inequality:
#
# $$|\Delta y_i| = \left|\sum_j (W_{ij} - s_i q_{ij})\, x_j\right| \le \frac{s_i}{2} \sum_j |x_j|$$


import checkout  # noqa: F401 - tells what is missing
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv
from converters.calibrate.documents import sample_documents
from converters.calibrate.probe import Probe
from tinyrwkv.file import quant

# ## Real weights, real inputs
#
# The bundled model is already int8, so rounding it again changes nothing. We therefore multiply the
# gain $g$ of the layer norm into the matrix that follows the norm. This is allowed, because
# $W\,\mathrm{diag}(g)\,z = W (g \odot z)$. The new weights no longer lie on the levels of int8. The
# inputs are real too: the model reads text that it wrote itself, and a probe records what it
# multiplies with this matrix. These inputs are divided by $g$.

model = tinyrwkv.load()
name = "blocks.3.ffn.key.weight"
weights = quant.dequantize(model.file)
W = weights[name] * weights["blocks.3.ln2.weight"]  # (F, C)

seen = []
probe = Probe(model, {name: seen.append})
for document in sample_documents(model, 300, seed=2):
    probe.read(document)
x = np.concatenate(seen) / weights["blocks.3.ln2.weight"]  # (T, C)

again, _ = quant.quantize_rows(weights[name])
print("weights that a second rounding changes:", int((again != model.file[name]).sum()))

q, scale = quant.quantize_rows(W)
error = W - quant.dequantize_rows(q, scale)  # (F, C)
change = np.abs(x @ error.T)  # (T, F)
bound = np.abs(x).sum(axis=1)[:, None] * scale / 2  # (T, F)
print(
    f"{len(x)} inputs, {change.size:,} outputs; "
    f"nearest to its bound: {(change / bound).max():.2f} of it"
)

# ## Why it is so much better than the bound
#
# An output reaches the bound only if every rounding error has the worst possible sign. But the
# errors are spread evenly over $\pm s_i/2$ and do not depend on $x$. So they add up like a random
# walk:
#
# $$\sqrt{E\,|\Delta y_i|^2} \approx \frac{s_i}{\sqrt{12}} \sqrt{\sum_j x_j^2}$$

expected = np.linalg.norm(x, axis=1)[:, None] * scale / np.sqrt(12)  # (T, F)
ratio = np.sqrt(np.square(change).mean() / np.square(expected).mean())
print(f"measured error / predicted error: {ratio:.3f}")
print(f"bound / measured error: {bound.mean() / np.sqrt(np.square(change).mean()):.0f}")
print(
    "relative error of the output: "
    f"{np.sqrt(np.square(change).mean() / np.square(x @ W.T).mean()):.4f}"
)

# ## Smaller groups, fewer bits
#
# One large weight makes the steps of its whole row coarse. A scale for each group of weights helps,
# and costs four bytes for each group. With 8 bits, groups gain little. With 4 bits, they gain much.
# To round to 4 bits, replace 127 by 7.


def rounded(W, group, levels):
    blocks = W.reshape(-1, group)  # each group a row of its own
    q, scale = quant.quantize_rows(blocks)
    if levels != 127:
        scale = scale * np.float32(127 / levels)
        q = np.rint(blocks / scale[:, None]).astype(np.int8)
    return quant.dequantize_rows(q, scale).reshape(W.shape)


points = {}
for levels, bits in ((127, 8), (7, 4)):
    for group in (16, 32, 64, 128, 256):
        y = x @ (rounded(W, group, levels) - W).T
        points[bits, group] = (
            bits / 8 + 4 / group,
            np.sqrt(np.square(y).mean() / np.square(x @ W.T).mean()),
        )

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.hist((change / bound).ravel(), 80, log=True)
left.axvline(1, color="black", ls="--")
left.set(xlabel="error / bound", ylabel="outputs", title="No output is beyond its bound")
for bits in (8, 4):
    sizes, errors = zip(*(points[bits, group] for group in (16, 32, 64, 128, 256)), strict=True)
    right.plot(sizes, errors, "o-", label=f"{bits} bits")
    for group, at in zip((16, 32, 64, 128, 256), zip(sizes, errors, strict=True), strict=True):
        right.annotate(group, at, textcoords="offset points", xytext=(4, 4), fontsize=7)
right.set(
    xlabel="bytes for each weight",
    ylabel="relative error of the output",
    yscale="log",
    title="Groups of a row",
)
right.legend()
plt.show()

# On a small board, int8 makes the model faster as well as smaller. A token reads every dense weight
# once. So where memory sets the pace, a quarter of the bytes gives nearly four times as many tokens
# per second.
#
# ## The claim

assert (np.abs(error) <= scale[:, None] / 2 * (1 + 1e-4)).all()
assert (change <= bound * (1 + 1e-4)).all()
assert 0.9 < ratio < 1.1, ratio
