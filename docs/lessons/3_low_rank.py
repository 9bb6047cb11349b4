# # Low rank and whitening
#
# **Claim.** Of all matrices of rank $r$, the cut of $W$'s singular values is nearest to $W$. What
# counts is the output $W x$ for the $x$ that occur: cutting the singular values of $W S$, where $S
# S^\top = E[x x^\top]$, changes it less, and by exactly the squares of the values left out.
#
# A matrix of $m \times n$ weights can be stored as the product of two thin ones, $W \approx B A$,
# with $A$ of $r \times n$ and $B$ of $m \times r$. That saves bytes only where $r (m + n) < m n$:
# for a square matrix below half its size. The *singular value decomposition* $W = U
# \operatorname{diag}(\sigma) V^\top$ gives the best pair there is (Eckart and Young):
#
# $$\lVert W - W_r \rVert_F^2 = \sum_{i > r} \sigma_i^2$$

import json
import pathlib
import sys
import tempfile

import numpy as np
from matplotlib import pyplot as plt

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parents[2])
)  # a checkout that is not installed

import tinyrwkv
from converters.calibrate.collect import collect
from converters.calibrate.documents import sample_documents
from converters.techniques import low_rank
from tinyrwkv.file import quant
from tinyrwkv.file.mapped import Writer

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
# Inputs are not spread evenly over all directions: some hardly ever occur, and whatever the matrix
# does there is not missed. The *second moments* $G = E[x x^\top]$ tell. They are summed up while
# the model reads text that it wrote itself. With $G = S S^\top$ the error that counts is again a
# Frobenius norm,
#
# $$E\,\lVert (W - W_r)\, x \rVert^2 = \lVert (W - W_r)\, S \rVert_F^2$$
#
# so the best cut is that of the singular values of $W S$, and $S^{-1}$ is multiplied back into the
# right factor.

statistics = collect(model, sample_documents(model, 1500, seed=3), moments=names)
errors = []
for name in names:
    W, metric = weights[name], low_rank.Metric(statistics.moments[name])
    size = metric.error(W, np.zeros_like(W))  # E|W x|^2
    plain, whitened = low_rank.spectrum(W), low_rank.spectrum(W, metric)
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
# The loss is the mean of $-\ln p$ over the tokens of a text: documents that the model wrote from
# another seed. All 24 matrices are replaced by their factors at once in a copy of the file, and
# nothing is trained afterwards. The engine runs factors where it finds them, so the copy is a model
# like any other. `round_factors` stores both in int8.


def nll(model, documents):
    total = 0.0
    for document in documents:
        z = model.forward(document[:-1], logits="all")[0].astype(np.float64)  # (T, V)
        total += (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), document[1:]]).sum()
    return total / sum(len(document) - 1 for document in documents)


def factored(k, whiten):
    path = pathlib.Path(tempfile.mkdtemp(), "factored.trwkv")
    with Writer(path, config) as writer:
        for name in model.file.tensors:
            if name in names:
                metric = low_rank.Metric(statistics.moments[name]) if whiten else None
                found = low_rank.spectrum(weights[name], metric)
                factors = low_rank.round_factors(
                    weights[name], found, low_rank.uniform_rank((C, C), k), metric
                )
                for part in ("a", "b"):
                    writer.add(f"{name}.{part}", getattr(factors, part))
                    writer.add(f"{name}.{part}.scale", getattr(factors, part + "_scale"))
            elif name.removesuffix(".scale") not in names:
                writer.add(name, model.file[name])
    return tinyrwkv.load(path)


documents = sample_documents(model, 1500, seed=4)
dense = nll(model, documents)
losses = {
    (k, whiten): nll(factored(k, whiten), documents) for k in (4, 8) for whiten in (False, True)
}
print(f"nll of {sum(map(len, documents))} tokens: dense {dense:.3f}")
for k in (4, 8):
    print(
        f"rank {C // k:3}: plain {losses[k, False] - dense:+.3f}, "
        f"whitened {losses[k, True] - dense:+.3f}"
    )

# The same for all 40 projections of a model of 66 million weights, judged by books that neither it
# nor the calibration has seen (`docs/lessons/measure.py`; the command stands in
# `docs/lessons/data/low_rank.json`):

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
values = low_rank.spectrum(weights[name], low_rank.Metric(statistics.moments[name])).values
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

# The output matrix stays as it is, as in RWKV-Lite.
#
# ## The claim

assert np.allclose(table["to W"], 1, atol=1e-3)
assert np.allclose(table["whitened"], table["predicted"], rtol=0.02, atol=1e-4)
assert (table["whitened"] < table["plain"]).all()
assert all(runs[k, True] < runs[k, False] for k in ks)
assert losses[4, True] + losses[8, True] < losses[4, False] + losses[8, False]
