# # int4: groups, zero points, and errors that are fed forward
#
# **Claim.** Four bits give a weight only 16 values, so their places matter. A zero point puts them
# where the weights of a small group lie. And a rounding error need not stay: the weights that are
# not rounded yet can make up for it. Then the weights change more, but the outputs change less.
#
# **Picture.** Left: a group of 64 weights, and the values that it may take without and with a zero
# point. Right: the error of the outputs while one column of the matrix after the other is rounded.
#
# [Lesson 2](2_int8.py) rounded a row to 255 values with one scale. With 16 values, a step is 17
# times as wide, and one large weight spoils its whole row. So a row is cut into groups of 64, and
# each group has a scale $s$ of its own.

import checkout  # noqa: F401 - tells what is missing
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv
from converters.calibrate.documents import sample_documents
from converters.calibrate.probe import Probe
from converters.techniques import gptq, round_int4
from tinyrwkv.file import int4, quant

# ## A group by hand
#
# Here is a group of eight weights. Without a zero point, the values are $-7s, \dots, 7s$, and the
# largest weight sets the step:
#
# $$s = \max_j |w_j| / 7, \qquad q_j = \mathrm{round}(w_j / s), \qquad w_j \approx s\,q_j$$

w = np.array([-0.3, 0.0, 0.1, 0.2, 0.4, 0.5, 0.7, 0.9])


def symmetric(w):
    s = np.abs(w).max(axis=-1, keepdims=True) / 7
    q = np.rint(w / s)
    return s, q, s * q


s, q, rounded = symmetric(w)
print(f"step {s[0]:.3f}, q {q.astype(int)}")
print("weights ", w)
print("rounded ", rounded.round(2))
print(f"mean square of the error: {np.square(w - rounded).mean():.5f}")

# The values below -2 are never used: the weights lie on one side of 0. A *zero point* $z$ moves the
# 16 values to where the weights are. It is a whole number from 0 to 15, and so is $q$. So 0 itself
# stays a value, and a weight of 0 stays 0:
#
# $$s = \frac{\max_j w_j - \min_j w_j}{15}, \qquad z = \mathrm{round}(-\min_j w_j / s), \qquad
# w_j \approx s\,(q_j - z)$$


def with_zero_point(w):
    low = np.minimum(w.min(axis=-1, keepdims=True), 0)
    high = np.maximum(w.max(axis=-1, keepdims=True), 0)
    s = (high - low) / 15
    z = np.rint(-low / s)
    q = np.clip(np.rint(w / s) + z, 0, 15)
    return s, z, s * (q - z)


s, z, rounded = with_zero_point(w)
print(f"step {s[0]:.3f}, zero point {int(z[0])}")
print("rounded ", rounded.round(2))
print(f"mean square of the error: {np.square(w - rounded).mean():.5f}")

# ## A real matrix
#
# `fit_groups` goes one step further. It also tries smaller scales, which clip the largest weights
# and place the others more finely, and takes the best. The matrix is the key of a channel mix. A
# group of the file is not 64 columns in a row, but 64 that suit the vectors of all processors. We
# sort the columns, so that here they are.

model = tinyrwkv.load()
name = "blocks.3.ffn.key.weight"
whole = quant.dequantize(model.file)[name]  # (F, C)
by_group = int4.order(whole.shape[1])
W = whole[:, by_group]
F, C = W.shape
groups = W.reshape(-1, int4.GROUP)

scale, zero = round_int4.fit_groups(groups)
q = round_int4.nearest(groups, scale[:, None], zero[:, None])
nearest = round_int4.spread(q, scale[:, None], zero[:, None])
rounded = {
    "a scale for each row": symmetric(W)[2].reshape(groups.shape),
    "a scale for each group": symmetric(groups)[2],
    "and a zero point": with_zero_point(groups)[2],
    "both fitted": nearest,
}
bits = 4 + np.array([32 / C, 16 / 64, 20 / 64, 20 / 64])  # scales have 32 or 16 bits
errors = {way: np.square(groups - found).mean() for way, found in rounded.items()}
for (way, error), size in zip(errors.items(), bits, strict=True):
    share = np.sqrt(error / np.square(groups).mean())
    print(f"{way:23} {size:.2f} bits a weight, relative error {share:.2%}")
nearest = nearest.reshape(F, C)

# ## An error that is fed forward
#
# What counts is not the weights but the outputs $W x$. Suppose that two inputs are always equal,
# and that both have the weight 0.4. Rounded to whole numbers, both become 0, and the output is 0
# instead of $0.8\,x$. It is better to round the first one to 0, and to add what was lost to the
# second one: 0.4 + 0.4 rounds to 1.
#
# GPTQ does this for inputs that depend on each other in any way. Let $H = E[x x^\top]$ and
# $H^{-1} = U^\top U$ with $U$ upper triangular. The columns $w_j$ of $W$ are rounded from left to
# right:
#
# $$e = \frac{w_j - \mathrm{round}(w_j)}{U_{jj}}, \qquad w_k \leftarrow w_k - U_{jk}\,e
# \quad\text{for all } k > j$$
#
# This choice of $w_k$ is the best one for the columns that are left. The error that remains is
# known exactly: each column adds $|e|^2$ to $E\,|(W - W')\,x|^2$.

