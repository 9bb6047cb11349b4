"""A model in several GGUF files: any part finds the others, and what is missing is named."""

from __future__ import annotations

import os

import numpy as np
import pytest

from converters.read.open import open_source
from tests.helpers.checkpoint_files import gguf, gguf_parts, read_plain, read_raw, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.dialects import to_gguf
from tinyrwkv.errors import FormatError, UnsupportedError

RAW = raw_checkpoint("v7", n_layer=2, n_embd=32, head_size=8, vocab_size=40)
ARRAYS, SETTINGS = to_gguf(RAW, "v7")
PARTS = gguf_parts(ARRAYS, SETTINGS, 3)


def name(number, count=3):
    return f"model-{number:05}-of-{count:05}.gguf"


@pytest.fixture
def folder(tmp_path):
    for number, data in enumerate(PARTS, 1):
        write(tmp_path / name(number), data)
    return tmp_path


def refusal(path, kind=FormatError):
    with pytest.raises(kind) as error:
        read_raw(path)
    return str(error.value)


@pytest.mark.parametrize("given", [1, 2, 3])
def test_any_part_finds_the_others(folder, given):
    with open_source(folder / name(given)) as source:
        assert [os.path.basename(file.path) for file in source.files] == [
            name(i) for i in (1, 2, 3)
        ]
        assert source.path == str(folder / name(given))
        assert source.size == sum(len(part) for part in PARTS)
        assert source.about.architecture == "rwkv7"
    config, found = read_raw(folder / name(given))
    assert config["n_layer"] == 2
    np.testing.assert_array_equal(found["head.weight"], RAW["head.weight"])


def test_the_folder_of_the_parts(folder):
    assert list(read_plain(folder)) == list(ARRAYS)


@pytest.mark.parametrize("given", [1, 3])
def test_a_missing_part_is_named(folder, given):
    os.remove(folder / name(2))
    message = refusal(folder / name(given))
    assert f"{name(given)} is part {given} of 3, and part 2 is not beside it: no file" in message
    assert message.endswith("put all parts into one folder, under the names that they had")


def test_a_part_under_another_name(folder):
    os.rename(folder / name(1), folder / "first.gguf")
    assert (
        "first.gguf is part 1 of 3, but its name does not end in -00001-of-00003.gguf"
        in refusal(folder / "first.gguf")
    )


def test_a_part_of_another_model(folder):
    write(folder / name(2), PARTS[2])
    assert f"{name(2)} should be part 2 of 3, but is part 3 of 3" in refusal(folder / name(1))
    write(folder / name(2), gguf(ARRAYS, SETTINGS))
    assert f"{name(2)} should be part 2 of 3, but is part 1 of 1" in refusal(folder / name(1))


def test_tensors_of_two_parts_of_one_name(folder):
    again = {"split.no": 1, "split.count": 3, "split.tensors.count": len(ARRAYS)}
    write(folder / name(2), gguf({"output.weight": ARRAYS["output.weight"]}, again))
    assert "two tensors are named 'output.weight'" in refusal(folder / name(1))


def test_another_number_of_tensors(folder):
    again = {"split.no": 1, "split.count": 3, "split.tensors.count": len(ARRAYS)}
    write(folder / name(2), gguf({"output_norm.bias": ARRAYS["output_norm.bias"]}, again))
    write(folder / name(3), gguf({}, {**again, "split.no": 2}))
    assert f"have 1 tensors, but the model has {len(ARRAYS)}" in refusal(folder / name(1))


def test_counts_have_limits(tmp_path):
    for number, count in ((0, 129), (5, 2)):
        said = {**SETTINGS, "split.no": number, "split.count": count}
        path = write(tmp_path / name(number + 1, count), gguf(ARRAYS, said))
        assert f"part {number + 1} of {count}, but one of at most 128 parts" in refusal(path)
    said = {**SETTINGS, "split.no": "a", "split.count": 2}
    path = write(tmp_path / name(1, 2), gguf(ARRAYS, said))
    assert "the setting 'split.no' is 'a', not a whole number" in refusal(path)


def test_another_architecture_in_parts(tmp_path):
    said = {"general.architecture": "llama", "split.no": 0, "split.count": 1}
    path = write(tmp_path / name(1, 1), gguf(ARRAYS, said))
    assert "has the architecture 'llama', not rwkv6 or rwkv7" in refusal(path, UnsupportedError)


def test_all_files_are_closed_after_a_refusal(folder):
    # A handle left open would be a ResourceWarning, which the tests make an error.
    write(folder / name(3), PARTS[2][:-40])
    assert f"{name(3)}: tensor " in refusal(folder / name(1))
