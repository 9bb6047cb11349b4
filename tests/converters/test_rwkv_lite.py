"""Checkpoints of RWKV-Lite: factors "5.8", and the form "5.9" with relu^2 and a diagonal."""

from __future__ import annotations

import numpy as np
import pytest

from converters import cli
from converters.write.convert import convert
from tests.helpers.checkpoint_files import safetensors, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import write_pth
from tests.helpers.tiny_models import BOUNDS, Oracle, error
from tinyrwkv import load
from tinyrwkv.errors import FormatError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.quant import quantize_rows
from tinyrwkv.file.verify import open_verified

PROJECTIONS = [f"att.{name}" for name in ("receptance", "key", "value", "gate")] + [
    "ffn.receptance"
]
IDS = [0, 7, 30, 2, 2, 39]


def lite(form: str, version: str = "v5.2") -> dict[str, np.ndarray]:
    """Return a tiny checkpoint of RWKV-Lite as a dense one with other projections."""
    random = np.random.default_rng(1)
    raw = raw_checkpoint(version, n_layer=2, n_embd=64, head_size=16, vocab_size=40)
    for layer in range(2):
        for name in PROJECTIONS:
            matrix = f"blocks.{layer}.{name}"
            if raw.pop(f"{matrix}.weight", None) is None:
                continue
            raw[f"{matrix}1.weight"] = (
                random.standard_normal((8 + layer, 64)).astype(np.float32) / 8
            )
            raw[f"{matrix}2.weight"] = (
                random.standard_normal((64, 8 + layer)).astype(np.float32) / 3
            )
            if form == "5.9":
                raw[f"{matrix}_diag"] = random.standard_normal(64).astype(np.float32)
    return raw


