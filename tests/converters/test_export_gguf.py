"""Models as GGUF files: the same numbers, llama.cpp's names and orders, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from converters import cli
from converters.export import gguf_tensors
from converters.export.gguf import export
from converters.export.gguf_tensors import q8_0, quantize_q8_0, unfold_ln0
from converters.write.convert import convert
from converters.write.fold import fold_ln0
from tests.helpers.checkpoint_files import read_plain, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import write_pth
from tests.helpers.tiny_models import rewrite
from tinyrwkv.errors import ArgumentError, FormatError, TinyRWKVError, UnsupportedError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.quant import quantize_rows
from tinyrwkv.file.writer import Writer

SIZES = {"n_layer": 2, "n_embd": 64, "head_size": 16, "vocab_size": 300}
WORDS = {
    **{
        257: b"\n\n",
        258: b"it's",
        259: b"'\"",
        260: b"\\x41",
        261: "日本".encode(),
        262: "日".encode()[:2],
    },
    **{263: b"<s>", 264: b"[PAD299]", 265: b"\t\r \x00\x7f"},
}
VOCAB = b"".join(
    b"%d %a %d\n" % (i, t, len(t))
    for i, t in ({b + 1: bytes([b]) for b in range(256)} | WORDS).items()
)


@pytest.fixture
def gguf():
    return pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture
def model(tmp_path):
    def make(arch="v7", dtype="f32", change=lambda raw: None, **options):
        raw = raw_checkpoint(arch, **SIZES)
        raw["emb.weight"][7:12] *= 1e-4  # as of tokens that training never met
        change(raw)
        write_pth(tmp_path / "raw.pth", raw)
        path = tmp_path / f"{arch}-{dtype}.trwkv"
        convert(tmp_path / "raw.pth", path, dtype=dtype, **options)
        return path

    return make


def read(path):
    with open_file(path) as file:
        return dict(file.metadata), {name: file[name].copy() for name in file.tensors}


def settings(gguf, path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def kinds(gguf, path):
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def relative(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(y)


@pytest.mark.parametrize("arch", ["v6", "v7"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_floats_come_back_as_they_were(gguf, model, tmp_path, arch, dtype):
    path = model(arch, dtype)
    export(path, tmp_path / "a.gguf")
    convert(tmp_path / "a.gguf", tmp_path / "back.trwkv", dtype="f32")
    (config, before), (again, after) = read(path), read(tmp_path / "back.trwkv")
    assert {
        key: config[key]
        for key in config
        if key not in ("source", "created_by", "compression", "dtype")
    } == {key: again[key] for key in again if key not in ("source", "created_by", "dtype")}
    assert list(before) == list(after)
    for name, x in before.items():
        if name != "emb.weight":
            np.testing.assert_array_equal(after[name], x, err_msg=name)
    # out of the norm and into it again, the rows that are next to nothing too
    x, y = (tensors["emb.weight"].astype(np.float32) for tensors in (before, after))
    assert (
        max(relative(b, a) for a, b in zip(x, y, strict=True)) < {"f32": 1e-6, "f16": 2e-3}[dtype]
    )


@pytest.mark.parametrize("arch", ["v6", "v7"])
def test_int8_keeps_its_integers(gguf, model, tmp_path, arch):
    path = model(arch, "int8")
    export(path, tmp_path / "a.gguf")
    found, kind, tensors = (
        read_plain(tmp_path / "a.gguf"),
        kinds(gguf, tmp_path / "a.gguf"),
        read(path)[1],
    )
    for old, new in (
        ("head.weight", "output.weight"),
        ("blocks.1.att.key.weight", "blk.1.time_mix_key.weight"),
        ("blocks.0.ffn.value.weight", "blk.0.channel_mix_value.weight"),
    ):
        assert kind[new] == "Q8_0"
        scale = tensors[old + ".scale"].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(found[new], tensors[old] * scale[:, None])
    low = "blk.1.time_mix_w1.weight"
    assert {kind[low], kind["blk.1.time_mix_w2.weight"]} == {"F16"}
    assert kind["token_embd.weight"] == "Q8_0"
    assert {kind[name] for name in kind if found[name].ndim == 1 or "lerp" in name} == {"F32"}
    convert(tmp_path / "a.gguf", tmp_path / "back.trwkv", dtype="f32")
    x = tensors["emb.weight"] * tensors["emb.weight.scale"][:, None]
    assert relative(read(tmp_path / "back.trwkv")[1]["emb.weight"], x) < 0.01


def test_rows_that_are_no_whole_blocks_become_float16(gguf, model, tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "n_embd", 48)
    export(model("v7", "int8"), tmp_path / "a.gguf")
    kind = kinds(gguf, tmp_path / "a.gguf")
    assert {
        kind["token_embd.weight"],
        kind["output.weight"],
        kind["blk.0.channel_mix_key.weight"],
    } == {"F16"}
    assert kind["blk.0.channel_mix_value.weight"] == "Q8_0"  # 192 columns


def test_the_orders_and_shapes_of_llama_cpp(gguf, model, tmp_path):
    raw = {}
    export(model("v6", change=raw.update), tmp_path / "a.gguf")
    found = read_plain(tmp_path / "a.gguf")
    fused = np.stack(
        [raw[f"blocks.1.att.time_maa_{letter}"].reshape(1, 1, -1) for letter in "wkvrg"]
    )
    np.testing.assert_array_equal(found["blk.1.time_mix_lerp_fused.weight"], fused)
    np.testing.assert_array_equal(
        found["blk.1.time_mix_w1.weight"], raw["blocks.1.att.time_maa_w1"].T
    )
    np.testing.assert_array_equal(
        found["blk.1.time_mix_w2.weight"], raw["blocks.1.att.time_maa_w2"].swapaxes(1, 2)
    )
    np.testing.assert_array_equal(
        found["blk.1.time_mix_first.weight"], raw["blocks.1.att.time_faaaa"]
    )
    np.testing.assert_array_equal(
        found["blk.1.channel_mix_lerp_r.weight"], raw["blocks.1.ffn.time_maa_r"].ravel()
    )
    export(model("v7", change=raw.update), tmp_path / "b.gguf")
    found = read_plain(tmp_path / "b.gguf")
    fused = np.stack([raw[f"blocks.1.att.x_{letter}"].reshape(1, 1, -1) for letter in "rwkvag"])
    np.testing.assert_array_equal(found["blk.1.time_mix_lerp_fused.weight"], fused)
    np.testing.assert_array_equal(found["blk.1.time_mix_g2.weight"], raw["blocks.1.att.g2"].T)
    # what llama.cpp asks for in layer 0 and never reads
    for end, like in enumerate(("a0", "a1", "a2")):
        assert (
            found[f"blk.0.time_mix_v{end}.weight"].shape
            == raw[f"blocks.0.att.{like}"].T.squeeze().shape
        )


def test_settings(gguf, model, tmp_path):
    export(model("v7", "int8", license="MIT"), tmp_path / "a.gguf")
    found = settings(gguf, tmp_path / "a.gguf")
    assert {
        key.removeprefix("rwkv7."): value
        for key, value in found.items()
        if key.startswith("rwkv7.")
    } == {
        **{
            "block_count": 2,
            "embedding_length": 64,
            "feed_forward_length": 256,
            "wkv.head_size": 16,
            "vocab_size": 300,
        },
        **{"context_length": 1 << 20, "attention.head_count": 0},
        **{"attention.layer_norm_epsilon": pytest.approx(1e-5), "attention.decay_lora_rank": 16},
        **{
            "attention.iclr_lora_rank": 12,
            "attention.value_residual_mix_lora_rank": 8,
            "attention.gate_lora_rank": 24,
        },
    }
    assert (
        found["general.architecture"],
        found["general.file_type"],
        found["general.license"],
    ) == ("rwkv7", 7, "MIT")
    assert found["tokenizer.ggml.model"] == "none"
    export(model("v6"), tmp_path / "b.gguf")
    found = settings(gguf, tmp_path / "b.gguf")
    assert (found["rwkv6.time_mix_extra_dim"], found["rwkv6.time_decay_extra_dim"]) == (8, 16)
    assert (found["rwkv6.rescale_every_n_layers"], found["general.file_type"]) == (0, 0)


def test_a_vocabulary(gguf, model, tmp_path):
    vocab = write(tmp_path / "vocab.txt", VOCAB)
    export(model("v7", "int8", vocab=vocab, template="chat"), tmp_path / "a.gguf")
    found = settings(gguf, tmp_path / "a.gguf")
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert found["tokenizer.ggml.model"] == "rwkv"
    assert len(tokens) == len(set(tokens)) == len(types) == SIZES["vocab_size"]
    for i, token in WORDS.items():
        # llama.cpp undoes these four escapes; it takes the character after any other backslash as
        # it is.
        text = tokens[i].encode().decode("unicode_escape").encode("latin-1")
        assert (text, types[i]) == (token, 1)
    assert (tokens[0], types[0], tokens[299], types[299]) == ("[<s>]", 3, "[[PAD299]]", 5)
    assert tokens[298] == "[PAD298]"
    assert (found["tokenizer.ggml.eos_token_id"], found["tokenizer.ggml.eot_token_id"]) == (0, 257)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("robot", "<s>System: s\n\nUser: a\n\nAssistant: b\n\nUser: c\n\nAssistant:"),
        ("think", "<s>System: s\n\nUser: a\n\nAssistant: b\n\nUser: c\n\nAssistant: <think"),
        ("raven", "<s>s\n\nBob: a\n\nAlice: b\n\nBob: c\n\nAlice:"),
    ],
)
def test_a_chat_template(gguf, model, tmp_path, name, expected):
    jinja2 = pytest.importorskip("jinja2", reason="the package jinja2 is not installed")
    export(model(vocab=write(tmp_path / "vocab.txt", VOCAB), template=name), tmp_path / "a.gguf")
    template = jinja2.Template(settings(gguf, tmp_path / "a.gguf")["tokenizer.chat_template"])
    talk = [("system", "s"), ("user", " a"), ("assistant", " b "), ("user", "c")]
    messages = [{"role": role, "content": text} for role, text in talk]
    assert (
        template.render(messages=messages, bos_token="<s>", add_generation_prompt=True) == expected
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raven", "the chat template raven is recorded"),
        ("none", "no chat template is recorded: tinyrwkv-convert --template NAME adds one"),
        (None, "no chat template is recorded: tinyrwkv-convert --template NAME adds one"),
    ],
)
def test_the_notes_tell_how_to_begin(gguf, model, tmp_path, name, said):
    path = model(vocab=write(tmp_path / "vocab.txt", VOCAB), template=name)
    template, beginning = export(path, tmp_path / "a.gguf")["notes"]
    assert template.startswith(said)
    assert beginning.startswith("a prompt without a template begins with token 0")


def test_no_template_without_turns(gguf, model, tmp_path):
    export(model(vocab=write(tmp_path / "vocab.txt", VOCAB), template="none"), tmp_path / "a.gguf")
    assert (
        not {"tokenizer.chat_template", "tokenizer.ggml.eot_token_id"}
        & settings(gguf, tmp_path / "a.gguf").keys()
    )


def test_the_first_norm_comes_out_of_the_embedding():
    rng = np.random.default_rng(0)
    weight, bias = rng.uniform(0.5, 1.5, 64), rng.normal(0, 0.3, 64)
    for spread in (1e-6, 1e-4, 1e-2, 1, 100):
        y = fold_ln0(rng.normal(0.1, spread, (50, 64)).astype(np.float32), weight, bias)
        x = unfold_ln0(y, weight, bias, 2.0**-24)
        assert relative(fold_ln0(x, weight, bias), y) < 1e-6
        # known to a step of 1/127: no further away than that was from the truth
        q, scale = quantize_rows(y)
        near = q * scale[:, None]
        again = fold_ln0(unfold_ln0(near, weight, bias, 1 / 127), weight, bias)
        assert relative(again, y) < 1.5 * relative(near, y) + 1e-6


def test_a_channel_that_the_norm_mutes():
    weight, bias = np.ones(8), np.arange(8.0)
    weight[2], weight[5] = 0, 1e-9
    y = fold_ln0(np.random.default_rng(0).normal(0, 1, (3, 8)).astype(np.float32), weight, bias)
    x = unfold_ln0(y, weight, bias, 2.0**-24)
    assert np.isfinite(x).all() and (x[:, 2] == x[:, 5]).all()
    np.testing.assert_allclose(
        fold_ln0(x, weight, bias), y, atol=0.3
    )  # the others carry the variance alone


def test_blocks():
    rng = np.random.default_rng(0)
    q, scale = rng.integers(-127, 128, (3, 64)).astype(np.int8), np.float32([0.5, 0, 2])
    blocks = q8_0(q, scale).reshape(3, 2, 34)
    assert blocks[:, :, :2].copy().view("<f2")[..., 0].tolist() == [[0.5, 0.5], [0, 0], [2, 2]]
    np.testing.assert_array_equal(blocks[:, :, 2:].view(np.int8).reshape(3, 64), q)
    x = rng.normal(0, 1, (3, 64)).astype(np.float32) * np.float32([[1], [0], [1e-3]])
    blocks = quantize_q8_0(x).reshape(3, 2, 34)
    d = blocks[:, :, :2].copy().view("<f2").astype(np.float32)
    back = (blocks[:, :, 2:].view(np.int8) * d).reshape(3, 64)
    assert np.abs(back - x).max(axis=1).tolist() == pytest.approx(
        (np.abs(x).max(axis=1) / 254).tolist(), rel=0.2
    )


def refusal(path, tmp_path, kind=UnsupportedError):
    with pytest.raises(kind) as error:
        export(path, tmp_path / "a.gguf")
    assert not list(tmp_path.glob("a.gguf*"))
    return str(error.value)


@pytest.mark.parametrize("arch", ["v4", "v5.0", "v5.1", "v5.2"])
def test_other_versions_are_refused_by_name(model, tmp_path, arch):
    assert f"is RWKV {arch}, but llama.cpp runs only v6 or v7" in refusal(model(arch), tmp_path)


def test_what_llama_cpp_can_not_run_is_refused(model, tmp_path):
    path = model("v7", "int8")

    def changed(change):
        return rewrite(path, tmp_path / "b.trwkv", change)

    without = changed(lambda metadata, tensors: tensors.pop("blocks.0.ln0.bias"))
    assert "lacks tensor 'blocks.0.ln0.bias'" in refusal(without, tmp_path)
    assert "has an ln_x_eps of 1e-05" in refusal(model("v7", ln_x_eps=1e-5), tmp_path)
    packed = changed(lambda metadata, tensors: metadata.update(dtype="int4"))
    assert f"{packed} is int4, which GGUF files have no type for" in refusal(packed, tmp_path)
    gone = changed(lambda metadata, tensors: tensors.pop("head.weight"))
    assert "tensor 'head.weight'" in refusal(gone, tmp_path, FormatError)
    assert f"no such file: {tmp_path / 'none'}" in refusal(tmp_path / "none", tmp_path, FormatError)
    sizes = {"arch": "v7", "n_layer": 1, "n_embd": 4, "n_head": 1, "head_size": 4}
    with Writer(tmp_path / "state", {"kind": "state", "model": 64 * "0", **sizes}) as writer:
        writer.add("state", np.zeros(24, np.float32))
    assert "holds a state, not a model" in refusal(tmp_path / "state", tmp_path, FormatError)


def test_a_compressed_part_is_refused(model, tmp_path):
    def factor(metadata, tensors):
        w = tensors.pop("blocks.1.att.key.weight")
        tensors |= {"blocks.1.att.key.weight.a": w[:4], "blocks.1.att.key.weight.b": w[:, :4]}

    path = rewrite(model(), tmp_path / "b.trwkv", factor)
    assert "blocks.1.att.key.weight" in refusal(path, tmp_path, TinyRWKVError)


def test_ranks_that_differ_are_refused(gguf, model, tmp_path):
    def change(metadata, tensors):
        tensors["blocks.1.att.g1.weight"] = tensors["blocks.1.att.g1.weight"][:5].copy()
        tensors["blocks.1.att.g2.weight"] = tensors["blocks.1.att.g2.weight"][:, :5].copy()

    path = rewrite(model(), tmp_path / "b.trwkv", change)
    assert "the rank of att.g2 differs between layers (5, 24); llama.cpp" in refusal(path, tmp_path)


@pytest.mark.parametrize(
    "name", ["head.weight.scale", "blocks.0.att.w1.weight.scale", "emb.weight.scale"]
)
def test_numbers_too_large_for_float16_are_refused(gguf, model, tmp_path, name):
    def change(metadata, tensors):
        tensors[name][3] = 1e38

    path = rewrite(model("v7", "int8"), tmp_path / "b.trwkv", change)
    assert "has a number that is too large for " in refusal(path, tmp_path)


def test_without_the_package(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert refusal(model(), tmp_path).endswith("; pip install gguf")


def test_a_failure_leaves_the_old_file(gguf, model, tmp_path, monkeypatch):
    path = model()
    export(path, tmp_path / "a.gguf")
    old = (tmp_path / "a.gguf").read_bytes()
    with pytest.raises(ArgumentError, match="would replace the input"):
        export(path, path)
    with pytest.raises(
        FormatError,
        match=r"cannot write .*a\.gguf: there is no folder",
    ):
        export(path, tmp_path / "none" / "a.gguf")

    def interrupted(rows, *others):
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_tensors, "unfold_ln0", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(path, tmp_path / "a.gguf")
    assert [(name.name, name.read_bytes()) for name in tmp_path.glob("a.gguf*")] == [
        ("a.gguf", old)
    ]


def test_the_command(gguf, model, tmp_path, capsys):
    path, output = str(model("v7", "int8")), str(tmp_path / "a.GGUF")
    assert cli.main([path, output]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{output}: RWKV v7, 2 layers of 64, vocabulary 300, int8")
    assert err == "note: no vocabulary: llama.cpp takes and gives tokens, not text\n"
    assert cli.main([path, output, "--dtype", "f16"]) == 1
    assert (
        "--dtype changes the model, but a .gguf is written without changes"
        in capsys.readouterr().err
    )
    assert cli.main([str(tmp_path / "raw.pth"), output]) == 1
    assert "convert it first: tinyrwkv-convert" in capsys.readouterr().err