damping = 0.01  # added to the diagonal of H, so that seldom inputs do not get huge weights
U = gptq.inverse_root(np.ones((2, 2)), damping)
first, second = 0.4, 0.4
e = (first - np.rint(first)) / U[0, 0]
second -= U[0, 1] * e
print(f"the second weight becomes {second:.2f}, rounded {np.rint(second):.0f}")

# ## Column by column
#
# Now the same for the real matrix, with inputs that the model had while it read what it wrote. $H$
# is taken from one half of them, and the other half judges.

seen = []
probe = Probe(model, {name: seen.append})
for document in sample_documents(model, 1500, seed=3):
    probe.read(document)
x = np.concatenate(seen)[:, by_group]  # (T, C)
fit, judge = x[::2], x[1::2]
H = fit.T @ fit / len(fit)
H += damping * H.trace() / C * np.eye(C)
U = gptq.inverse_root(H, 0)

left, fed, added = W.copy(), np.empty_like(W), []
for j in range(C):
    if j % int4.GROUP == 0:  # a group begins: its scale fits what its weights are by then
        scale, zero = round_int4.fit_groups(left[:, j : j + int4.GROUP])
    fed[:, j] = round_int4.spread(round_int4.nearest(left[:, j], scale, zero), scale, zero)
    e = (left[:, j] - fed[:, j]) / U[j, j]  # (F,)
    left[:, j + 1 :] -= np.outer(e, U[j, j + 1 :])
    added.append(e @ e)


def energy(difference):
    """Return E|d x|^2 over the inputs that H is made of, summed over the rows d."""
    return ((difference @ H) * difference).sum()


def share(found):
    """Return the relative error of the outputs for the inputs that judge."""
    return np.sqrt(np.square(judge @ (found - W).T).mean() / np.square(judge @ W.T).mean())


def moved(found):
    """Return the relative error of the weights."""
    return np.sqrt(np.square(found - W).mean() / np.square(W).mean())


print(f"rounded to nearest: weights off by {moved(nearest):.2%}, outputs by {share(nearest):.2%}")
print(f"errors fed forward: weights off by {moved(fed):.2%}, outputs by {share(fed):.2%}")
print(f"error predicted / measured: {np.sum(added) / energy(W - fed):.4f}")

# The converter does the same with `gptq.gptq`. It changes the columns behind a group all at once:

inputs = np.empty_like(fit)
inputs[:, by_group] = fit  # its columns in their own order
found = gptq.gptq(whole, inputs.T @ inputs / len(fit)).int4.weights()[:, by_group]
print(f"by the converter:   weights off by {moved(found):.2%}, outputs by {share(found):.2%}")

figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
lopsided = groups[np.abs(groups.max(axis=1) + groups.min(axis=1)).argmax()]
left_axes.plot(lopsided, np.zeros(64), "|", ms=14, color="black")
step, _, _ = symmetric(lopsided)
left_axes.plot(step * np.arange(-7, 8), np.full(15, -1), "o", ms=4)
step, z, _ = with_zero_point(lopsided)
left_axes.plot(step * (np.arange(16) - z), np.full(16, -2), "o", ms=4)
left_axes.set_yticks([0, -1, -2], ["64 weights", "scale", "scale and\nzero point"])
left_axes.set(ylim=(-2.6, 0.6), xlabel="weight", title="The values of a group")

off = W - nearest
by_pairs = (off.T @ off) * H
grown = by_pairs.cumsum(axis=0).cumsum(axis=1).diagonal()  # columns 0 to j rounded
right_axes.plot(np.arange(C) + 1, grown / energy(W), label="rounded to nearest")
right_axes.plot(np.arange(C) + 1, np.cumsum(added) / energy(W), label="errors fed forward")
right_axes.set(
    xlabel="columns rounded",
    ylabel="energy of the output lost",
    ylim=(0, None),
    title="Column by column",
)
right_axes.legend()
plt.show()

# A file of int4 has half the bytes of int8. [Compression](../compression.md) tells what that costs
# whole models. The errors are spread over all weights: no few of them matter more than the rest.
#
# ## The claim

ways = list(errors.values())
assert ways[0] > ways[1] > ways[2] >= ways[3]
assert np.isclose(np.sum(added), energy(W - fed), rtol=0.01)
assert moved(fed) > moved(nearest) and share(fed) < 0.95 * share(nearest)
assert np.isclose(share(found), share(fed), rtol=0.02)
