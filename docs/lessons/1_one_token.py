# # One token by hand
#
# **Claim.** One token takes about forty lines of NumPy. These lines give the same result as the
# compiled kernels, for every version of RWKV from 4 to 7. The state that they change has a fixed
# size, and its norm stays bounded while a text is read.
#
# **Picture.** Left: the norm of the state $S$ of each layer while the model reads 300 tokens. It
# grows at first, and then goes up and down. Right: the decay $w$ of every channel after the last
# token. A channel with 0.55 forgets within a few tokens. A channel near 1 remembers for hundreds.
#
# An RWKV model reads one token at a time. Everything it knows about earlier tokens is in a *state*
# of fixed size. No list of past tokens grows, so the thousandth token costs the same as the first.

import pathlib
import tempfile

import checkout  # noqa: F401 - tells what is missing
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv
from benchmarks.random_model import sizes, write
from tinyrwkv.file import quant
from tinyrwkv.versions import reference

# ## The stream and what is added to it
#
# A vector $x$ of $C$ channels flows through the model. It begins as one row of a table, the
# embedding of the token. Then every layer adds to it twice:
#
# $$x \leftarrow x + \mathrm{TimeMix}(\mathrm{LN}_1(x)), \qquad
# x \leftarrow x + \mathrm{ChannelMix}(\mathrm{LN}_2(x))$$
#
# $\mathrm{LN}$ is a layer norm. The channel mix is a small network: two matrices with
# $\mathrm{relu}^2$ between them. It is the same for every token. Only the time mix looks back.

model = tinyrwkv.load()
weights, config = quant.dequantize(model.file), model.config  # float32, by name
C, H, N, L = (config[key] for key in ("n_embd", "n_head", "head_size", "n_layer"))
print(
    f"RWKV-{config['arch'][1:]}: {L} layers, "
    f"{C} channels in {H} heads of {N}, {len(weights)} tensors"
)

# ## The memory of a head
#
# In RWKV-7, each head keeps a matrix $S$ of $N \times N$ numbers that maps keys to values. A token
# makes six vectors of $N$ numbers for each head, all from $x$ and from the $x$ of the token before:
#
# | letter | name | what it is |
# |---|---|---|
# | $r$ | receptance | the question that the token asks the memory |
# | $k$ | key | the place where the token writes |
# | $v$ | value | what it writes there |
# | $w$ | decay | the share of each row of $S$ that is kept, between 0.545 and 1 |
# | $\kappa$ | removal key | the place where old contents are taken away; its length is 1 |
# | $a$ | rate | how much of them is taken away, from 0 to 1 |
#
# Each token changes $S$ in three ways. The old contents decay: $\operatorname{diag}(w)\,S$. What
# lies under $\kappa$, the value $\kappa^\top S$, is removed at the rate $a$. The new pair of key
# and value is added. Then the receptance reads the answer $y$:
#
# $$S' = \left(\operatorname{diag}(w) - (a \odot \kappa)\,\kappa^\top\right) S + k v^\top, \qquad
# y = S'^\top r$$
#
# Here are the forty lines. `einsum` multiplies each head's vector with its matrix.


blocks = [reference.part(weights, f"blocks.{i}.") for i in range(L)]  # tensors by layer


def read_by_hand(token, state):
    x, v_first, after = weights["emb.weight"][token], None, state.copy()  # (C,)
    for i, block in enumerate(blocks):
        before = reference.layer_state(config, after, i)  # views into `after`
        xx = reference.layer_norm(x, block["ln1.weight"], block["ln1.bias"])
        att = reference.part(block, "att.")
        mixed, before.mix[:], v_first = time_mix(att, xx, before.att_x, before.mix, v_first)
        x, before.att_x[:] = x + mixed, xx
        xx = reference.layer_norm(x, block["ln2.weight"], block["ln2.bias"])
        mixed = channel_mix(reference.part(block, "ffn."), xx, before.ffn_x)
        x, before.ffn_x[:] = x + mixed, xx
    x = reference.layer_norm(x, weights["ln_out.weight"], weights["ln_out.bias"])
    return weights["head.weight"] @ x, after  # logits (V,) and state


