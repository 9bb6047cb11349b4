# # One token by hand
#
# **Claim.** One token takes about forty lines of NumPy. These lines give the same result as the
# compiled kernels, for every version of RWKV from 4 to 7.
#
# An RWKV model reads one token at a time. Everything it knows about earlier tokens is in a *state*
# of fixed size. No list of past tokens grows, so the thousandth token costs the same as the first.
# In this lesson you read one token. You need only the functions of
# `tinyrwkv/versions/reference.py`, which follow the formulas of the papers.

import pathlib
import tempfile

import checkout  # noqa: F401 - tells what is missing
import numpy as np
from matplotlib import pyplot as plt

import tinyrwkv
from benchmarks.random_model import sizes, write
from tinyrwkv.file import quant
from tinyrwkv.versions import reference
from tinyrwkv.versions.reference import layer_norm

model = tinyrwkv.load()
weights, config = quant.dequantize(model.file), model.config  # float32, by name
C, H, N, L = (config[key] for key in ("n_embd", "n_head", "head_size", "n_layer"))
print(
    f"RWKV-{config['arch'][1:]}: {L} layers, "
    f"{C} channels in {H} heads of {N}, {len(weights)} tensors"
)

# ## The stream and what is added to it
#
# A vector $x$ of $C$ channels flows through the model. It begins as one row of a table. Then every
# layer adds to it twice:
#
# $$x \leftarrow x + \mathrm{TimeMix}(\mathrm{LN}_1(x)), \qquad
# x \leftarrow x + \mathrm{ChannelMix}(\mathrm{LN}_2(x))$$
#
# Only the time mix looks back. In RWKV-7, each head keeps a matrix $S$ of $N \times N$ numbers that
# maps keys to values. Each token changes $S$ in three ways. The old contents decay a little. Part
# of the value stored under the token's key is removed. A new pair of key and value is added:
#
# $$S' = \left(\operatorname{diag}(w) - (a \odot \kappa)\,\kappa^\top\right) S + k v^\top, \qquad
# y = S'^\top r$$
#
# The channel mix is a small network: two matrices with $\mathrm{relu}^2$ between them. It is the
# same for every token.

text = "User: please go forward two meters and then turn left\n\nAssistant:"
tokens = [0, *model.tokenizer.encode(text)]
state = reference.new_state(config)


def read_by_hand(token, state):
    x, v_first, after = weights["emb.weight"][token], None, state.copy()  # (C,)
    for i in range(L):
        block = reference.part(weights, f"blocks.{i}.")
        att_x, ffn_x, S = reference.layer_state(
            config, after, i
        )  # (C,), (C,), (H, N, N): views into `after`
        xx = layer_norm(x, block["ln1.weight"], block["ln1.bias"])
        mixed, S[:], v_first = reference.time_mix_v7(
            reference.part(block, "att."), xx, att_x, S.copy(), v_first, config["ln_x_eps"]
        )
        x, att_x[:] = x + mixed, xx
        xx = layer_norm(x, block["ln2.weight"], block["ln2.bias"])
        mixed = reference.channel_mix_v7(reference.part(block, "ffn."), xx, ffn_x)
        x, ffn_x[:] = x + mixed, xx
    return weights["head.weight"] @ layer_norm(
        x, weights["ln_out.weight"], weights["ln_out.bias"]
    ), after


norms = []
for token in tokens:
    logits, state = read_by_hand(token, state)
    norms.append(
        [np.sqrt(np.square(reference.layer_state(config, state, i)[2]).sum()) for i in range(L)]
    )

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
x, memory = (
    np.ones(64, np.float32),
    reference.layer_state(small.config, reference.new_state(small.config), 0)[2],
)
plain = att["key.weight"]
outputs = []
for push in (0, 200):
    att["key.weight"] = plain + np.float32(
        push / 64
    )  # adds `push` to every key, since x is all ones
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
# The state neither vanishes nor grows without bound. Whatever a token adds, decay and correction
# take away again. The right picture shows the decays of the last token: how much of each row of $S$
# is kept. Channels with 0.55 forget within a few tokens. Channels near 1 remember for hundreds of
# tokens.

before, after = (model.forward(part)[1].data for part in (tokens[:-1], tokens))
decays = []
for i in range(L):
    att = reference.part(weights, f"blocks.{i}.att.")
    x_prev, x = (reference.layer_state(config, data, i)[0] for data in (before, after))
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
# they agree within a thousandth of the largest logit.

assert logits.argmax() == by_kernels.argmax()
assert np.abs(logits - by_kernels).max() < 0.001 * np.abs(logits).max()
assert max(differences.values()) < 1e-5, differences
assert np.isfinite(outputs[1]).all()
