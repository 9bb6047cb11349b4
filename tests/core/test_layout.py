"""The list of tensors: what each version uses, in an order and with shapes that fit."""

from __future__ import annotations

import pathlib
import struct
import zlib

import numpy as np
import pytest

import tinyrwkv
from tests.helpers.tiny_models import preview, rewrite, shape_of, write_model, write_tensors
from tests.helpers.work import steps
from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.table import FILE_PAGE
from tinyrwkv.kernels import abi
from tinyrwkv.versions import reference
from tinyrwkv.versions.forms import DEEP_TABLE, LIKE_V7, SHIFTED
from tinyrwkv.versions.layout import VERSIONS, check_tensors, tensor_shapes

RANKS = {"low": 8, "5 low": 40, "low w": 7, "low a": 5, "low g": 3, "low v": 9}


def weights_of(config: dict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal([RANKS[n] if isinstance(n, str) else n for n in shape]).astype(
            np.float32
        )
        * np.float32(0.3)
        for name, shape in tensor_shapes(config).items()
    }


@pytest.mark.parametrize("arch", VERSIONS)
def test_the_reference_uses_every_tensor_and_needs_no_other(arch):
    config = shape_of(arch, vocab=5, width=32, ffn=24)
    weights, state = weights_of(config), reference.new_state(config)
    state = reference.forward(weights, config, 1, state)[
        1
    ]  # any other tensor it needs would be a KeyError
    for name in weights:
        poisoned = weights | {name: np.full_like(weights[name], np.nan)}
        with np.errstate(all="ignore"):
            logits, after = reference.forward(poisoned, config, 2, state)
        assert np.isnan(logits).any() or np.isnan(after).any(), f"{name} changes nothing"


@pytest.mark.parametrize("arch", VERSIONS)
def test_the_order_is_that_of_use(arch):
    names = list(tensor_shapes(shape_of(arch, layers=3)))
    deep = [DEEP_TABLE] if arch in ("v7a", "v8-rc00") else []
    assert names[0] == "emb.weight" and names[-1 - len(deep) :] == ["head.weight", *deep]
    layers = [int(name.split(".")[1]) for name in names if name.startswith("blocks.")]
    assert layers == sorted(layers) and set(layers) == {0, 1, 2}
    first = [name.removeprefix("blocks.0.") for name in names if name.startswith("blocks.0.")]
    assert (
        first.index("ln1.weight")
        < first.index("att.output.weight")
        < first.index("ln2.weight")
        < first.index("ffn.key.weight")
    )


@pytest.mark.parametrize("arch", VERSIONS)
def test_matrices_are_out_by_in(arch):
    shapes = tensor_shapes(shape_of(arch))
    assert shapes["emb.weight"] == shapes["head.weight"] == (300, 64)
    assert shapes["blocks.1.ffn.key.weight"] == (96, 64) and shapes[
        "blocks.1.ffn.value.weight"
    ] == (64, 96)
    assert shapes["blocks.0.att.token_shift"] == (len(SHIFTED[arch]), 64)
    assert ("blocks.0.ffn.receptance.weight" in shapes) == (arch not in LIKE_V7)
    assert ("blocks.0.att.gate.weight" in shapes) == (arch in ("v5.1", "v5.2", "v6"))


def test_only_v7_has_a_gate_of_values_and_not_in_layer_0():
    shapes = tensor_shapes(shape_of("v7"))
    assert "blocks.0.att.v0" not in shapes and shapes["blocks.1.att.v0"] == (64,)
    assert shapes["blocks.1.att.v1.weight"] == ("low v", 64) and shapes[
        "blocks.1.att.v2.weight"
    ] == (64, "low v")
    assert "blocks.0.att.v1.weight" not in shapes and "blocks.0.att.g0" not in shapes


@pytest.mark.parametrize("arch", VERSIONS)
def test_a_hostile_number_of_layers_stays_small(arch):
    config = shape_of(arch, layers=1 << 12)
    assert len(tensor_shapes(config)) < 160_000


def test_a_page_of_bundles_is_a_page_of_the_file():
    assert abi.PAGE == FILE_PAGE


# Versions of the format.


def version_of(path: str) -> tuple[int, int]:
    return struct.unpack_from("<HH", pathlib.Path(path).read_bytes(), 8)


def with_minor(path: str, minor: int) -> str:
    """Give a file another minor version, as if an older or newer program had written it."""
    contents = bytearray(pathlib.Path(path).read_bytes())
    struct.pack_into("<H", contents, 10, minor)
    struct.pack_into("<I", contents, 60, zlib.crc32(contents[:60]))
    pathlib.Path(path).write_bytes(contents)
    return path


def ids_instead_of_places(metadata, tensors):
    tensors["head.ids"] = np.argsort(tensors.pop("head.places")).astype(np.int32)


def signs_in_rows(metadata, tensors):
    tensors["blocks.0.ffn.predictor.signs"] = np.zeros((96, 8), np.uint8)


def same(metadata, tensors):
    pass


def test_new_files_have_the_new_minor(tiny, tmp_path):
    assert version_of(rewrite(tiny("v7"), tmp_path / "a.trwkv", same)) == (1, 4)