def time_mix(att, x, x_prev, S, v_first):
    xr, xw, xk, xv, xa, xg = reference.token_shift(x, x_prev, att["token_shift"])  # (C,) each
    r, k, v = (
        att[f"{name}.weight"] @ x for name, x in (("receptance", xr), ("key", xk), ("value", xv))
    )  # (C,) each
    w = reference.sigmoid(att["w0"] + att["w2.weight"] @ np.tanh(att["w1.weight"] @ xw))
    w = np.exp(-np.exp(-0.5) * w)
    a = reference.sigmoid(att["a0"] + att["a2.weight"] @ (att["a1.weight"] @ xa))
    g = att["g2.weight"] @ reference.sigmoid(att["g1.weight"] @ xg)  # a gate for the output
    kappa = (k * att["k_k"]).reshape(H, N)
    kappa = kappa / np.linalg.norm(kappa, axis=1, keepdims=True)
    k = k * (1 + (a - 1) * att["k_a"])  # what is removed slowly is written weakly
    if v_first is None:
        v_first = v  # the first layer's value; the others mix it into theirs
    else:
        share = reference.sigmoid(att["v0"] + att["v2.weight"] @ (att["v1.weight"] @ xv))
        v = v + (v_first - v) * share
    r, w, k, v, a = (each.reshape(H, N) for each in (r, w, k, v, a))

    # S' = (diag(w) - (a * kappa) kappa^T) S + k v^T
    # y  = S'^T r
    old = np.einsum("hi,hij->hj", kappa, S)  # kappa^T S
    removed, added = (a * kappa)[:, :, None] * old[:, None, :], k[:, :, None] * v[:, None, :]
    S = w[:, :, None] * S - removed + added
    y = np.einsum("hi,hij->hj", r, S)

    y = reference.group_norm(y, att["ln_x.weight"], att["ln_x.bias"], config["ln_x_eps"])
    bonus = (r * k * att["r_k"].reshape(H, N)).sum(axis=1, keepdims=True) * v
    return att["output.weight"] @ ((y + bonus.reshape(C)) * g), S, v_first


def channel_mix(ffn, x, x_prev):
    (xk,) = reference.token_shift(x, x_prev, ffn["token_shift"])
    return ffn["value.weight"] @ np.square(np.maximum(ffn["key.weight"] @ xk, 0))


# ## The same as the kernels

text = "User: please go forward two meters and then turn left\n\nAssistant:"
tokens = [0, *model.tokenizer.encode(text)]
state = reference.new_state(config)
for token in tokens:
    logits, state = read_by_hand(token, state)

by_kernels, _ = model.forward(tokens)
print("next token by hand:   ", repr(model.tokenizer.decode([int(logits.argmax())])))
print("next token by kernels:", repr(model.tokenizer.decode([int(by_kernels.argmax())])))
print(
    "largest difference of a logit: "
    f"{np.abs(logits - by_kernels).max():.4f} of {np.abs(logits).max():.1f}"
)

# The difference is not a mistake: the kernels round $x$ to 16 bits before they multiply it with
# int8 weights. With float32 weights nothing is rounded, as the comparison of all versions below
# shows.
#
# ## RWKV-4 and its exponents
#
# RWKV-4 has no matrix. For each channel, it keeps a weighted mean of all values so far,
# $wkv = a / b$. Each value has the weight $e^{k}$. With $k = 100$, this weight is too large for a
# float32. So the state holds $a e^{-q}$, $b e^{-q}$ and $q$, where $q$ is the largest exponent so
# far. In the quotient, $e^{-q}$ cancels out:
#
# $$\frac{a}{b} = \frac{a\,e^{-q}}{b\,e^{-q}}$$
#
# The next program adds 200 to every key of a small random model, and nothing overflows:

