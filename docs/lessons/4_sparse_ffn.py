# # Sparse channel mixes and predictors
#
# **Claim.** Most neurons of a channel mix give exactly 0. Leaving them out does not change one bit.
# One bit for each weight is enough to predict which neurons will matter. Signs that are fitted to
# real inputs predict it better than the signs of the weights.
#
# **Picture.** Left: how often each neuron of each layer fires. Right: the share of the energy that
# is lost if only some neurons are read, chosen in four ways, on a logarithmic axis.
#
# More than half of a layer's weights are in its channel mix, $y = V\,\mathrm{relu}(K x)^2$. Row $f$
# of $K$ and column $f$ of $V$ make up neuron $f$. If $K_f \cdot x \le 0$, the neuron gives 0, and
# its column of $V$ is multiplied by 0:
#
# $$y = \sum_f \max(K_f \cdot x, 0)^2\, V_f = \sum_{f:\,K_f \cdot x > 0} (K_f \cdot x)^2\, V_f$$
#
# This is exact. But to know which neurons fire, one has to read all of $K$. A *predictor* reads
# less and guesses which neurons fire.

import checkout  # noqa: F401 - tells what is missing
import copies
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv
from converters.calibrate.collect import collect
from converters.calibrate.documents import sample_documents
from converters.techniques import predict_ffn, sparse_ffn
from converters.techniques.sign_predictor import scores

model = tinyrwkv.load()
config = model.config
L, F, C = config["n_layer"], config["n_ffn"], config["n_embd"]
keys, values = ([f"blocks.{i}.ffn.{part}.weight" for i in range(L)] for part in ("key", "value"))
seen = collect(model, sample_documents(model, 3000, seed=7), inputs=keys, counts=values)

firing = np.stack([seen.counts[name] / seen.tokens for name in values])  # (L, F)
print("neurons that fire, by layer:", " ".join(f"{share:.0%}" for share in firing.mean(axis=1)))

# ## Exact
#
# Store $V$ neuron by neuron, as $F$ rows of $C$ weights. Put the neurons that fire most often
# first. Then the rows that a token reads lie close together. The engine adds up the same integers
# as before, so it computes the same bits.


def neurons(layer):
    key, value = keys[layer], values[layer]
    return sparse_ffn.Neurons(
        *(model.file[name + end] for name in (key, value) for end in ("", ".scale"))
    )


def with_layers(replace):
    """Load a copy of the model with the tensors ``replace(layer)`` for each channel mix."""
    parts = {name: {} for name in values}
    for i, name in enumerate(keys):
        parts[name] = {f"blocks.{i}.ffn.{end}": array for end, array in replace(i).items()}
    return copies.rewritten(model, parts)


exact = with_layers(lambda i: sparse_ffn.sparse_exact(neurons(i), seen.counts[values[i]]))
text = [0, *model.tokenizer.encode("User: bring me the red cup from the kitchen\n\nAssistant:")]
same = np.array_equal(model.forward(text, logits="all")[0], exact.forward(text, logits="all")[0])
print("the same bits:", same)

# ## One bit for each weight
#
# The key $k_f = K_f \cdot x$ is estimated from a score $s_f = b_f \cdot x$, in which every weight
# is $+1$ or $-1$. RWKV-Lite takes the signs of the weights, $b_f = \mathrm{sign}(K_f)$. But the
# channels of $x$ have different variances and depend on each other. Their covariance is $G$. So
# other signs correlate better with the key:
#
# $$\mathrm{corr}(s_f, k_f)^2 = \frac{(b_f^\top G K_f)^2}{(b_f^\top G b_f)\,(K_f^\top G K_f)}$$
#
# `fit_signs` flips one sign after another, as long as this correlation grows.
#
# The cost of leaving a neuron out is its energy, $(k_f^2\,|V_f|)^2$. `fit_layer` learns how much
# energy to expect after each score. The predictor reads a neuron if this energy is worth the bytes.
# RWKV-Lite reads the neurons with the largest scores.
#
# The table compares how much of the energy each method loses when all read the same number of
# neurons on average. "Truth" reads the neurons with the largest energy. No method can do better.
# "Chance" reads neurons at random.

layer = 3
q, scale = seen.inputs[keys[layer]], seen.scales[keys[layer]]
half = len(q) // 2  # fit to one half, judge by the other
n = neurons(layer)
K, V = n.key * n.key_scale[:, None], n.value * n.value_scale[:, None]
hidden = np.square(np.maximum((q * scale[:, None]) @ K.T, 0))  # (T, F)
energy = np.square(hidden) * np.square(V).sum(axis=0)  # (T, F)

