# # Low rank and whitening
#
# **Claim.** Keep only the $r$ largest singular values of $W$: no other matrix of rank $r$ is nearer
# to $W$. But what counts is the output $W x$, for the inputs $x$ that occur. If you cut the
# singular values of $W S$ instead, where $S S^\top = E[x x^\top]$, the output changes less. The
# mean square of the change is exactly the sum of the squares of the singular values left out.
#
# **Picture.** Left: singular values of one layer; what is right of the grey line is left out.
# Middle: the share of the output's energy that each of 24 matrices loses. Right: what it costs a
# model of 66 million weights.
#
# A matrix of $m \times n$ weights can be stored as the product of two thin matrices,
# $W \approx B A$. $A$ has the shape $r \times n$ and $B$ the shape $m \times r$. This saves bytes
# only if $r (m + n) < m n$. For a square matrix, $r$ must be below half its size. The *singular
# value decomposition* $W = U \operatorname{diag}(\sigma) V^\top$ gives the best pair: keep the $r$
# largest singular values and drop the others. The error of the result $W_r$ is (Eckart and Young)
#
# $$\lVert W - W_r \rVert_F^2 = \sum_{i > r} \sigma_i^2$$

import json
import pathlib

import checkout  # noqa: F401 - tells what is missing
import copies
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv
from converters.calibrate.collect import collect
from converters.calibrate.documents import sample_documents
from converters.techniques import low_rank
from tinyrwkv.file import quant

model = tinyrwkv.load()
config, weights = model.config, quant.dequantize(model.file)
C, L = config["n_embd"], config["n_layer"]
rank = low_rank.uniform_rank((C, C), 4)
names = [
    f"blocks.{i}.att.{part}.weight" for i in range(L) for part in ("receptance", "key", "value")
]
print(f"{len(names)} matrices of {C} x {C}; rank {rank} halves their bytes")

# ## Near to W, or near to W x
#
# Inputs are not spread evenly over all directions. Some directions hardly ever occur, and an error
# of the matrix there does no harm. The *second moments* $G = E[x x^\top]$ tell how much the inputs
# use each direction. They are summed up while the model reads text that it wrote itself. With
# $G = S S^\top$, the error that counts is again a Frobenius norm:
#
# $$E\,\lVert (W - W_r)\, x \rVert^2 = \lVert (W - W_r)\, S \rVert_F^2$$
#
# So the best way is to cut the singular values of $W S$. Then $S^{-1}$ is multiplied into the right
# factor, which removes $S$ again.

statistics = collect(model, sample_documents(model, 1500, seed=3), moments=names)
metrics = {name: low_rank.Metric(statistics.moments[name]) for name in names}
plain_spectra = {name: low_rank.spectrum(weights[name]) for name in names}
white_spectra = {name: low_rank.spectrum(weights[name], metrics[name]) for name in names}
errors = []
for name in names:
    W, metric = weights[name], metrics[name]
    size = metric.error(W, np.zeros_like(W))  # E|W x|^2
    plain, whitened = plain_spectra[name], white_spectra[name]
    a, b = plain.factors(rank)
    a_white, b_white = whitened.factors(rank)
    errors.append(
        {
            "to W": np.square(W - b @ a).sum() / np.square(plain.values[rank:]).sum(),
            "predicted": np.square(whitened.values[rank:]).sum() / size,
            "whitened": metric.error(W, b_white @ a_white) / size,
            "plain": metric.error(W, b @ a) / size,
        }
    )
table = {key: np.array([one[key] for one in errors]) for key in errors[0]}
print(f"plain:    {table['plain'].mean():.3f} of the output's energy is lost on average")
print(f"whitened: {table['whitened'].mean():.3f}, predicted {table['predicted'].mean():.3f}")

# ## What it does to the model
#
# The loss is the mean of $-\ln p$ over the tokens of a text. The text consists of documents that
# the model wrote from another seed. In a copy of the file, all 24 matrices are replaced by their
# factors at once. `round_factors` stores both factors in int8. Nothing is trained afterwards. The
# engine uses factors where it finds them, so the copy is a model like any other.


