"""Recovery by distillation: the student, the training, and that it can be interrupted."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra train (torch) is not installed")

from converters import cli
from converters.read.open import open_source
from converters.recover import unfinished
from converters.recover.base import read_base
from converters.recover.body import FROZEN, body
from converters.recover.recover import recover
from converters.recover.settings import Settings
from converters.recover.start import Given, fit_groups, read_given, starts
from converters.recover.student import Student
from converters.techniques.on_grid import exact_rows
from converters.write.convert import convert
from tests.helpers.conversions import TEXT, write_files
from tinyrwkv.errors import ArgumentError, FormatError
from tinyrwkv.file import int4
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.quant import dequantize

QUICK = Settings(minutes=1000, steps=12, batch=2, samples=0, rounding=0.02, scales=3e-3)


@pytest.fixture(params=["v5.2", "v6", "v7"])
def files(request, tmp_path):
    return write_files(tmp_path, request.param)


@pytest.fixture
def v5(tmp_path):
    return write_files(tmp_path)


def quiet(stage, done, total):
    pass


def trained(files, settings=QUICK, **others):
    base = read_base(files["model.pth"])
    options = {"text": TEXT, "vocab": files["vocab.txt"], "tell": quiet, **others}
    return base, recover(base, settings, **options)


def made_student(files, values="neurons"):
    base = read_base(files["model.pth"])
    weights = {name: torch.from_numpy(one) for name, one in base.tensors.items()}
    matrices = body(base.tensors, values)
    return base, Student(weights, starts(base.tensors, matrices, "cpu"), matrices)


def test_training_brings_the_student_nearer(files):
    base, found = trained(files)
    report = found.about["report"]
    assert 0 < report["kl_after"] < 0.8 * report["kl_before"]
    assert report["steps"] == 12
    assert report["tokens"] == 12 * 2 * 512
    changed = found.tensors(base)
    assert list(changed) == list(base.tensors)
    for name, array in base.tensors.items():
        assert changed[name].shape == array.shape
        assert np.array_equal(changed[name], array) == bool(FROZEN.fullmatch(name))


def test_without_a_text_the_checkpoint_writes_all(v5):
    _, found = trained(v5, QUICK._replace(samples=4, steps=2), text=None, vocab=None)
    report = found.about["report"]
    assert (report["windows_of_text"], report["windows_of_samples"]) == (0, 4)
    assert report["kl_after"] > 0


def test_the_weight_of_improbable_tokens_reaches_the_training(v5):
    found = [trained(v5, QUICK._replace(steps=2, rare=rare))[1].about for rare in (0.0, 10.0)]
    assert found[0]["report"]["kl_before"] == found[1]["report"]["kl_before"]
    assert found[0]["report"]["kl_after"] != found[1]["report"]["kl_after"]


def test_few_neurons_and_the_streams_may_count(v5):
    _, found = trained(v5, QUICK._replace(keep=0.1, hidden=1.0, samples=2, steps=40))
    report = found.about["report"]
    assert report["kl_after"] < report["kl_before"]
    assert report["kl_before"] > trained(v5)[1].about["report"]["kl_before"]


@pytest.mark.parametrize("values", ["neurons", "rows"])
def test_the_student_computes_with_what_a_file_has(v5, values):
    base, student = made_student(v5, values)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in student.parameters().items():
            if ":" in name:
                parameter += 0.2 * torch.randn(parameter.shape, generator=random)
    matrices = body(base.tensors, values)
    # 224 values in a row are no whole groups: they stay as they are
    assert ("blocks.0.ffn.value.weight" in matrices) == (values == "neurons")
    weights, packed = student.weights(), student.rows()
    for name, transposed in matrices.items():
        found = weights[name].detach().numpy()
        rows = int4.dequantize(packed[name])
        np.testing.assert_array_equal(found.T if transposed else found, rows)


def test_the_start_is_the_checkpoint_rounded(v5):
    base, student = made_student(v5)
    weights = student.weights()
    for name in student.grids:
        found, expected = weights[name].detach().numpy(), base.tensors[name]
        assert np.abs(found - expected).max() < 0.3 * np.abs(expected).max()
        assert np.square(found - expected).mean() < 0.01 * np.square(expected).mean()


def test_the_start_clips_where_that_is_better():
    groups = torch.linspace(-1, 1, 64).reshape(1, 1, 64).clone()
    scale, zero = fit_groups(groups)
    assert 0 < scale.item() <= 2 / 15
    assert zero.item() in (7, 8)
    scale, zero = fit_groups(torch.zeros(2, 1, 64))  # no scale of 0, which would be divided by
    assert (scale > 0).all()


def student_from(base, given, values="neurons"):
    weights = {name: torch.from_numpy(one) for name, one in base.tensors.items()}
    matrices = body(base.tensors, values)
    return Student(weights, starts(base.tensors, matrices, "cpu", given), matrices)


def start_of(files, path, *options):
    """Write a model in int4 from a checkpoint; return its path."""
    command = [files["model.pth"], str(path), "--vocab", files["vocab.txt"], "--dtype", "int4"]
    assert cli.main([*command, "--calibrate", files["text.txt"], "--quiet", *options]) == 0
    return str(path)


def test_a_given_start_keeps_its_levels(v5):
    base = read_base(v5["model.pth"])
    name = "blocks.0.att.key.weight"
    q, s, z = int4.unpack(student_from(base, None).rows()[name])
    s[3] = 0
    rows = int4.pack(q ^ 1, s, z)  # other levels, still near
    found = student_from(base, Given({name: rows})).weights()[name].detach().numpy()
    assert np.abs(found[3]).max() < 1e-5  # a scale above 0, which may grow
    expected = np.delete(int4.dequantize(rows), 3, 0)
    np.testing.assert_array_equal(np.delete(found, 3, 0), expected)


@pytest.mark.parametrize("form", [None, "exact", "predict"])
@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"n_embd": 128}, r"another shape of blocks\.0\."),
        ({"n_layer": 3}, r"has the matrix blocks\.2\."),
        ({"n_ffn": 128}, r"another shape of blocks\.0\.ffn"),
        ({"seed": 7}, r"has another blocks\.0\.\S+ than the checkpoint: it is off by"),
    ],
)
def test_a_start_from_another_checkpoint_is_refused(tmp_path, v5, sizes, told, form):
    (tmp_path / "other").mkdir()
    other = write_files(tmp_path / "other", **sizes)
    options = ["--sparse-ffn", form] if form else []
    start = start_of(other, tmp_path / "start.trwkv", *options)
    with pytest.raises(FormatError, match=told):
        trained(v5, start=start)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_start_with_scales_that_are_no_numbers_is_refused(v5, bad):
    base = read_base(v5["model.pth"])
    name = "blocks.0.att.key.weight"
    q, s, z = int4.unpack(student_from(base, None).rows()[name])
    s[5] = bad
    with pytest.raises(FormatError, match="that are no numbers"):
        student_from(base, Given({name: int4.pack(q, s, z)}))


DEAD = [3, 50, 51]


def kill_neurons(files):
    """Set the keys and values of some neurons of a checkpoint to 0; return the checkpoint."""
    raw = torch.load(files["model.pth"], weights_only=True)
    for name, one in raw.items():
        if name.endswith("ffn.key.weight"):
            one[DEAD] = 0
        elif name.endswith("ffn.value.weight"):
            one[:, DEAD] = 0
    torch.save(raw, files["model.pth"])
    return read_base(files["model.pth"])


@pytest.mark.parametrize("form", ["exact", "predict"])
def test_a_sparse_start_has_its_neurons_in_the_order_of_the_checkpoint(files, tmp_path, form):
    """What training begins with is what the file computes with, each neuron in its own place."""
    base = kill_neurons(files)
    given = read_given(start_of(files, tmp_path / "start.trwkv", "--sparse-ffn", form))
    student, nearest = student_from(base, given), student_from(base, None)
    for name, rows in student.rows().items():
        if name.replace("key", "value") not in given.by_neuron:
            np.testing.assert_array_equal(rows, given.rows[name])
        else:  # sorted there
            live = np.delete(rows, DEAD, 0)
            assert {row.tobytes() for row in live} <= {row.tobytes() for row in given.rows[name]}
            found, exact = (int4.dequantize(each) for each in (rows, nearest.rows()[name]))
            assert np.square(found - exact).mean() < 0.1 * np.square(exact).mean()
            assert np.abs(found[DEAD]).max() < 1e-6
    by_rows = student_from(base, given, "rows")  # the values are rounded anew
    key = "blocks.1.ffn.key.weight"
    np.testing.assert_array_equal(by_rows.rows()[key], student.rows()[key])


@pytest.mark.parametrize("values", ["neurons", "rows"])
def test_values_by_rows_are_not_taken_for_neurons(tmp_path, values):
    files = write_files(tmp_path, n_ffn=64)  # as many neurons as channels
    base, given = read_base(files["model.pth"]), read_given(start_of(files, tmp_path / "a.trwkv"))
    found = student_from(base, given, values).weights()
    for name in body(base.tensors, values):
        error = np.square(found[name].detach().numpy() - base.tensors[name]).mean()
        assert error < 0.1 * np.square(base.tensors[name]).mean()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_missed(v5):
    with pytest.raises(ArgumentError, match="--device cuda needs a GPU"):
        trained(v5, device="cuda")


def test_there_must_be_something_to_train_on(v5):
    with pytest.raises(ArgumentError, match="nothing to train on"):
        trained(v5, QUICK._replace(samples=1), text=None)
    with pytest.raises(ArgumentError, match="needs a vocabulary"):
        trained(v5, vocab=None)


def test_a_start_without_int4_is_refused(v5, tmp_path):
    convert(v5["model.pth"], tmp_path / "a.trwkv")
    with pytest.raises(FormatError, match="has no matrices of layers in int4"):
        trained(v5, start=str(tmp_path / "a.trwkv"))


def test_gradients_stop_where_a_weight_is_clipped(v5):
    _, student = made_student(v5)
    grid = student.grids["blocks.0.att.key.weight"]
    with torch.no_grad():
        grid.steps[:] = 0.3
        grid.zero[:] = 5
        grid.steps[0, 0, :2] = torch.tensor([100.0, -100.0])
    grid.weight().sum().backward()
    scale = grid.exact_scale().expand_as(grid.steps)
    assert grid.steps.grad[0, 0, :2].tolist() == [0, 0]
    torch.testing.assert_close(grid.steps.grad[0, 0, 2:], scale[0, 0, 2:])
    # s grows by log: s * sum(q - z); z moves both ends of what is clipped
    torch.testing.assert_close(grid.growth.grad[0, 0], scale[0, 0, :1] * (10 - 5))
    torch.testing.assert_close(grid.zero.grad[0, 0], -2 * scale[0, 0, :1])


def test_converting_the_result_keeps_its_levels(files, tmp_path):
    output = str(tmp_path / "better.safetensors")
    arguments = [files["model.pth"], output, "--vocab", files["vocab.txt"], "--device", "cpu"]
    arguments += ["--calibrate", files["text.txt"], "--steps", "2", "--samples", "0", "--quiet"]
    assert cli.main(["recover", *arguments, "--batch", "1"]) == 0
    again = read_base(output)
    for name, transposed in body(again.tensors, "neurons").items():
        matrix = again.tensors[name]
        rows = exact_rows(matrix.T if transposed else matrix)
        assert rows is not None
        back = int4.dequantize(rows)
        np.testing.assert_array_equal(back.T if transposed else back, matrix)
    model = str(tmp_path / "better.trwkv")
    convert(output, model, "f32")
    with open_file(model) as file:
        weights = dequantize(file)
    for name in body(again.tensors, "neurons"):
        np.testing.assert_array_equal(weights[name], again.tensors[name])


def test_frozen_weights_stay_as_small_as_they_were(v5, tmp_path):
    base, found = trained(v5, QUICK._replace(steps=1))
    base = base._replace(tensors={**base.tensors, "emb.weight": np.ones((300, 64), np.float32)})
    from converters.recover.write_checkpoint import write_checkpoint

    path = str(tmp_path / "a.safetensors")
    write_checkpoint(path, found.tensors(base), {})
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header["emb.weight"]["dtype"] == "BF16"
    assert header["head.weight"]["dtype"] == "F32"
    with open_source(path) as source:
        for name, array in found.tensors(base).items():
            np.testing.assert_array_equal(source.tensors[name].load(), array)


class Stopped(Exception):
    pass


def test_an_interrupted_training_goes_on(v5, tmp_path, monkeypatch):
    path = str(tmp_path / "a.training")
    settings = QUICK._replace(samples=2, keep=0.3)
    _, whole = trained(v5, settings)
    monkeypatch.setattr(unfinished, "EVERY", -1.0)  # after every step

    def stop(stage, done, total):
        if stage.startswith("train") and done >= 500:
            raise Stopped

    with pytest.raises(Stopped):
        trained(v5, settings, unfinished_path=path, tell=stop)
    _, resumed = trained(v5, settings, unfinished_path=path)
    assert resumed.about["report"]["kl_after"] == whole.about["report"]["kl_after"]
    for name, rows in whole.rows.items():
        np.testing.assert_array_equal(resumed.rows[name], rows)
    assert not (tmp_path / "a.training").exists()


def test_an_unfinished_training_of_something_else_is_refused(v5, tmp_path, monkeypatch):
    path = str(tmp_path / "a.training")
    monkeypatch.setattr(unfinished, "EVERY", -1.0)

    def stop(stage, done, total):
        if stage.startswith("train") and done > 100:
            raise Stopped

    with pytest.raises(Stopped):
        trained(v5, unfinished_path=path, tell=stop)
    with pytest.raises(FormatError, match="with another --seed: 0, not 1"):
        trained(v5, QUICK._replace(seed=1), unfinished_path=path)
    with pytest.raises(FormatError, match="another calibration text"):
        trained(v5, unfinished_path=path, text=TEXT[:-3000])
    data = (tmp_path / "a.training").read_bytes()
    (tmp_path / "a.training").write_bytes(data[:-100])
    with pytest.raises(FormatError, match="damaged"):
        trained(v5, unfinished_path=path)
    (tmp_path / "a.training").write_text("my notes")
    with pytest.raises(Exception, match="is not an unfinished training"):
        trained(v5, unfinished_path=path)
    assert (tmp_path / "a.training").read_text() == "my notes"
