"""A checkpoint in several files with an index: what is missing or contradicts is named."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.read.open import open_source
from tests.helpers.checkpoint_files import read_plain, read_raw, safetensors, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import write_pth
from tinyrwkv.errors import FormatError, TinyRWKVError

RAW = raw_checkpoint("v7", n_layer=2, n_embd=32, head_size=8, vocab_size=40)
NAMES = [*RAW]
SHARES = {
    "model-00001-of-00002.safetensors": NAMES[::2],
    "model-00002-of-00002.safetensors": NAMES[1::2],
}
FIRST, SECOND = SHARES
INDEX = "model.safetensors.index.json"
PLACES = {name: file for file, names in SHARES.items() for name in names}


def index(places=PLACES):
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": places}).encode()


@pytest.fixture
def folder(tmp_path):
    for file, names in SHARES.items():
        write(tmp_path / file, safetensors({name: RAW[name] for name in names}))
    write(tmp_path / INDEX, index())
    return tmp_path


def refusal(path, kind=TinyRWKVError):
    with pytest.raises(kind) as error:
        read_raw(path)
    return str(error.value)


@pytest.mark.parametrize("asked", [INDEX, *SHARES, ""])
def test_the_index_a_part_or_the_folder(folder, asked):
    path = folder / asked
    with open_source(path) as source:
        assert [os.path.basename(file.path) for file in source.files] == [*SHARES]
        assert (source.kind, source.path) == ("safetensors", str(path))
    config, found = read_raw(path)
    assert config["arch"] == "v7"
    for name, x in found.items():
        np.testing.assert_array_equal(x, RAW[name])


@pytest.mark.parametrize("asked", [".bin.index.json", "-00001-of-00002.bin"])
def test_shards_of_pytorch(tmp_path, asked):
    places = {}
    for number, names in enumerate(SHARES.values(), 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        write_pth(tmp_path / file, {name: RAW[name] for name in names})
        places |= dict.fromkeys(names, file)
    write(tmp_path / "pytorch_model.bin.index.json", index(places))
    assert set(read_plain(tmp_path / f"pytorch_model{asked}")) == set(RAW)


def test_a_part_without_its_index(folder):
    os.remove(folder / INDEX)
    for number, file in ((1, FIRST), (2, SECOND), (1, "")):
        message = refusal(folder / file, FormatError)
        file = file or FIRST  # the folder stands for its first part
        assert f"{file} is part {number} of 2, and the index is not beside it: no file" in message
        assert message.endswith("put the index and all its files into one folder")


def test_one_part_of_one_is_whole(tmp_path):
    path = write(tmp_path / "model-00001-of-00001.safetensors", safetensors(RAW))
    assert list(read_plain(path)) == NAMES


def test_a_missing_part_is_named(folder):
    os.remove(folder / SECOND)
    message = refusal(folder / INDEX, FormatError)
    assert f"names the file {SECOND}, which is not beside it" in message


def test_an_index_that_contradicts_its_files(folder):
    elsewhere = SECOND if PLACES["head.weight"] == FIRST else FIRST
    other = {**PLACES, "head.weight": elsewhere}
    write(folder / INDEX, index(other))
    assert "has tensor 'head.weight', but " in refusal(folder / INDEX, FormatError)
    few = {name: file for name, file in PLACES.items() if name != "head.weight"}
    write(folder / INDEX, index(few))
    assert "says that it is in no file" in refusal(folder / INDEX, FormatError)
    write(folder / INDEX, index({**PLACES, "more": FIRST}))
    assert f"says that tensor 'more' is in {FIRST}, but it is not" in refusal(folder / INDEX)


def test_files_of_two_formats(folder):
    write_pth(folder / SECOND, {name: RAW[name] for name in SHARES[SECOND]})
    assert "files of several formats: pth and safetensors" in refusal(folder / INDEX)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0b", 7])
def test_an_index_leads_to_no_other_folder(folder, name):
    write(folder / INDEX, index({**PLACES, "head.weight": name}))
    assert "the index does not have a weight_map of tensors and" in refusal(folder / INDEX)


def test_counts_have_limits(tmp_path):
    write(tmp_path / INDEX, index({f"x{i}": f"{i}" for i in range(129)}))
    assert "names 129 files; at most 128 can be read" in refusal(tmp_path / INDEX)
    write(tmp_path / INDEX, index({f"x{i}": "a" for i in range(65_537)}))
    assert "has 65537 tensors or more; at most 65536" in refusal(tmp_path / INDEX)
    write(tmp_path / INDEX, b"{" + b" " * (8 << 20) + b"}")
    assert "the index has 8388610 bytes; at most 8388608" in refusal(tmp_path / INDEX)


def test_an_index_of_itself(tmp_path):
    write(tmp_path / INDEX, index({"a": INDEX}))
    assert "is a JSON file; such a file can't be read" in refusal(tmp_path / INDEX)


@given(
    content=st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    )
)
def test_any_index_gives_an_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("index") / INDEX
    write(path, json.dumps({"weight_map": content}).encode())
    assert refusal(path)