fit = predict_ffn.fit_layer(n, predict_ffn.Inputs(q[:half], scale[:half]))
signs = np.unpackbits(fit.signs, axis=1, bitorder="little") == 1  # (F, C)
fitted_scores = scores(signs, q[half:], scale[half:])
plain_scores = scores(n.key >= 0, q[half:], scale[half:])
chance_scores = np.random.default_rng(0).random(fitted_scores.shape)
judged, k = energy[half:], (q[half:] * scale[half:, None]) @ K.T  # (T, F) each


def correlation(scores):
    """Return the mean over neurons of the correlation of their scores with their keys."""
    return np.mean([np.corrcoef(scores[:, f], k[:, f])[0, 1] for f in range(F)])


correlations = correlation(fitted_scores), correlation(plain_scores)
print(
    f"correlation with the keys: fitted signs {correlations[0]:.3f}, "
    f"signs of K {correlations[1]:.3f}"
)


def lost(scores, count):
    """Return the share of the energy outside the neurons with the largest scores of each token."""
    rest = np.argsort(-scores, axis=1)[:, count:]
    return np.take_along_axis(judged, rest, axis=1).sum() / judged.sum()


shares, table = (0.05, 0.1, 0.17, 0.25, 0.4), []
for share in shares:
    (price,) = predict_ffn.find_prices([fit], predict_ffn.PredictorSettings(fraction=share))
    _, report = predict_ffn.predicted(fit, price)
    chosen = fitted_scores > fit.by_signs.thresholds(price)
    count = round(chosen.sum(axis=1).mean())
    by_others = (lost(s, count) for s in (judged, plain_scores, chance_scores))
    row = [(judged * ~chosen).sum() / judged.sum(), *by_others]
    table.append(row)
    print(
        f"{chosen.mean():5.1%} of the neurons; lost: truth {row[1]:.5f}, "
        f"fitted signs {row[0]:.4f}, signs of K {row[2]:.4f}, chance {row[3]:.2f}; "
        f"bytes: {report['bytes_after'] / report['bytes_before']:.0%}"
    )
fitted, truth, plain, chance = np.array(table).T

# The bytes are those of the signs, of the chosen rows of $K$, and of some columns of $V$: those of
# the chosen neurons that really fire.
#
# ## What it does to the model
#
# Now all eight layers use predictors at once. On average, the predictors read 17 % of the neurons.
# The loss is the mean of $-\ln p$ over documents that the model wrote from another seed.
#
# All layers add their outputs to the same residual stream. So energy has the same price in all
# layers: a neuron is read if its expected energy is above this price. Some layers therefore read
# more neurons than others.


inputs = [predict_ffn.Inputs(seen.inputs[name], seen.scales[name]) for name in keys]
fits = [predict_ffn.fit_layer(neurons(i), inputs[i]) for i in range(L)]
prices = predict_ffn.find_prices(fits, predict_ffn.PredictorSettings(fraction=0.17))
sparse = with_layers(lambda i: predict_ffn.predicted(fits[i], prices[i])[0])
documents = sample_documents(model, 1500, seed=8)
losses = copies.nll(model, documents), copies.nll(sparse, documents)
print(f"nll: dense {losses[0]:.4f}, with predictors {losses[1]:.4f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
shown = left.imshow(
    -np.sort(-firing, axis=1),
    aspect="auto",
    cmap="Blues",
    vmin=0,
    vmax=0.5,
    interpolation="nearest",
)
left.set(xlabel="neurons, the hottest first", ylabel="layer", title="How often a neuron fires")
figure.colorbar(shown, ax=left)
for label, share in (
    ("chance", chance),
    ("signs of K", plain),
    ("fitted signs", fitted),
    ("truth", truth),
):
    right.semilogy(shares, share, "o-", ms=4, label=label)
right.set(
    xlabel="share of the neurons read",
    ylabel="share of the energy lost",
    ylim=(1e-5, 2),
    title=f"Layer {layer}",
)
right.legend()
plt.show()

# ## The claim

assert same
assert (firing.mean(axis=1) < 0.2).all()
assert correlations[0] > correlations[1] + 0.02
assert (truth <= fitted).all() and (fitted < plain).all() and (plain < chance).all()
assert losses[1] - losses[0] < 0.02
