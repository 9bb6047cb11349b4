"""A model file as the input: stored in another type, or with another vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from converters.write.convert import convert
from converters.write.whole import ModelWriter
from tests.helpers.checkpoint_files import write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import write_pth
from tinyrwkv import load
from tinyrwkv.errors import FormatError, TinyRWKVError, UnsupportedError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.verify import open_verified
from tinyrwkv.file.writer import Writer

VOCAB = b"".join(f"{b + 1} {bytes([b])!r} 1\n".encode() for b in range(256))


@pytest.fixture
def model(tmp_path):
    write_pth(
        tmp_path / "model.pth",
        raw_checkpoint("v6", n_layer=2, n_embd=32, head_size=8, vocab_size=300),
    )
    vocab = write(tmp_path / "vocab.txt", VOCAB)

    def make(dtype="f32", **options):
        path = tmp_path / f"{dtype}.trwkv"
        options = {
            "vocab": vocab,
            "license": "MIT",
            "template": "chat",
            "ln_x_eps": 1e-5,
            **options,
        }
        convert(tmp_path / "model.pth", path, dtype=dtype, **options)
        return path

    return make


def contents(path):
    with open_verified(path) as file:
        return file.metadata, {name: np.array(file[name]) for name in file.tensors}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, x in expected.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(found[name], x)


@pytest.mark.parametrize(
    ("old", "new"), [("f32", "int8"), ("f32", "f16"), ("f32", "f32"), ("int8", "int8")]
)
def test_the_same_as_from_the_checkpoint(model, tmp_path, old, new):
    direct = contents(model(new))
    report = convert(model(old), tmp_path / "out", dtype=new)
    metadata, tensors = contents(tmp_path / "out")
    assert_same(tensors, direct[1])
    # the source is still the checkpoint
    assert metadata == direct[0]
    assert metadata["source"]["name"] == "model.pth"
    assert report["format"] == "trwkv"
    assert report["tokenizer"]


def test_from_float16(model, tmp_path):
    convert(model("f16"), tmp_path / "out", dtype="f32")
    half, whole = contents(model("f16"))[1], contents(tmp_path / "out")[1]
    assert_same(
        whole,
        {name: x.astype(np.float32) if x.dtype == np.float16 else x for name, x in half.items()},
    )
    convert(model("f16"), tmp_path / "out", dtype="int8")
    assert contents(tmp_path / "out")[1]["head.weight"].dtype == np.int8


def test_a_new_vocabulary(model, tmp_path):
    vocab = write(tmp_path / "other.txt", VOCAB + b"257 'ab' 2\n")
    convert(model("int8"), tmp_path / "out", vocab=vocab)
    assert len(contents(tmp_path / "out")[1]["tokenizer.ids"]) == 257
    convert(model("int8", vocab=None), tmp_path / "out", vocab=vocab)
    assert len(contents(tmp_path / "out")[1]["tokenizer.ids"]) == 257
    report = convert(model("int8", vocab=None), tmp_path / "out")
    assert not report["tokenizer"]


def test_options_change_the_metadata(model, tmp_path):
    convert(model("int8"), tmp_path / "out", ln_x_eps=64e-5, template="none", license="CC0")
    metadata = contents(tmp_path / "out")[0]
    assert (metadata["ln_x_eps"], metadata["template"], metadata["source"]["license"]) == (
        64e-5,
        "none",
        "CC0",
    )


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_int8_does_not_become_float_again(model, tmp_path, dtype):
    with pytest.raises(
        UnsupportedError, match=rf"is int8 and can't become {dtype}: what int8 lost is gone"
    ):
        convert(model("int8"), tmp_path / "out", dtype=dtype)
    assert not (tmp_path / "out").exists()


def test_other_techniques_keep_their_type(model, tmp_path):
    metadata, tensors = contents(model("f32"))
    metadata["compression"] = [{"technique": "low-rank", "params": {}, "report": {}}]
    with Writer(tmp_path / "odd.trwkv", metadata) as writer:
        for name, x in tensors.items():
            writer.add(name, x, page_aligned=name == "head.weight")
    with pytest.raises(
        UnsupportedError, match=r"is compressed \(low-rank\): only a plain model can become int8"
    ):
        convert(tmp_path / "odd.trwkv", tmp_path / "out", dtype="int8")
    convert(tmp_path / "odd.trwkv", tmp_path / "out", dtype="f32")
    found = contents(tmp_path / "out")
    assert_same(found[1], tensors)
    assert found[0]["compression"] == metadata["compression"]
    with open_file(tmp_path / "out") as file:
        assert file.tensors["head.weight"].offset % 4096 == 0


def test_damage_is_found(model, tmp_path):
    data = bytearray(model("f32").read_bytes())
    data[5000] ^= 1
    with pytest.raises(TinyRWKVError, match="CRC"):
        convert(write(tmp_path / "bad", bytes(data)), tmp_path / "out")
    with pytest.raises(TinyRWKVError, match=r"bad"):
        convert(write(tmp_path / "bad", bytes(data[:-10])), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_state_is_no_model(tmp_path):
    sizes = {"arch": "v7", "n_layer": 1, "n_embd": 4, "n_head": 1, "head_size": 4}
    with Writer(tmp_path / "state", {"kind": "state", "model": 64 * "0", **sizes}) as writer:
        writer.add("state", np.zeros(24, np.float32))
    with pytest.raises(FormatError, match="holds a state, not a model"):
        convert(tmp_path / "state", tmp_path / "out")


def mutated(model, tmp_path, dtype, change):
    """Return the path of a model with something changed and all checksums right."""
    metadata, tensors = contents(model(dtype))
    change(metadata, tensors)
    with Writer(tmp_path / "changed.trwkv", metadata) as writer:
        for name, x in tensors.items():
            writer.add(name, x)
    return tmp_path / "changed.trwkv"


def without(name):
    return lambda metadata, tensors: tensors.pop(name)


def with_value(name, value):
    def change(metadata, tensors):
        tensors[name] = tensors[name].copy()
        tensors[name].reshape(-1)[0] = value

    return change


def says_f32(metadata, tensors):
    metadata["dtype"] = "f32"


def one_more_layer(metadata, tensors):
    metadata["n_layer"] += 1


def out_of_order(metadata, tensors):
    tensors["tokenizer.bytes"] = tensors["tokenizer.bytes"][::-1].copy()


def a_long_token(metadata, tensors):
    data, starts, ids = (tensors["tokenizer." + part] for part in ("bytes", "starts", "ids"))
    tensors["tokenizer.bytes"] = np.append(data, np.full(2000, 255, np.uint8))
    tensors["tokenizer.starts"] = np.append(starts, starts[-1] + 2000).astype(np.int32)
    tensors["tokenizer.ids"] = np.append(ids, 299).astype(np.int32)


@pytest.mark.parametrize(
    ("dtype", "new", "change"),
    [
        ("int8", "int8", without("ln_out.bias")),
        ("f32", "int8", without("blocks.1.ffn.key.weight")),
        ("int8", "int8", without("head.weight.scale")),
        ("int8", "f32", says_f32),
        ("int8", "int8", one_more_layer),
        ("int8", "int8", with_value("ln_out.weight", np.nan)),
        ("f32", "f32", with_value("head.weight", np.inf)),
        ("int8", "int8", without("tokenizer.starts")),
        ("int8", "int8", out_of_order),
        ("int8", "int8", a_long_token),
    ],
)
def test_what_would_not_load_is_not_written(model, tmp_path, dtype, new, change):
    path = mutated(model, tmp_path, dtype, change)
    with pytest.raises(TinyRWKVError, match=r"changed\.trwkv"):
        convert(path, tmp_path / "out", dtype=new)
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_takes_the_place_of_a_damaged_one(model, tmp_path):
    path = mutated(model, tmp_path, "int8", out_of_order)
    convert(path, tmp_path / "out", vocab=write(tmp_path / "new.txt", VOCAB))
    with load(tmp_path / "out") as made:
        assert len(made.tokenizer) == 256


def test_heads_that_the_kernels_cannot_run_are_refused_before_anything_is_written(tmp_path):
    raw = raw_checkpoint("v6", n_layer=1, n_embd=32, head_size=4, vocab_size=300)
    write_pth(tmp_path / "odd.pth", raw)
    with pytest.raises(FormatError, match=r"odd\.pth has 8 heads of 4, .* multiple of 8"):
        convert(tmp_path / "odd.pth", tmp_path / "out")


def test_a_file_that_would_not_load_never_gets_its_name(model, tmp_path):
    metadata, tensors = contents(model("int8"))
    del tensors["ln_out.bias"]
    with pytest.raises(FormatError, match=r"out: tensor 'ln_out\.bias' is missing") as error:
        with ModelWriter(tmp_path / "out", metadata) as writer:
            for name, x in tensors.items():
                writer.add(name, x)
    assert error.value.file == str(tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
