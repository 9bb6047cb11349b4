# # The head: clusters, pseudo-logits, and a preview
#
# **Claim.** If a cluster is not read, its tokens still share exactly the probability that the
# cluster head gives to it. But a *preview*, a few bits of every row, chooses rows better than
# clusters do. If the result must stay near the full head, the preview comes nearer to it with fewer
# bytes.
#
# **Picture.** Left: how many rows the clusters of this head have. Middle and right: the distance to
# the full head for the bytes that are read, with 4,096 and with 65,536 tokens.
#
# The head turns the last vector $x$ into logits $z_t = w_t \cdot x$, with one row for each token.
# With 65,536 tokens, the head is the largest matrix of a small model. Nearly all of its rows belong
# to tokens that have no chance. But one knows which rows matter only after reading them. RWKV-Lite
# solves this with *clusters*. The rows are divided into $K$ groups, and a small matrix tells how
# much probability $p_j$ each group holds. Only the rows of the likeliest groups are read.

import json
import pathlib

import checkout  # noqa: F401 - tells what is missing
import head_clusters
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv
from converters.calibrate.documents import sample_documents
from converters.calibrate.probe import Probe
from converters.techniques import preview_head
from tinyrwkv.file import quant

model = tinyrwkv.load()
W = quant.dequantize(model.file)["head.weight"]  # (V, C)
V, C = W.shape

seen = []
probe = Probe(model, {"head.weight": seen.append})
for document in sample_documents(model, 3000, seed=5):
    probe.read(document)
x = np.concatenate(seen).astype(np.float32)
fit, judge = x[:2200], x[2200:]  # what clusters and preview are fitted to; what they are judged by
print(f"{len(fit)} vectors to fit, {len(judge)} to judge; the head has {V} rows of {C}")

# ## Pseudo-logits
#
# Sampling needs a logit for every token, whether its row was read or not. Let $Q = \sum e^{z_t}$
# over the rows that were read. Let $P$ be the share of the probability that the cluster head gives
# to their clusters. A token $t$ of another cluster $j$ gets
#
# $$\hat z_t = \ln \frac{Q\, p_j\, \pi_{t|j}}{P}$$
#
# Here $\pi_{t|j}$ is the probability of the token within its cluster. It is estimated from
# calibration text. (RWKV-Lite gives the same probability, $1 / n_j$, to all $n_j$ tokens of a
# cluster.) So $\sum_{t \in j} e^{\hat z_t} = Q\, p_j / P$, and the softmax over all tokens gives
# the cluster exactly $p_j$.

parts, report = head_clusters.cluster_head(W, fit, 64, p_min=0.9, k_min=2)
logits, read = head_clusters.cluster_logits(parts, judge)
p = preview_head.softmax(logits.astype(np.float64))
share = head_clusters.cluster_probabilities(parts, judge)  # (n, K)
mass = np.add.reduceat(p[:, parts["ids"]], parts["starts"][:-1], axis=1)  # (n, K)
worst = np.abs(mass - share)[~read].max()
print(
    f"clusters read: {read.sum(axis=1).mean():.1f} of {len(share[0])}; "
    f"mass of the others off by at most {worst:.1e}"
)

# ## The preview
#
# Clusters decide about whole groups. There is a better question: for which tokens would an error
# show? The preview stores, for every row, the row's coefficients in a few directions of $x$, with 2
# or 4 bits each. One pass over the preview gives a rough logit for every token. The variance
# $\sigma_t^2$ of its error is known from calibration. The rows with the largest $p_t \sigma_t^2$
# are read. All other tokens keep their rough logits. There are no groups, so any row can be read.


def divergence(z):
    """Mean KL divergence from the full head, in nats; how often the first choice is the same."""
    true = judge.astype(np.float64) @ W.T.astype(np.float64)
    p, q = preview_head.softmax(true.copy()), preview_head.softmax(z.astype(np.float64))
    return (p * np.log(np.maximum(p, 1e-300) / np.maximum(q, 1e-300))).sum(axis=1).mean(), (
        true.argmax(axis=1) == z.argmax(axis=1)
    ).mean()


clusters, previews, first = [], [], parts
for p_min in (0.7, 0.9, 0.98):
    parts = (
        first if p_min == 0.9 else head_clusters.cluster_head(W, fit, 64, p_min=p_min, k_min=2)[0]
    )
    z, read = head_clusters.cluster_logits(parts, judge)
    rows = (read @ np.diff(parts["starts"])).mean()
    size = rows * (C + 4) + sum(
        a.nbytes for name, a in parts.items() if not name.startswith("rows")
    )
    clusters.append((size, *divergence(z)))
for rows in (20, 60, 150, 400):
    parts, report = preview_head.fit_preview(W, fit, levels=[(V, 8, 4), (V // 4, 32, 2)], rows=rows)
    z, exact = preview_head.preview_logits(parts, judge)
    previews.append((report["bytes_per_token"], *divergence(z)))
for name, listed in (("clusters", clusters), ("preview", previews)):
    for size, kl, same in listed:
        print(f"{name:8} {size / 1000:6.1f} kB: KL {kl:.3f} nats, same first choice {same:.1%}")
print(f"full head {V * (C + 4) / 1000:.1f} kB")

# ## 65,536 tokens
#
# A vocabulary of 4,096 is too small for either method to save much: for this model, a sixth of its
# head is not enough. So here is the same comparison for the World vocabulary. It uses a model of 66
# million weights and books that the model has not seen. `docs/lessons/measure.py` measured it, and
# `docs/lessons/data/head.json` names the command line.
#
# One pass over the preview costs 2 MB there. If a divergence of 0.2 nats or more is good enough,
# clusters need fewer bytes. Below 0.1 nats, the preview needs fewer bytes.

large = json.loads((pathlib.Path(__file__).parent / "data" / "head.json").read_text("utf-8"))
for name in ("clusters", "previews"):
    for one in large[name]:
        share = one["bytes"] / large["dense_bytes"]
        print(
            f"{name:8} {share:6.1%} of the bytes: KL {one['kl']:.3f}, "
            f"same first choice {one['same']:.1%}"
        )

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
axes[0].hist(np.diff(first["starts"]), 30)
axes[0].set(xlabel="rows in a cluster", ylabel="clusters", title="64 clusters of the head's rows")
for listed, label in ((clusters, "clusters"), (previews, "preview")):
    axes[1].plot([one[0] / 1000 for one in listed], [one[1] for one in listed], "o-", label=label)
axes[1].set(
    xlabel="kB read for a token",
    ylim=(0, None),
    ylabel="KL to the full head, nats",
    title=f"{V:,} tokens",
)
axes[1].legend()
for name, label in (("clusters", "clusters"), ("previews", "preview")):
    sizes = [one["bytes"] / 1e6 for one in large[name]]
    axes[2].semilogy(sizes, [one["kl"] for one in large[name]], "o-", label=label)
axes[2].set(xlabel="MB read for a token", title=f"{large['vocab']:,} tokens")
axes[2].legend()
plt.show()

# ## The claim


def beaten(size, kl, previews):
    return any(less <= size and nearer < kl for less, nearer, _ in previews)


assert worst < 1e-3, worst
assert all(beaten(size, kl, previews) for size, kl, _ in clusters)
points = {
    name: [(one["bytes"], one["kl"], one["same"]) for one in large[name]]
    for name in ("clusters", "previews")
}
assert all(beaten(size, kl, points["previews"]) for size, kl, _ in points["clusters"] if kl < 0.1)
