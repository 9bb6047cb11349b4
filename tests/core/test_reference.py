"""The oracle: agreement with the official package, and the identities its formulas promise."""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.checkpoint.versions import check
from converters.read.source import SourceTensor
from converters.write.recipe import recipes
from tests.helpers.checkpoints import LIKE_V7, VERSIONS
from tests.helpers.golden_files import bf16, read_golden
from tinyrwkv.errors import UnsupportedError
from tinyrwkv.file import quant
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.writer import Writer
from tinyrwkv.versions import reference
from tinyrwkv.versions.layout import KEPT

RNG = np.random.default_rng
EPS = 64e-5


@functools.lru_cache(None)
def golden(version):
    return read_golden(version)


@functools.lru_cache(None)
def model(version):
    """Return weights and config of the golden checkpoint, by way of the converter."""
    raw = golden(version).raw
    tensors = {
        name: SourceTensor("golden", name, x.shape, lambda x=x: iter([x]))
        for name, x in raw.items()
    }
    checkpoint = check("golden", tensors)
    assert checkpoint.config["arch"] == version
    weights = {entry.name: np.concatenate(list(entry.blocks())) for entry in recipes(checkpoint)}
    return quant.dequantize(weights), checkpoint.config | {"ln_x_eps": EPS}


def run(weights, config, tokens, state=None):
    """Return the logits (T, V) and the last state."""
    state = reference.new_state(config) if state is None else state
    logits = []
    for token in tokens:
        out, state = reference.forward(weights, config, token, state)
        logits.append(out)
    return np.stack(logits), state


def normal(*shape, seed=0):
    return RNG(seed).standard_normal(shape).astype(np.float32)


# Agreement with the official package.