def project(raw: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    """Return what RWKV-Lite's own code does with one projection."""
    low = raw[f"{name}1.weight"] @ x
    if f"{name}_diag" in raw:
        return raw[f"{name}2.weight"] @ np.maximum(low, 0) ** 2 + raw[f"{name}_diag"] * x
    return raw[f"{name}2.weight"] @ low


@pytest.mark.parametrize("form", ["5.8", "5.9"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "int8"])
def test_factors_go_into_the_file(tmp_path, form, dtype):
    raw = lite(form)
    write_pth(tmp_path / "a.pth", raw)
    report = convert(tmp_path / "a.pth", tmp_path / "a.trwkv", dtype=dtype)
    assert report["arch"] == "v5.2"
    with open_verified(tmp_path / "a.trwkv") as file:
        for layer in range(2):
            for name in PROJECTIONS:
                matrix = f"blocks.{layer}.{name}"
                assert f"{matrix}.weight" not in file
                assert (f"{matrix}.diag" in file) == (form == "5.9")
                for end, number in ((".a", 1), (".b", 2)):
                    expected = raw[f"{matrix}{number}.weight"]
                    if dtype == "int8":
                        q, scale = quantize_rows(expected)
                        np.testing.assert_array_equal(file[f"{matrix}.weight{end}"], q)
                        np.testing.assert_array_equal(file[f"{matrix}.weight{end}.scale"], scale)
                    else:
                        np.testing.assert_array_equal(
                            file[f"{matrix}.weight{end}"], expected.astype(file_type(dtype))
                        )


def file_type(dtype: str) -> type:
    return {"f32": np.float32, "f16": np.float16}[dtype]


@pytest.mark.parametrize("version", ["v5.1", "v5.2", "v6", "v7"])
@pytest.mark.parametrize("form", ["5.8", "5.9"])
@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_the_engine_runs_them(tmp_path, version, form, dtype):
    write_pth(tmp_path / "a.pth", lite(form, version))
    convert(tmp_path / "a.pth", tmp_path / "a.trwkv", dtype=dtype)
    model = load(tmp_path / "a.trwkv")
    assert (
        error(model.forward(IDS, logits="all")[0], Oracle(tmp_path / "a.trwkv").run(IDS)[0])
        < BOUNDS[dtype]
    )


@pytest.mark.parametrize("form", ["5.8", "5.9"])
def test_the_reference_projects_as_rwkv_lite(tmp_path, form):
    from tinyrwkv.file import quant
    from tinyrwkv.versions import reference

    raw = lite(form)
    write_pth(tmp_path / "a.pth", raw)
    convert(tmp_path / "a.pth", tmp_path / "a.trwkv", dtype="f32")
    with open_file(tmp_path / "a.trwkv") as file:
        weights = quant.dequantize(file)
    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    for part, name in (name.split(".") for name in PROJECTIONS):
        found = reference.project(reference.part(weights, f"blocks.1.{part}."), name, x)
        np.testing.assert_allclose(
            found, project(raw, f"blocks.1.{part}.{name}", x), rtol=1e-4, atol=1e-5
        )


def test_other_formats_and_wrappers(tmp_path):
    raw = lite("5.9")
    write_pth(tmp_path / "a.pth", raw)
    convert(tmp_path / "a.pth", tmp_path / "a.trwkv")
    write(
        tmp_path / "b.safetensors",
        safetensors({f"_forward_module.{name}": x for name, x in raw.items()}),
    )
    convert(tmp_path / "b.safetensors", tmp_path / "b.trwkv")
    with open_file(tmp_path / "a.trwkv") as a, open_file(tmp_path / "b.trwkv") as b:
        assert list(a.tensors.values()) == list(b.tensors.values())


def test_a_float_file_again_in_int8(tmp_path):
    write_pth(tmp_path / "a.pth", lite("5.9"))
    convert(tmp_path / "a.pth", tmp_path / "f32.trwkv", dtype="f32")
    convert(tmp_path / "f32.trwkv", tmp_path / "two.trwkv")
    convert(tmp_path / "a.pth", tmp_path / "one.trwkv")
    with open_file(tmp_path / "one.trwkv") as one, open_file(tmp_path / "two.trwkv") as two:
        assert list(one.tensors) == list(two.tensors)
        assert all(tensor.crc32 == two.tensors[name].crc32 for name, tensor in one.tensors.items())


def test_its_predictors_are_left_out_and_said_so(tmp_path):
    raw = lite("5.8")
    raw |= {"head_l1.weight": np.ones((5, 64), np.float32)}
    raw |= {
        f"blocks.{i}.mlp.fc{j}.weight": np.ones((6, 64), np.float32) for i in (0, 1) for j in (1, 2)
    }
    write_pth(tmp_path / "a.pth", raw)
    report = convert(tmp_path / "a.pth", tmp_path / "a.trwkv")
    assert any("predictors were left out" in note for note in report["notes"])
    load(tmp_path / "a.trwkv")


def test_exact_values_besides(tmp_path):
    write_pth(tmp_path / "a.pth", lite("5.9"))
    assert cli.main([str(tmp_path / "a.pth"), str(tmp_path / "a.trwkv"), "--quiet"]) == 0
    assert (
        cli.main(
            [str(tmp_path / "a.pth"), str(tmp_path / "b.trwkv"), "--preset", "exact", "--quiet"]
        )
        == 0
    )
    a, b = (load(tmp_path / f"{name}.trwkv").forward(IDS, logits="all")[0] for name in "ab")
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda raw: raw.pop("blocks.1.att.key2.weight"),
            "1 is missing (blocks.1.att.key.weight.b)",
        ),
        (
            lambda raw: raw.update({"blocks.1.att.key.weight": np.ones((64, 64), np.float32)}),
            "1 is unknown",
        ),
        (
            lambda raw: raw.update({"blocks.0.att.key2.weight": np.ones((64, 5), np.float32)}),
            "shape (64, 5)",
        ),
        (lambda raw: raw.update({"blocks.0.att.key_diag": np.ones(5, np.float32)}), "shape (5,)"),
        (
            lambda raw: raw.update({"blocks.0.att.key1.weight": np.ones(64, np.float32)}),
            "blocks.0.att.key",
        ),
    ],
)
def test_incomplete_ones_are_refused(tmp_path, change, found):
    raw = lite("5.9")
    change(raw)
    write_pth(tmp_path / "a.pth", raw)
    with pytest.raises(FormatError) as error:
        convert(tmp_path / "a.pth", tmp_path / "a.trwkv")
    assert found in str(error.value)