@pytest.mark.parametrize("minor", [0, 1, 2, 3])
@pytest.mark.parametrize("form", ["dense", "compressed", "predicted", "previewed"])
def test_files_of_earlier_versions_stay_readable(tiny, tmp_path, form, minor):
    path = tiny("v7", "int8", form)
    older = with_minor(rewrite(path, tmp_path / "a.trwkv", same), minor)
    found, expected = (
        tinyrwkv.load(name, backend="numpy").forward([3, 7]) for name in (older, path)
    )
    assert found[0].tobytes() == expected[0].tobytes()
    assert found[1].data.tobytes() == expected[1].data.tobytes()


def places_of_four_bytes(metadata, tensors):
    tensors["head.places"] = tensors["head.places"].astype(np.int32)


def test_places_of_version_1_1_stay_readable(tiny, tmp_path, backend):
    path = tiny("v7", "int8", "previewed")
    older = with_minor(rewrite(path, tmp_path / "a.trwkv", places_of_four_bytes), 1)
    logits, touched = [], []
    for name, dtype in ((path, "u16"), (older, "i32")):
        model = tinyrwkv.load(name, backend=backend)
        assert model.file.tensors["head.places"].dtype == dtype
        logits.append(model.forward([3, 7])[0])
        touched.append(model.plan()["touched_bytes_per_token"])
    assert logits[0].tobytes() == logits[1].tobytes()
    assert touched[1] - touched[0] == 2 * model.config["vocab_size"]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_places_of_another_type_are_refused(tiny, tmp_path, dtype):
    def change(metadata, tensors):
        tensors["head.places"] = tensors["head.places"].astype(dtype)

    path = rewrite(tiny("v7", "int8", "previewed"), tmp_path / "a.trwkv", change)
    with pytest.raises(FormatError, match=r"'head\.places' must be u16 or i32 \(300,\), not "):
        tinyrwkv.load(path, backend="numpy")


def test_places_too_short_for_the_vocabulary_are_refused(tmp_path):
    """In 16 bits the rows from 65,536 on would count as the first ones again."""

    def change(metadata, tensors):
        preview(metadata, tensors)
        assert tensors["head.places"].dtype == np.int32
        tensors["head.places"] = tensors["head.places"].astype(np.uint16)

    config = shape_of("v7", layers=1, vocab=65537, width=32, ffn=16)
    dense = write_model(tmp_path / "dense.trwkv", config, "int8")
    path = rewrite(dense, tmp_path / "a.trwkv", change)
    with pytest.raises(FormatError, match="every row once"):
        tinyrwkv.load(path, backend="numpy")


def test_the_bundled_model_is_readable():
    model = tinyrwkv.load(backend="numpy")
    assert version_of(model.path) <= (1, 2)
    check_tensors(model.file)


@pytest.mark.parametrize(
    ("form", "change"), [("previewed", ids_instead_of_places), ("predicted", signs_in_rows)]
)
def test_compressed_forms_of_earlier_versions_are_refused_by_name(tiny, tmp_path, form, change):
    path = rewrite(tiny("v7", "int8", form), tmp_path / "a.trwkv", change)
    with pytest.raises(UnsupportedError) as caught:
        tinyrwkv.load(with_minor(path, 0), backend="numpy")
    assert str(caught.value) == (
        f"{path} was compressed by an earlier version of tinyrwkv; convert the checkpoint again"
    )


@pytest.mark.parametrize(("minor", "fix"), [(4, "convert the checkpoint"), (5, "update tinyrwkv")])
def test_an_unknown_tensor_may_be_of_a_newer_version(tiny, tmp_path, minor, fix):
    def more(metadata, tensors):
        tensors["head.places"] = np.zeros(300, np.int32)

    path = with_minor(rewrite(tiny("v7"), tmp_path / "a.trwkv", more), minor)
    with open_file(path) as file, pytest.raises(FormatError) as caught:
        check_tensors(file)
    assert str(caught.value).startswith(f"{path}: v7 models have no tensor 'head.places'; ")
    assert fix in str(caught.value)


@pytest.mark.parametrize("arch", VERSIONS)
def test_a_small_file_that_announces_many_layers_is_refused_at_once(tmp_path, arch):
    few = {"emb.weight": np.zeros((4, 32), np.float32)}
    work = []
    for layers in (1, 4096):
        config = {**shape_of(arch, layers, width=32, vocab=4), "dtype": "f32"}
        with open_file(write_tensors(tmp_path / f"{layers}", config, few)) as file:

            def refuse(file=file):
                with pytest.raises(FormatError, match=r"'blocks\.0\.ln1\.weight' is missing"):
                    check_tensors(file)

            work.append(steps(refuse))
    assert work[1] < 1.1 * work[0]


@pytest.mark.parametrize("limit", [None, 1 << 24])
def test_the_work_of_loading_and_planning_grows_like_the_layers(tmp_path, linux, limit):
    work = []
    for layers in (30, 60):
        path = write_model(tmp_path / f"{layers}", shape_of("v4", layers, 8, 4, ffn=8), "f32")

        def load(path=path):
            tinyrwkv.load(path, backend="numpy", resident_limit=limit).plan()

        work.append(steps(load))
    assert work[1] < 2.5 * work[0]  # four times, if each layer looked at all others
