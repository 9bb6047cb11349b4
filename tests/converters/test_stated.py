"""What a file says about its model must be what its tensors are."""

from __future__ import annotations

import pytest

from tests.helpers.checkpoint_files import gguf, read_raw, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.dialects import to_gguf
from tinyrwkv.errors import FormatError, TinyRWKVError, UnsupportedError


def refusal(tmp_path, version, kind, **wrong):
    raw = raw_checkpoint(version, n_layer=2, n_embd=32, head_size=8, vocab_size=40)
    arrays, settings = to_gguf(raw, version)
    arch = settings["general.architecture"]
    settings |= {f"{arch}.{key.replace('__', '.')}": value for key, value in wrong.items()}
    with pytest.raises(kind) as error:
        read_raw(write(tmp_path / "a.gguf", gguf(arrays, settings)))
    return str(error.value)


@pytest.mark.parametrize("version", ["v6", "v7"])
@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("block_count", 3, 2),
        ("block_count", 1, 2),
        ("embedding_length", 64, 32),
        ("feed_forward_length", 100, {"v6": 96, "v7": 128}),
        ("vocab_size", 41, 40),
        ("block_count", "2", 2),
        ("block_count", [2], 2),
        ("block_count", 2.0, 2),
    ],
)
def test_a_size_that_the_tensors_do_not_have(tmp_path, version, key, wrong, right):
    message = refusal(tmp_path, version, FormatError, **{key: wrong})
    right = right[version] if isinstance(right, dict) else right
    arch = version.replace("v", "rwkv")
    assert f"the setting '{arch}.{key}' is " in message
    assert f"but by the tensors it is {right}" in message


def test_the_size_of_a_head(tmp_path):
    message = refusal(tmp_path, "v6", FormatError, wkv__head_size=16)
    assert "the setting 'rwkv6.wkv.head_size' is 16, but by the tensors it is 8" in message
    # The bonus of v7 is flat there: a size that does not divide it gives it no shape.
    assert "att.r_k" in refusal(tmp_path, "v7", FormatError, wkv__head_size=7)


@pytest.mark.parametrize("wrong", [1e-6, 0.0, "1e-5"])
def test_another_epsilon(tmp_path, wrong):
    message = refusal(tmp_path, "v7", UnsupportedError, attention__layer_norm_epsilon=wrong)
    assert "'rwkv7.attention.layer_norm_epsilon' is " in message
    assert "but the layer norms of RWKV have 1e-05" in message


def test_what_is_not_said_is_not_compared(tmp_path):
    raw = raw_checkpoint("v7", n_layer=2, n_embd=32, head_size=8, vocab_size=40)
    arrays, settings = to_gguf(raw, "v7")
    needed = ("general.architecture", "rwkv7.wkv.head_size")
    few = {key: value for key, value in settings.items() if key in needed}
    config, _ = read_raw(write(tmp_path / "a.gguf", gguf(arrays, few)))
    assert (config["n_layer"], config["n_embd"]) == (2, 32)
    with pytest.raises(TinyRWKVError):
        read_raw(write(tmp_path / "b.gguf", gguf(arrays, {"general.architecture": "rwkv7"})))