@pytest.mark.parametrize("version", VERSIONS)
def test_agrees_with_the_official_package(version):
    expected = golden(version)
    logits, state = run(*model(version), expected.tokens)
    assert logits.dtype == state.dtype == np.float32
    for n, official in expected.logits.items():
        assert np.abs(logits[n - 1] - official).max() <= 5e-6 * official.std()
        assert logits[n - 1].argmax() == official.argmax()
    np.testing.assert_allclose(state, expected.state, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensor_matters(version):
    weights, config = model(version)
    tokens = golden(version).tokens[:4]
    expected, _ = run(weights, config, tokens)
    for name, tensor in weights.items():
        if name in KEPT:
            continue  # for those who want the checkpoint back
        changed, _ = run(weights | {name: tensor + 0.03 * normal(*tensor.shape)}, config, tokens)
        # A hundred times the difference that the comparison above allows.
        assert np.abs(changed - expected).max() > 5e-4 * expected.std(), name


@pytest.mark.parametrize("version", VERSIONS)
def test_a_bfloat16_checkpoint_differs_in_the_official_package_by_its_rounded_embedding(version):
    # The package applies ln0 to the embedding in the type of the file (v4 to v6) or in that of the
    # strategy (from v7 on). We always do it in float32, which is more exact for a bfloat16 file.
    official = golden(version).logits_of_bf16_file
    weights, config = model(version)
    exact, _ = run(weights, config, golden(version).tokens)
    rounded, _ = run(
        weights | {"emb.weight": bf16(weights["emb.weight"])}, config, golden(version).tokens
    )
    same, other = (exact, rounded) if version in LIKE_V7 else (rounded, exact)
    assert np.abs(same[-1] - official).max() <= 5e-6 * official.std()
    assert 1e-3 * official.std() < np.abs(other[-1] - official).max() < 3e-2 * official.std()


# The whole model.


@pytest.mark.parametrize("version", VERSIONS)
def test_forward_changes_neither_state_nor_weights_and_repeats_itself(version):
    weights, config = model(version)
    _, state = run(weights, config, [1, 2])
    for array in [state, *weights.values()]:
        array.flags.writeable = False
    try:
        before = state.copy()
        logits, after = reference.forward(weights, config, 3, state)
        again, after_again = reference.forward(weights, config, 3, state)
    finally:
        for array in weights.values():
            array.flags.writeable = True
    assert np.array_equal(state, before)
    assert np.array_equal(logits, again) and np.array_equal(after, after_again)
    assert not np.shares_memory(after, state) and not np.array_equal(after, state)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_state_is_all_that_is_kept_of_the_past(version):
    weights, config = model(version)
    tokens = golden(version).tokens
    whole, whole_state = run(weights, config, tokens)
    _, state = run(weights, config, tokens[:5])
    rest, rest_state = run(weights, config, tokens[5:], state.copy())
    assert np.array_equal(whole[5:], rest) and np.array_equal(whole_state, rest_state)
    fresh, _ = run(weights, config, tokens[5:])
    assert np.abs(fresh[0] - rest[0]).max() > 0.01 * rest.std()


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_divide_the_state_among_them(version):
    _, config = model(version)
    state = reference.new_state(config)
    C = config["n_embd"]
    assert state.shape == (2 * (2 * C + (3 * C if version == "v4" else C // 16 * 16 * 16)),)
    assert set(state) == ({0.0, np.float32(-1e30)} if version == "v4" else {0.0})
    for i in range(2):
        for view in reference.layer_state(config, state, i):
            view += np.float32(1)  # each number belongs to exactly one view
    assert set(state) == ({1.0, np.float32(-1e30)} if version == "v4" else {1.0})


# v4.


def v4_weights(seed=0, key_offset=0.0):
    """Return tensors of one time mix whose keys rise by key_offset when the last input is 1."""
    names = ("receptance", "key", "value", "output")
    att = {f"{name}.weight": normal(8, 8, seed=seed + i) for i, name in enumerate(names)}
    att["key.weight"][:, -1] += np.float32(key_offset)
    return att | {
        "token_shift": RNG(seed).uniform(0, 1, (3, 8)).astype(np.float32),
        "time_decay": -np.exp(normal(8, seed=seed + 4)),
        "time_first": normal(8, seed=seed + 5),
    }


def v4_outputs(att, T=6):
    state = np.stack([np.zeros(8), np.zeros(8), np.full(8, -1e30)]).astype(np.float32)
    xs = normal(T + 1, 8, seed=9)
    xs[:, -1] = 1
    outs = []
    for x_prev, x in pairwise(xs):
        out, state = reference.time_mix_v4(att, x, x_prev, state)
        outs.append(out)
    return np.stack(outs), state, xs


def test_v4_is_the_weighted_mean_it_says():
    att = v4_weights()
    outs, _, xs = v4_outputs(att)
    f64 = {name: tensor.astype(np.float64) for name, tensor in att.items()}
    past, w, u = [], f64["time_decay"], f64["time_first"]
    for t, (x_prev, x) in enumerate(pairwise(xs)):
        xr, xk, xv = reference.token_shift(x, x_prev, f64["token_shift"])
        r, k, v = (
            f64[f"{name}.weight"] @ z
            for name, z in (("receptance", xr), ("key", xk), ("value", xv))
        )
        shares = [np.exp((t - 1 - i) * w + k_i) for i, (k_i, _) in enumerate(past)] + [
            np.exp(u + k)
        ]
        values = [v_i for _, v_i in past] + [v]
        wkv = sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)
        np.testing.assert_allclose(
            outs[t], f64["output.weight"] @ (wkv / (1 + np.exp(-r))), rtol=1e-5, atol=1e-5
        )
        past.append((k, v))


@given(st.floats(-300, 300))
def test_v4_does_not_depend_on_the_size_of_all_keys(offset):
    # exp(300) is no float32: only ratios of exponentials may be formed.
    plain, state, _ = v4_outputs(v4_weights())
    shifted, shifted_state, _ = v4_outputs(v4_weights(key_offset=offset))
    np.testing.assert_allclose(shifted, plain, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(shifted_state[2], state[2] + offset, atol=1e-3)


@given(st.floats(-20, 20))
def test_v4_sums_may_carry_any_exponent(shift):
    # aa e^pp and bb e^pp are what counts, however they are split.
    att, x = v4_weights(), normal(8, seed=3)
    _, (aa, bb, pp), _ = v4_outputs(att)
    moved = np.stack([aa * np.exp(-shift), bb * np.exp(-shift), pp + shift]).astype(np.float32)
    out, _ = reference.time_mix_v4(att, x, x, np.stack([aa, bb, pp]))
    moved_out, _ = reference.time_mix_v4(att, x, x, moved)
    np.testing.assert_allclose(moved_out, out, rtol=1e-4, atol=1e-4)


# v5 and v6.


def heads(*seeds):
    return [normal(6, seed=seed) for seed in seeds]  # 2 heads of 3 channels


def test_v5_without_memory_holds_the_last_token_only():
    r, k, v, u = heads(1, 2, 3, 4)
    zero = np.zeros(6, np.float32)
    S = normal(2, 3, 3)
    _, after = reference.read_and_write(S, r, k, v, zero, u)
    np.testing.assert_array_equal(after, np.einsum("hi,hj->hij", k.reshape(2, 3), v.reshape(2, 3)))
    y, _ = reference.read_and_write(after, r, zero, v, zero, u)
    r, k, v = (z.reshape(2, 3) for z in (r, k, v))
    np.testing.assert_allclose(y, (r * k).sum(axis=1, keepdims=True) * v, rtol=1e-5)


def test_v5_is_the_decayed_sum_it_says():
    T, w, u = 5, RNG(7).uniform(0.2, 1, 6).astype(np.float32), normal(6, seed=8)
    rs, ks, vs = (normal(T, 6, seed=seed) for seed in (1, 2, 3))
    S = np.zeros((2, 3, 3), np.float32)
    for t in range(T):
        y, S = reference.read_and_write(S, rs[t], ks[t], vs[t], w, u)
        expected = np.zeros((2, 3))
        for i in range(t + 1):
            decay = (u if i == t else w ** (t - 1 - i)).reshape(2, 3)
            match = (rs[t].reshape(2, 3) * decay * ks[i].reshape(2, 3)).sum(
                axis=1, keepdims=True
            )  # (H, 1)
            expected += match * vs[i].reshape(2, 3)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def time_mix_part(version):
    weights, _ = model(version)
    att = reference.part(weights, "blocks.1.att.")
    return att, normal(64, seed=1), normal(64, seed=2), normal(4, 16, 16, seed=3)


def test_v6_with_its_low_rank_parts_at_zero_is_v5_2():
    att, x, x_prev, S = time_mix_part("v6")
    att = att | {
        name: np.zeros_like(att[name]) for name in ("time_maa_w2.weight", "time_decay_w2.weight")
    }
    out, after = reference.time_mix_v6(att, x, x_prev, S, EPS)
    v5 = att | {
        "token_shift": att["token_shift"][[0, 1, 2, 4]],
        "time_decay": np.exp(-np.exp(att["time_decay"])),
    }
    v5_out, v5_after = reference.time_mix_v5(v5, x, x_prev, S, EPS)
    np.testing.assert_allclose(out, v5_out, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after, v5_after, rtol=1e-6)


def test_the_gate_of_v5_1_closes():
    att, x, x_prev, S = time_mix_part("v5.1")
    closed, after = reference.time_mix_v5(
        att | {"gate.weight": att["gate.weight"] * 0}, x, x_prev, S, EPS
    )
    assert not closed.any() and after.any()
    ungated, same = reference.time_mix_v5(
        att | {"token_shift": att["token_shift"][:3]}, x, x_prev, S, EPS
    )
    assert ungated.any() and np.array_equal(same, after)


# v7.


def v7_part(**changes):
    """Return a time mix with some of its vectors set to a constant, and inputs for it."""
    att, x, x_prev, S = time_mix_part("v7")
    for name, value in changes.items():
        att[name] = np.full(64, value, np.float32)
        if name in ("w0", "a0", "v0"):  # alone, without what depends on the token
            att[f"{name[0]}2.weight"] = np.zeros_like(att[f"{name[0]}2.weight"])
    return att, x, x_prev, S


@pytest.mark.parametrize("k_k", [1e-4, 1, 100])
def test_v7_replaces_what_was_under_a_key(k_k):
    # With w = 1 and a = 1 the delta rule leaves S^T kk = |k| v, whatever was there. kk has length 1
    # for any k_k.
    att, x, x_prev, S = v7_part(w0=-100, a0=100, v0=-100, k_k=k_k)
    _, _, xk, xv, *_ = reference.token_shift(x, x_prev, att["token_shift"])
    k, v = ((att[f"{name}.weight"] @ z).reshape(4, 16) for name, z in (("key", xk), ("value", xv)))
    _, after, _ = reference.time_mix_v7(att, x, x_prev, S, np.zeros(64, np.float32), EPS)
    length = np.sqrt((k * k).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(
        np.einsum("hi,hij->hj", k / length, after), length * v, rtol=1e-4, atol=1e-4
    )


def test_v7_with_a_at_zero_decays_and_adds():
    att, x, x_prev, S = v7_part(w0=100, a0=-100, v0=-100)
    _, _, xk, xv, *_ = reference.token_shift(x, x_prev, att["token_shift"])
    k, v = att["key.weight"] @ xk, att["value.weight"] @ xv
    k = (k * (1 - att["k_a"])).reshape(4, 16)
    _, after, _ = reference.time_mix_v7(att, x, x_prev, S, np.zeros(64, np.float32), EPS)
    lowest = np.exp(-np.exp(-0.5))  # the strongest decay there is, 0.545
    np.testing.assert_allclose(
        after, lowest * S + k[:, :, None] * v.reshape(4, 1, 16), rtol=1e-5, atol=1e-6
    )


def test_v7_takes_values_from_the_first_layer_as_far_as_v0_says():
    att, x, x_prev, S = v7_part(v0=100)
    v_first = normal(64, seed=5)
    _, after, passed_on = reference.time_mix_v7(att, x, x_prev, S, v_first, EPS)
    assert passed_on is v_first
    _, _, _, xv, *_ = reference.token_shift(x, x_prev, att["token_shift"])
    own = att["value.weight"] @ xv
    _, first_after, first = reference.time_mix_v7(att, x, x_prev, S, None, EPS)
    np.testing.assert_array_equal(first, own)
    _, own_after, _ = reference.time_mix_v7(att, x, x_prev, S, own, EPS)
    np.testing.assert_allclose(own_after, first_after, rtol=1e-6)
    assert np.abs(after - own_after).max() > 0.1


def test_v7_survives_a_key_of_zeros():
    att, x, x_prev, S = v7_part(k_k=0)
    out, after, _ = reference.time_mix_v7(att, x, x_prev, S, None, EPS)
    assert np.isfinite(out).all() and np.isfinite(after).all()


# Channel mixes and small parts.


def test_channel_mix_without_receptance_is_half_of_v7s():
    ffn, x, x_prev = (
        reference.part(model("v6")[0], "blocks.1.ffn."),
        normal(64, seed=1),
        normal(64, seed=2),
    )
    half = reference.channel_mix(
        ffn | {"receptance.weight": ffn["receptance.weight"] * 0}, x, x_prev
    )
    whole = reference.channel_mix_v7(ffn | {"token_shift": ffn["token_shift"][:1]}, x, x_prev)
    assert whole.any()
    np.testing.assert_allclose(2 * half, whole, rtol=1e-6)


def test_channel_mix_ignores_keys_that_point_away():
    ffn, x = reference.part(model("v7")[0], "blocks.1.ffn."), normal(64, seed=1)
    k = ffn["key.weight"] @ x
    away = ffn | {"key.weight": -ffn["key.weight"] * np.sign(k)[:, None]}
    assert not reference.channel_mix_v7(away, x, x).any()


def test_token_shift_goes_from_now_to_before():
    x, x_prev = normal(4, seed=1), normal(4, seed=2)
    mu = np.array([[0], [1], [0.5]], np.float32) * np.ones(4, np.float32)
    now, before, between = reference.token_shift(x, x_prev, mu)
    np.testing.assert_allclose([now, before, between], [x, x_prev, (x + x_prev) / 2], rtol=1e-6)


def test_layer_norm_of_a_constant_is_the_bias():
    weight, bias = normal(8, seed=1), normal(8, seed=2)
    assert np.array_equal(reference.layer_norm(np.full(8, 3, np.float32), weight, bias), bias)


@given(st.floats(-50, 50), st.floats(1, 100))
def test_layer_norm_forgets_offset_and_scale(offset, scale):
    x, weight, bias = normal(32), normal(32, seed=1), normal(32, seed=2)
    moved = reference.layer_norm((offset + scale * x).astype(np.float32), weight, bias)
    np.testing.assert_allclose(moved, reference.layer_norm(x, weight, bias), atol=2e-4)
    plain = reference.layer_norm(x, np.ones(32, np.float32), np.zeros(32, np.float32))
    assert abs(plain.mean()) < 1e-6 and abs(plain.std() - 1) < 1e-4


def test_layer_norm_divides_by_the_biased_deviation():
    x = np.array([0, 2], np.float32)
    out = reference.layer_norm(x, np.ones(2, np.float32), np.zeros(2, np.float32), eps=3.0)
    np.testing.assert_allclose(out, [-0.5, 0.5])  # 1 / sqrt(1 + 3)


def test_group_norm_is_a_layer_norm_of_each_head():
    y, weight, bias = normal(4, 16), normal(64, seed=1), normal(64, seed=2)
    each = [
        reference.layer_norm(y[h], weight[16 * h :][:16], bias[16 * h :][:16], EPS)
        for h in range(4)
    ]
    np.testing.assert_array_equal(reference.group_norm(y, weight, bias, EPS), np.concatenate(each))


def test_sigmoid_and_silu_never_overflow():
    x = np.array([-1e30, -1000, -1, 0, 1, 1000, 1e30], np.float32)
    y = reference.sigmoid(x)  # warnings are errors
    np.testing.assert_allclose(y, [0, 0, 0.26894143, 0.5, 0.7310586, 1, 1], rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(y + reference.sigmoid(-x), 1, rtol=1e-6)
    np.testing.assert_allclose(reference.silu(x[1:6]), x[1:6] * y[1:6])
    assert y.dtype == reference.silu(x).dtype == np.float32


# Weights of a file.


def test_dequantize_reads_every_dtype_of_a_file(tmp_path):
    q, scale = RNG(1).integers(-127, 128, (3, 5), dtype=np.int8), np.array([0.5, 1, 2], np.float32)
    half, single = normal(2, 4).astype(np.float16), normal(6)
    tensors = {"a.weight": q, "a.weight.scale": scale, "b.weight": half, "c": single}
    with Writer(tmp_path / "m.trwkv", METADATA) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
        writer.add("tokenizer.bytes", np.zeros(3, np.uint8))
    with open_file(tmp_path / "m.trwkv") as file:
        from_file = quant.dequantize(file)
    for weights in (from_file, quant.dequantize(tensors)):
        assert list(weights) == ["a.weight", "b.weight", "c"]
        assert {tensor.dtype for tensor in weights.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(weights["a.weight"], [0.5 * q[0], 1.0 * q[1], 2.0 * q[2]])
        np.testing.assert_array_equal(weights["b.weight"], half)
        np.testing.assert_array_equal(weights["c"], single)


METADATA = {
    "kind": "model",
    "arch": "v4",
    "n_layer": 1,
    "n_embd": 4,
    "n_ffn": 16,
    "n_head": 1,
    "head_size": 4,
    "vocab_size": 3,
    "ln_x_eps": 1e-5,
    "dtype": "int8",
}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.float64])
def test_dequantize_refuses_what_it_cannot_read(dtype):
    with pytest.raises(UnsupportedError, match=f"weights: b.weight: found {np.dtype(dtype)}"):
        quant.dequantize({"b.weight": np.ones((2, 2), dtype)})
