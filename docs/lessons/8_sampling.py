# # Sampling
#
# **Claim.** `tinyrwkv.Sampler` draws from the distribution that its settings describe. It applies
# them in this order: first temperature, then top-k, then top-p, then min-p. The order matters:
# another order gives another text.
#
# **Picture.** Left: the shares of twenty thousand draws beside those of the formula. Right: how
# many tokens compete at each temperature, with and without top-p.
#
# For every token $t$, a model gives a number $z_t$, a *logit*. The temperature $\tau$ turns logits
# into probabilities:
#
# $$p_t = \frac{e^{z_t / \tau}}{\sum_u e^{z_u / \tau}}$$
#
# A small $\tau$ makes the distribution sharper, a large one makes it flatter. *Top-p* then keeps
# only the most probable tokens, just enough of them to hold the share $p$ of the probability. Which
# tokens it keeps depends on the temperature that was applied before.


import checkout  # noqa: F401 - tells what is missing
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv

model = tinyrwkv.load()
beginning = "User: Tell me a story\n\nAssistant: Once upon a time there was a "
logits, _ = model.forward([0, *model.tokenizer.encode(beginning)])


def softmax(z):
    p = np.exp(z - z.max())
    return p / p.sum()


def top_p(p, share):
    order = np.argsort(-p, kind="stable")
    kept = order[: np.searchsorted(np.cumsum(p[order]), share) + 1]
    cut = np.zeros_like(p)
    cut[kept] = p[kept]
    return cut / cut.sum()


for token in np.argsort(-logits)[:5]:
    print(f"{softmax(logits)[token]:.3f}  {model.tokenizer.decode([int(token)])!r}")

# ## The order matters
#
# How many tokens can still be drawn with $\tau = 1.5$ and $p = 0.6$?

z = logits.astype(np.float64)
right_order = top_p(softmax(z / 1.5), 0.6)
first = top_p(softmax(z), 0.6)
wrong_order = np.where(first > 0, softmax(np.where(first > 0, z / 1.5, -np.inf)), 0)
print(
    "tokens kept, temperature first:",
    int((right_order > 0).sum()),
    "  top-p first:",
    int((wrong_order > 0).sum()),
)

# ## What the sampler does
#
# We draw twenty thousand times and count. The *total variation*
# $\frac{1}{2} \sum_t |p_t - \hat p_t|$ measures the distance between two distributions. It is 0
# where they are equal, and 1 where they have nothing in common. By chance alone, the counts of $n$
# draws over $m$ tokens are about $\sqrt{m / (2 \pi n)}$ away from the truth.

sampler = tinyrwkv.Sampler(temperature=1.5, top_p=0.6, seed=1)
draws = 20_000
counts = (
    np.bincount([sampler.sample(logits)[0] for _ in range(draws)], minlength=len(logits)) / draws
)
distance = {
    name: np.abs(counts - p).sum() / 2
    for name, p in (("right", right_order), ("wrong", wrong_order))
}
by_chance = np.sqrt((right_order > 0).sum() / (2 * np.pi * draws))
print(
    f"distance to the right order {distance['right']:.3f}, to the wrong one {distance['wrong']:.3f}"
)
print(f"by chance up to {by_chance:.3f}")

# ## Penalties that fade
#
# A penalty makes a token less probable the more often it has been counted. The counts decay. By
# default, a count of 1 is worth $0.996^n$ after $n$ further tokens. So a word can come back after a
# few hundred tokens.

penalised = tinyrwkv.Sampler(
    temperature=0, presence_penalty=0, frequency_penalty=2.0, penalty_decay=0.99
)
best, second = (int(token) for token in np.argsort(-logits)[:2])
gap = float(logits[best] - logits[second])
penalised.accept(best)
waited = 0
while penalised.sample(logits)[0] != best and waited < 1000:
    penalised.accept(0)  # some other token
    waited += 1
predicted = max(0, int(np.ceil(np.log(gap / 2.0) / np.log(0.99))))
print(
    f"the first token leads by {gap:.2f}; "
    f"penalised by 2 it is back after {waited} tokens, predicted {predicted}"
)

# ## Entropy: how open the choice is
#
# The entropy $-\sum_t p_t \ln p_t$, in nats, tells how many tokens really compete: their number is
# $e^{\mathrm{entropy}}$.


def entropy(p):
    p = p[p > 0]
    return -(p * np.log(p)).sum()


temperatures = np.linspace(0.2, 2, 19)
shares = (1.0, 0.9, 0.6)
curves = {share: [entropy(top_p(softmax(z / t), share)) for t in temperatures] for share in shares}

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
order = np.argsort(-right_order)[:30]
left.bar(np.arange(30) - 0.2, counts[order], 0.4, label="drawn")
left.bar(np.arange(30) + 0.2, right_order[order], 0.4, label="formula")
left.set(xlabel="token, by probability", ylabel="share", title="Temperature 1.5, top-p 0.6")
left.legend()
for share, curve in curves.items():
    right.plot(temperatures, np.exp(curve), label=f"top-p {share}")
right.set(
    xlabel="temperature", ylabel="tokens that compete", yscale="log", title="Entropy of the choice"
)
right.legend()
plt.show()

# For instructions to a robot, temperature 0 is right: it always takes the most probable token. For
# stories, use 0.8 to 1 with top-p 0.9.
#
# ## The claim

assert distance["right"] < 2 * by_chance < distance["wrong"]
assert waited == predicted
assert all(np.diff(curves[1.0]) > 0)  # a higher temperature never makes the choice narrower