folder = pathlib.Path(tempfile.mkdtemp())
write(str(folder / "v4"), sizes("v4", layers=2, width=64, vocab=64), dtype="f32")
small = tinyrwkv.load(folder / "v4")
att = reference.part(quant.dequantize(small.file), "blocks.0.att.")
x = np.ones(64, np.float32)
memory = reference.layer_state(small.config, reference.new_state(small.config), 0).mix
plain = att["key.weight"]
outputs = []
for push in (0, 200):
    # adds `push` to every key, since x is all ones
    att["key.weight"] = plain + np.float32(push / 64)
    with np.errstate(over="raise"):
        once, after_one = reference.time_mix_v4(att, x, x, memory)
        outputs.append(reference.time_mix_v4(att, x / 2, x, after_one)[0])
print("largest output with keys of about 200:", np.abs(outputs[1]).max())

# ## All versions
#
# The next program compares both in the same way for small random models of each version, in
# float32. `reference.forward` is the loop above, with the time mix of the version in question.

differences = {}
for arch in ("v4", "v5.0", "v5.1", "v5.2", "v6", "v7"):
    write(
        str(folder / arch),
        sizes(arch, layers=2, width=64, vocab=64, head_size=32),
        dtype="f32",
        low=8,
    )
    small = tinyrwkv.load(folder / arch)
    small_weights, state = quant.dequantize(small.file), reference.new_state(small.config)
    for token in (5, 17, 42, 5):
        hand, state = reference.forward(small_weights, small.config, token, state)
    kernels, _ = small.forward([5, 17, 42, 5])
    differences[arch] = np.abs(hand - kernels).max() / np.abs(hand).max()
    print(f"{arch:5} largest difference {differences[arch]:.1e} of the largest logit")

# ## What the state does
#
# The state neither vanishes nor grows without bound. Whatever a token adds, decay and removal take
# away again. The model reads the beginning of this lesson by hand, and we measure
# $\lVert S \rVert$, the root of the sum of all squares of a layer's state, after every token:

long = [0, *model.tokenizer.encode(pathlib.Path(__file__).read_text("utf-8"))][:300]
before = state = reference.new_state(config)
norms = []
for token in long:
    before, (_, state) = state, read_by_hand(token, state)
    norms.append([np.linalg.norm(reference.layer_state(config, state, i).mix) for i in range(L)])
norms = np.array(norms)  # (T, L)
early, late = norms[:60].max(axis=0), norms[60:]
print(f"largest norm after token 60, by the largest before: {(late / early).max():.2f}")
print(f"smallest: {(late / early).min():.2f}")

# The decays $w$ of the last token, layer by layer, are those of the right picture:

decays = []
for i in range(L):
    att = reference.part(weights, f"blocks.{i}.att.")
    x_prev, x = (reference.layer_state(config, data, i).att_x for data in (before, state))
    xw = reference.token_shift(x, x_prev, att["token_shift"])[1]
    w = att["w0"] + att["w2.weight"] @ np.tanh(att["w1.weight"] @ xw)
    decays.append(np.exp(-np.exp(-0.5) * reference.sigmoid(w)))  # (C,)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(norms, lw=1.5, label=[f"layer {i}" for i in range(L)])
left.set(xlabel="tokens read", ylabel="norm of S", title="The state stays bounded")
left.legend(fontsize=7, ncols=2)
right.violinplot(decays, range(L), showmedians=True)
right.set(xlabel="layer", ylabel="kept at each token", title="Decay of the channels")
plt.show()

# ## The claim
#
# By hand and by the kernels, the next token is the same and the logits agree. They agree within
# $10^{-5}$ of the largest logit where weights are floats. Where the kernels round $x$ to 16 bits,
# they agree within a thousandth of the largest logit. The norm of the state stays within a factor
# of three of the largest that the first 60 tokens gave it.

assert logits.argmax() == by_kernels.argmax()
assert np.abs(logits - by_kernels).max() < 0.001 * np.abs(logits).max()
assert max(differences.values()) < 1e-5, differences
assert np.isfinite(outputs[1]).all()
assert (late < 3 * early).all() and (late > early / 3).all()
