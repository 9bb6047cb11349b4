"""Verification finds weights that are no numbers; no text is made from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinyrwkv
from tests.helpers.tiny_models import DTYPES, read_tensors, rewrite, write_tensors
from tinyrwkv.cli.cli import main
from tinyrwkv.errors import FormatError, TinyRWKVError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.verify import verify
from tinyrwkv.versions.layout import VERSIONS

NUMBERS = (np.nan, np.inf, -np.inf)
FORMS = [(dtype, "dense") for dtype in DTYPES]
FORMS += [
    ("int8", form) for form in ("compressed", "predicted", "networked", "previewed", "sorted")
]
FORMS += [("int4", "sorted")]


@pytest.mark.parametrize(("dtype", "form"), FORMS)
@pytest.mark.parametrize("arch", VERSIONS)
def test_good_files_are_good(tiny, arch, dtype, form):
    with open_file(tiny(arch, dtype, form)) as file:
        verify(file)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arch", [one for one in VERSIONS if one != "v7a"])  # it is large
def test_a_weight_that_is_no_number_is_named(tmp_path, tiny, arch, dtype, number):
    metadata, tensors = read_tensors(tiny(arch, dtype))
    names = [name for name, array in tensors.items() if array.dtype in (np.float32, np.float16)]
    assert {
        "f32": "blocks.1.ffn.key.weight",
        "f16": "emb.weight",
        "int8": "head.weight.scale",
        "int4": "blocks.1.ffn.value.weight.scale",
    }[dtype] in names
    for name in names:
        array = tensors[name].copy()
        array.flat[array.size // 2] = number
        path = write_tensors(tmp_path / "a.trwkv", metadata, tensors | {name: array})
        with (
            open_file(path) as file,
            pytest.raises(FormatError, match=f"'{name}' holds {number} at number"),
        ):
            verify(file)
    with pytest.raises(FormatError, match="finite numbers"):
        tinyrwkv.load(path, backend="numpy", verify=True)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("form", ["dense", "compressed", "predicted", "previewed"])
def test_a_scale_of_int4_that_is_no_number_is_named(tmp_path, tiny, form, number):
    metadata, tensors = read_tensors(tiny("v7", "int4", form))
    names = ["emb.weight", "blocks.1.ffn.value.rows", "blocks.1.ffn.bundles", "head.rows.weight"]
    found = [name for name in names if name in tensors]
    assert len(found) == {"dense": 1}.get(form, 2)
    for name in found:
        array = tensors[name].copy()
        scale = np.array([number], "<f2").view(np.uint8)
        array[len(array) // 2, 32:34] = scale  # of the only group of a row of 64 weights
        changed = tensors | {name: array}
        path = write_tensors(tmp_path / "a.trwkv", metadata, changed)
        row = f"a scale of {number} in row {len(array) // 2}"
        with open_file(path) as file, pytest.raises(FormatError, match=f"'{name}' holds {row}"):
            verify(file)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_scale_of_a_deep_embedding_that_is_no_number_is_named(tmp_path, tiny, number):
    def change(metadata, tensors):
        tensors["deep_emb.table"][150, 1, -4:] = np.array([number], "<f4").view(np.uint8)

    path = rewrite(tiny("v7a"), tmp_path / "a.trwkv", change)
    with open_file(path) as file, pytest.raises(FormatError) as caught:
        verify(file)
    assert f"'deep_emb.table' holds a scale of {number} in row 150" in str(caught.value)


@pytest.mark.parametrize("shape", [(7,), (3, 1), (3, 34), (2, 3, 4), (2, 2, 35), (1, 1, 1, 9)])
@pytest.mark.parametrize("name", ["a.weight", "a.rows", "blocks.0.ffn.bundles", "deep_emb.table"])
@pytest.mark.parametrize("width", [8, 64])
def test_packed_numbers_of_any_shape_end_no_verification(tmp_path, name, shape, width):
    """Which shape they must have depends on the model, so loading it refuses them."""
    sizes = {"arch": "v7a", "n_layer": 1, "n_embd": width, "n_head": 1, "head_size": width}
    array = np.zeros(shape, np.uint8)
    path = write_tensors(
        tmp_path / "a.trwkv", {"kind": "state", "model": 64 * "0", **sizes}, {name: array}
    )
    with open_file(path) as file:
        verify(file)


def test_a_number_far_into_a_tensor_is_found(tmp_path):
    sizes = {"arch": "v7", "n_layer": 1, "n_embd": 4, "n_head": 1, "head_size": 4}
    array = np.zeros(1_000_000, np.float16)
    array[[777_777, 888_888]] = np.nan
    path = write_tensors(
        tmp_path / "a.trwkv", {"kind": "state", "model": 64 * "0", **sizes}, {"state": array}
    )
    with open_file(path) as file, pytest.raises(FormatError, match="holds nan at number 777,777"):
        verify(file)


def test_a_threshold_may_be_infinite_but_not_nan(tmp_path, tiny):
    for number in NUMBERS:

        def change(metadata, tensors, number=number):
            tensors["blocks.0.ffn.predictor.threshold"][0] = number

        with open_file(
            rewrite(tiny("v7", "int8", "predicted"), tmp_path / "a.trwkv", change)
        ) as file:
            if math.isinf(number):
                verify(file)
            else:
                with pytest.raises(FormatError, match="threshold"):
                    verify(file)


def test_the_command_finds_it(tmp_path, tiny, capsys):
    def change(metadata, tensors):
        tensors["head.weight"][7, 3] = np.inf

    path = rewrite(tiny("v7", "f16"), tmp_path / "a.trwkv", change)
    assert main(["verify", path]) != 0
    assert "'head.weight' holds inf" in capsys.readouterr().err


@pytest.mark.parametrize("number", NUMBERS)
def test_no_text_is_made_of_logits_that_are_no_numbers(tmp_path, tiny, backend, number):
    """Also where a single one is -inf, which a sampler takes for a token that is not allowed."""

    def change(metadata, tensors):
        tensors["head.weight.scale"][[5, 9]] = number, -number

    model = tinyrwkv.load(
        rewrite(tiny("v7", "int8"), tmp_path / "a.trwkv", change), backend=backend
    )
    with pytest.raises(TinyRWKVError, match="the model computed nan or infinity as logits; "):
        list(model.generate([1, 2], max_tokens=1))
