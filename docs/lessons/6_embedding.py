# # Embedding rows, Zipf and pages
#
# **Claim.** The embedding is a ninth of this model, and a quarter of an RWKV-5 of 0.1 B. But a
# token reads only one row of it. How often a text needs each row follows Zipf's law. So few pages
# serve nearly all tokens. The hit rate of a cache of a given size can be computed beforehand.
#
# **Picture.** Left: how often the tokens of two texts occur, by their rank. Right: how often a
# cache of the last rows has the row that is needed.
#
# The table has $V$ rows of $C$ bytes, one row for each token. To read a token, the model looks up
# its row and does not touch the rest of the table. Sort the tokens of a text by how often they
# occur. The frequency $f_k$ of the token at rank $k$ then roughly follows this law:
#
# $$f_k \propto \frac{1}{k}$$

import json
import mmap
import pathlib
from collections import Counter, OrderedDict

import checkout  # noqa: F401 - tells what is missing
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv
from converters.calibrate.documents import sample_documents

model = tinyrwkv.load()
V, C = model.config["vocab_size"], model.config["n_embd"]
parts = {part["part"]: part for part in model.plan()["parts"]}
table, touched = parts["embedding"]["file_bytes"], parts["embedding"]["touched_bytes_per_token"]
print(f"the table has {table:,} bytes, a token touches {touched}")

ids = np.concatenate(sample_documents(model, 4000, seed=6))
counts = np.sort(np.unique(ids, return_counts=True)[1])[::-1]
print(
    f"{len(ids)} tokens, {len(counts)} different of {V}; "
    f"the first ten are {counts[:10].sum() / len(ids):.0%} of all"
)

# ## Pages
#
# An operating system does not read rows. It reads pages of 4,096 bytes. A row of $C = 256$ bytes
# therefore brings fifteen neighbours with it. If the rows are sorted by id, most of these
# neighbours are not needed. If the rows are sorted by frequency, the neighbours are needed too.

entry = model.file.tensors["emb.weight"]
by_id = {(entry.offset + int(token) * C) // mmap.PAGESIZE for token in ids}
place = {token: k for k, (token, _) in enumerate(Counter(ids.tolist()).most_common())}
by_frequency = {place[int(token)] * C // mmap.PAGESIZE for token in ids}
print(
    f"pages touched: {len(by_id)} by id, {len(by_frequency)} sorted by frequency, "
    f"{table // mmap.PAGESIZE} in the table"
)

# ## Che's approximation
#
# An LRU cache keeps the $R$ rows that were used last, and drops the row that was not used for the
# longest time. Suppose that tokens come independently, with probabilities $p_i$. Suppose also that
# every row stays about the same time $t$ after its last use. Then row $i$ is in the cache with
# probability $1 - e^{-p_i t}$. The size of the cache determines $t$, and $t$ determines the hit
# rate:
#
# $$\sum_i \left(1 - e^{-p_i t}\right) = R, \qquad
# \mathrm{hits} = \sum_i p_i \left(1 - e^{-p_i t}\right)$$


def che(p, rows):
    if rows >= np.count_nonzero(p):
        return 1.0  # all rows have room; no time t is long enough
    low, high = 0.0, 1.0
    while (1 - np.exp(-p * high)).sum() < rows:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.exp(-p * middle)).sum() < rows else (low, middle)
    return (p * (1 - np.exp(-p * low))).sum()


def lru(ids, rows):
    cache, hits = OrderedDict(), 0
    for i, token in enumerate(ids):
        hits += i >= len(ids) // 2 and token in cache  # count when the cache is warm
        cache[token] = None
        cache.move_to_end(token)
        if len(cache) > rows:
            cache.popitem(last=False)
    return hits / (len(ids) - len(ids) // 2)


p = counts / counts.sum()
independent = np.random.default_rng(0).choice(len(p), 40_000, p=p)
sizes = [8, 16, 32, 64, 128, 256]
predicted = [che(p, rows) for rows in sizes]
simulated = [lru(independent.tolist(), rows) for rows in sizes]
written = [lru(ids.tolist(), rows) for rows in sizes]
for rows, a, b, c in zip(sizes, predicted, simulated, written, strict=True):
    print(
        f"{rows:4} rows, {rows * touched / 1024:5.1f} kB: "
        f"predicted {a:.3f}, independent {b:.3f}, the text {c:.3f}"
    )

# A real text has more hits than independent tokens where its words come back soon. It has fewer
# hits where it changes its subject.
#
# ## A vocabulary of 65,536
#
# Here are the figures for the World vocabulary and a model of 66 million weights.
# `docs/lessons/measure.py` measured them on books, and `docs/lessons/data/embedding.json` names the
# command line:

large = json.loads((pathlib.Path(__file__).parent / "data" / "embedding.json").read_text("utf-8"))
print(f"{large['tokens']:,} tokens, {large['distinct']:,} different ones of {large['vocab']:,}")
for one in large["lru"]:
    print(
        f"{one['rows']:5} rows, {one['rows'] * large['row_bytes'] / 1e6:4.2f} MB: "
        f"hit rate {one['hit_rate']:.3f}"
    )

# ## How good is Zipf's law?
#
# Let $f_k \propto k^{-s}$. On logarithmic axes this is a straight line with the slope $-s$. We fit
# it by least squares to ranks that are spread evenly over the axis. Zipf's law says $s = 1$.


def zipf(ranks, counts):
    x, y = (np.log(a) - np.log(a).mean() for a in (ranks, counts))
    s = -(x @ y) / max(x @ x, 1e-30)  # 0 if there is only one rank
    return s, np.exp(np.sqrt(np.square(y + s * x).mean()))


some = np.unique(np.geomspace(1, len(counts), 60).astype(int))
fits = {
    "this model's text": zipf(some, counts[some - 1]),
    "books": zipf(np.array(large["ranks"]), np.array(large["counts"])),
}
for name, (s, factor) in fits.items():
    print(f"{name}: s = {s:.2f}; a frequency is typically off by a factor of {factor:.2f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.loglog(
    np.arange(1, len(counts) + 1), counts / counts.sum(), ".", ms=4, label="this model's text"
)
left.loglog(
    large["ranks"],
    np.array(large["counts"]) / large["tokens"],
    ".",
    ms=4,
    label="books, World vocabulary",
)
ranks = np.array([1, large["ranks"][-1]])
left.loglog(ranks, 0.1 / ranks, "k--", lw=0.8, label="1 / rank")
left.set(xlabel="rank", ylabel="frequency", title="Zipf")
left.legend(fontsize=8)
right.semilogx(sizes, predicted, "k-", lw=0.8, label="Che")
right.semilogx(sizes, simulated, "o", ms=5, label="independent tokens")
right.semilogx(sizes, written, "x", ms=5, label="this model's text")
right.semilogx(
    [one["rows"] for one in large["lru"]],
    [one["hit_rate"] for one in large["lru"]],
    "s-",
    ms=4,
    label="books",
)
right.set(xlabel="rows in the cache", ylabel="hit rate", title="LRU")
right.legend(fontsize=8)
plt.show()

# The engine has no row cache of its own, because the system's page cache already is one. All
# processes share it, and the system takes its pages back when memory is short.
#
# ## The claim

assert touched == C + 4  # int8 weights and their scale
assert np.allclose(predicted, simulated, atol=0.02)
assert len(by_frequency) < len(by_id) < table // mmap.PAGESIZE
assert all(0.7 < s < 1.3 and factor < 1.5 for s, factor in fits.values()), fits
