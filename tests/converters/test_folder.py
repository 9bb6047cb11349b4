"""A folder from a hub: its checkpoint is found, its config.json compared, its vocabulary taken."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest

from converters import cli
from converters.read.open import open_source
from converters.write.convert import convert
from tests.helpers.checkpoint_files import read_raw, safetensors, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.dialects import to_fla, to_hugging_face
from tests.helpers.pth_writer import write_pth
from tinyrwkv import load
from tinyrwkv.errors import FormatError, TinyRWKVError, UnsupportedError

RAW = raw_checkpoint("v7", n_layer=2, n_embd=32, head_size=8, vocab_size=300)
VOCAB = b"".join(b"%d %a 1\n" % (b + 1, bytes([b])) for b in range(256)) + b"257 'abc' 3\n"
CONFIG = {
    **{"model_type": "rwkv7", "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8},
    **{"intermediate_size": 128, "vocab_size": 300, "norm_eps": 1e-5, "hidden_act": "sqrelu"},
    **{"tie_word_embeddings": False, "value_dim": [32, 32], "architectures": ["RWKV7ForCausalLM"]},
}


@pytest.fixture
def hub(tmp_path):
    """The folder that fla-hub gives."""
    folder = tmp_path / "rwkv7"
    folder.mkdir()
    write(folder / "model.safetensors", safetensors(to_fla(RAW)))
    write(folder / "config.json", json.dumps(CONFIG).encode())
    write(folder / "rwkv_vocab_v20230424.txt", VOCAB)
    for name in ("README.md", "hf_rwkv_tokenizer.py", "tokenizer_config.json"):
        write(folder / name, b"{}")
    return folder


def refusal(path, kind=TinyRWKVError):
    with pytest.raises(kind) as error:
        read_raw(path)
    return str(error.value)


def configure(hub, **changed):
    write(hub / "config.json", json.dumps({**CONFIG, **changed}).encode())


def test_a_whole_conversion(hub, tmp_path):
    report = convert(hub, tmp_path / "a.trwkv", "f32")
    digest = hashlib.sha256((hub / "model.safetensors").read_bytes()).hexdigest()
    assert report["source"] == {"name": "rwkv7", "sha256": digest}
    assert (report["format"], report["tokenizer"]) == ("safetensors", True)
    convert(hub / "model.safetensors", tmp_path / "b.trwkv", "f32")
    with load(tmp_path / "a.trwkv", backend="numpy") as model:
        assert model.tokenizer.encode("abc") == [257]
        logits, _ = model.forward([1, 2])
    with load(tmp_path / "b.trwkv", backend="numpy") as other:
        np.testing.assert_array_equal(other.forward([1, 2])[0], logits)


def test_the_name_of_a_folder_may_end_in_a_slash(hub, tmp_path):
    report = convert(f"{hub}/", tmp_path / "a.trwkv")
    assert report["source"]["name"] == "rwkv7"


def test_a_given_vocabulary_comes_first(hub, tmp_path):
    vocab = write(tmp_path / "vocab", VOCAB.replace(b"'abc'", b"'xyz'"))
    convert(hub, tmp_path / "a.trwkv", vocab=vocab)
    with load(tmp_path / "a.trwkv", backend="numpy") as model:
        assert model.tokenizer.encode("xyz") == [257]


def test_two_vocabularies_are_none(hub, tmp_path):
    write(hub / "rwkv_vocab_v20260603.txt", VOCAB)
    report = convert(hub, tmp_path / "a.trwkv")
    assert not report["tokenizer"]
    both = "rwkv_vocab_v20230424.txt and rwkv_vocab_v20260603.txt was not used"
    assert both in " ".join(report["notes"])


def test_another_tokenizer_is_left_out_with_a_note(hub, tmp_path):
    os.rename(hub / "rwkv_vocab_v20230424.txt", hub / "tokenizer.json")
    report = convert(hub, tmp_path / "a.trwkv")
    assert not report["tokenizer"]
    assert "tokenizer.json was not used" in " ".join(report["notes"])


def test_world_is_found_in_the_folder(hub, tmp_path, capsys):
    assert cli.main([str(hub), str(tmp_path / "a.trwkv"), "--vocab", "world", "--quiet"]) == 0
    with load(tmp_path / "a.trwkv", backend="numpy") as model:
        assert model.tokenizer.encode("abc") == [257]


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("num_hidden_layers", 3, 2),
        ("hidden_size", 64, 32),
        ("intermediate_size", 96, 128),
        ("head_dim", 16, 8),
        ("head_size", 16, 8),
        ("vocab_size", 65536, 300),
        ("vocab_size", "300", 300),
    ],
)
def test_a_configuration_that_contradicts_the_tensors(hub, key, wrong, right):
    configure(hub, **{key: wrong})
    message = refusal(hub, FormatError)
    assert f"'{key}' in config.json is {wrong!r}, but by the tensors it is {right}" in message


@pytest.mark.parametrize("key", ["norm_eps", "layer_norm_epsilon"])
def test_another_epsilon(hub, key):
    configure(hub, **{key: 1e-6})
    assert f"'{key}' in config.json is 1e-06" in refusal(hub, UnsupportedError)


def test_what_is_null_is_not_compared(hub):
    configure(hub, intermediate_size=None, norm_eps=None)
    assert read_raw(hub)[0]["n_ffn"] == 128


def test_another_architecture_is_refused_by_name(hub):
    configure(hub, model_type="llama")
    message = refusal(hub, UnsupportedError)
    assert "config.json describes a model of the type 'llama', not an RWKV" in message


def test_a_configuration_that_is_none(hub):
    write(hub / "config.json", b"[1]")
    assert "config.json: the configuration is bad JSON" in refusal(hub, FormatError)
    write(hub / "config.json", b"{" + b" " * (1 << 20))
    assert "the configuration has 1048577 bytes; at most 1048576" in refusal(hub, FormatError)


@pytest.mark.parametrize("version", ["v4", "v7"])
def test_a_head_that_is_the_embedding(tmp_path, version):
    raw = raw_checkpoint(version, n_layer=2, n_embd=32, head_size=8, vocab_size=300)
    tensors = to_fla(raw) if version == "v7" else to_hugging_face(raw)
    head = "lm_head.weight" if version == "v7" else "head.weight"
    kept = {name: x for name, x in tensors.items() if name != head}
    path = write(tmp_path / "model.safetensors", safetensors(kept))
    write(tmp_path / "config.json", json.dumps({"tie_word_embeddings": True}).encode())
    _, found = read_raw(tmp_path)
    np.testing.assert_array_equal(found["head.weight"], raw["emb.weight"])
    # The file alone does not say it.
    message = refusal(path, FormatError)
    assert "1 is missing (head.weight)" in message
    assert "if the head is tied to the embedding, give the folder" in message
    write(tmp_path / "config.json", json.dumps({"tie_word_embeddings": False}).encode())
    assert "1 is missing (head.weight)" in refusal(tmp_path, FormatError)
    # A head of its own stays.
    write(tmp_path / "config.json", json.dumps({"tie_word_embeddings": True}).encode())
    write(tmp_path / "model.safetensors", safetensors(tensors))
    np.testing.assert_array_equal(read_raw(tmp_path)[1]["head.weight"], raw["head.weight"])


def test_a_tied_head_is_converted(tmp_path):
    tensors = {name: x for name, x in to_fla(RAW).items() if name != "lm_head.weight"}
    write(tmp_path / "model.safetensors", safetensors(tensors))
    write(tmp_path / "config.json", json.dumps({"tie_word_embeddings": True}).encode())
    convert(tmp_path, tmp_path / "a.trwkv", "f32")
    with load(tmp_path / "a.trwkv", backend="numpy") as model:
        np.testing.assert_array_equal(model.file["head.weight"], RAW["emb.weight"])


@pytest.mark.parametrize("name", ["a.pth", "a.st", "a.bin", "pytorch_model.bin"])
def test_the_only_checkpoint_of_a_folder(tmp_path, name):
    if name.endswith(("pth", "bin")):
        write_pth(tmp_path / name, RAW)
    else:
        write(tmp_path / name, safetensors(RAW))
    write(tmp_path / "notes.txt", b"...")
    with open_source(tmp_path) as source:
        assert source.files[0].path == str(tmp_path / name)
        assert source.path == str(tmp_path)


def test_what_transformers_takes_comes_first(hub):
    write(hub / "consolidated.pth", b"another")
    write(hub / "pytorch_model.bin", b"another")
    with open_source(hub) as source:
        assert source.files[0].path == str(hub / "model.safetensors")


def test_several_checkpoints_are_refused(tmp_path):
    for name in ("b.pth", "a.pth"):
        write_pth(tmp_path / name, RAW)
    message = refusal(tmp_path, FormatError)
    assert "is a folder of 2 checkpoints: a.pth, b.pth; give one of these files" in message


def test_a_folder_without_a_checkpoint(tmp_path):
    write(tmp_path / "model.trwkv", b"")
    message = refusal(tmp_path, FormatError)
    assert f"{tmp_path} is a folder without a checkpoint; give a folder with one" in message


def test_an_output_in_the_folder(hub):
    assert convert(hub, hub / "a.trwkv")["tokenizer"]
    for name in ("model.safetensors", "rwkv_vocab_v20230424.txt"):
        before = (hub / name).read_bytes()
        with pytest.raises(TinyRWKVError):
            convert(hub, hub / name)
        assert (hub / name).read_bytes() == before
    with pytest.raises(TinyRWKVError):
        convert(hub, hub)