def factored(k, whiten):
    parts = {}
    r = low_rank.uniform_rank((C, C), k)
    for name in names:
        found = white_spectra[name] if whiten else plain_spectra[name]
        metric = metrics[name] if whiten else None
        factors = low_rank.round_factors(weights[name], found, r, metric)
        parts[name] = {
            f"{name}.a": factors.a,
            f"{name}.a.scale": factors.a_scale,
            f"{name}.b": factors.b,
            f"{name}.b.scale": factors.b_scale,
        }
    return copies.rewritten(model, parts)


documents = sample_documents(model, 1500, seed=4)
dense = copies.nll(model, documents)
losses = {
    (k, whiten): copies.nll(factored(k, whiten), documents)
    for k in (4, 8)
    for whiten in (False, True)
}
print(f"nll of {sum(map(len, documents))} tokens: dense {dense:.3f}")
for k in (4, 8):
    print(
        f"rank {C // k:3}: plain {losses[k, False] - dense:+.3f}, "
        f"whitened {losses[k, True] - dense:+.3f}"
    )

# Here is the same measurement for all 40 projections of a model of 66 million weights. It is judged
# by books that neither the model nor the calibration has seen. `docs/lessons/measure.py` measured
# it, and `docs/lessons/data/low_rank.json` names the command line.
#
# The tables of [compression](../compression.md) have other figures for the same model: at a quarter
# of the rank +0.0735 plain and +0.0388 whitened. Three things differ. The judged text there is one
# whole book, 116,179 tokens instead of 4,096. The loss there is that above float32, here that above
# int8. And the converter whitens on both sides: it also weighs each output by its effect on the
# stream. Plain factors know no text, so text and baseline alone explain their difference. Whitened
# ones gain from the second side besides.

large = json.loads((pathlib.Path(__file__).parent / "data" / "low_rank.json").read_text("utf-8"))
runs = {(run["k"], run["whitened"]): run["nll"] - large["dense_nll"] for run in large["runs"]}
ks = sorted({k for k, _ in runs})
for k in ks:
    print(f"1/{k} of the rank: plain {runs[k, False]:+.3f}, whitened {runs[k, True]:+.3f}")

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for part in ("receptance", "key", "value", "output"):
    values = np.linalg.svd(weights[f"blocks.3.att.{part}.weight"], compute_uv=False)
    left.plot(values / values[0], label=part)
name = "blocks.3.att.key.weight"
values = white_spectra[name].values
left.plot(values / values[0], "k--", label="key, whitened")
left.axvline(rank, color="grey", lw=0.8)
left.set(
    xlabel="i",
    ylabel="singular value, of the largest",
    yscale="log",
    ylim=(1e-3, 1.2),
    title="Spectra of layer 3",
)
left.legend(fontsize=8)
middle.plot(table["plain"], "o", ms=4, label="plain")
middle.plot(table["whitened"], "o", ms=4, label="whitened")
middle.set(xlabel="matrix", ylabel="energy of the output lost", title=f"Rank {rank} of {C}")
middle.legend()
for whiten, label in ((False, "plain"), (True, "whitened")):
    right.plot([1 / k for k in ks], [runs[k, whiten] for k in ks], "o-", label=label)
right.set(xlabel="rank, of the full one", ylabel="nll above dense", title="66 million weights")
right.legend()
plt.show()

# The output matrix of the time mix is not replaced, as in RWKV-Lite.
#
# ## The claim

assert np.allclose(table["to W"], 1, atol=1e-3)
assert np.allclose(table["whitened"], table["predicted"], rtol=0.02, atol=1e-4)
assert (table["whitened"] < table["plain"]).all()
assert all(runs[k, True] < runs[k, False] for k in ks)
assert losses[4, True] + losses[8, True] < losses[4, False] + losses[8, False]
