"""Whole conversions: what the file holds, what the report says, what a failure leaves: nothing."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc

import numpy as np
import pytest

from converters.read import source
from converters.write import deep_table
from converters.write.convert import convert
from tests.helpers.checkpoint_files import ggmf, gguf, gguf_parts, model_tensors, safetensors, write
from tests.helpers.checkpoints import DEEP, VERSIONS, raw_checkpoint
from tests.helpers.dialects import to_fla, to_ggmf, to_gguf
from tests.helpers.golden_files import read_golden
from tests.helpers.pth_writer import members, pickle_and_storages, write_pth, zip_archive
from tinyrwkv import load
from tinyrwkv.errors import ArgumentError, FormatError, TinyRWKVError
from tinyrwkv.file.header import MAGIC
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.quant import quantize_rows
from tinyrwkv.file.row_table import with_scales
from tinyrwkv.file.verify import open_verified
from tinyrwkv.versions.forms import DEEP_TABLE

SIZES = {"n_layer": 2, "n_embd": 32, "head_size": 8, "vocab_size": 300}
VOCAB = b"".join(f"{b + 1} {bytes([b])!r} 1\n".encode() for b in range(256))


@pytest.fixture
def checkpoint(tmp_path):
    def make(version="v7", **options):
        path = tmp_path / "model.pth"
        write_pth(path, raw_checkpoint(version, **SIZES), **options)
        return path

    return make


@pytest.fixture
def output(tmp_path):
    return tmp_path / "model.trwkv"


def is_matrix(name, x):
    return name.endswith(".weight") and x.ndim == 2


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["f32", "f16", "int8"])
def test_tensors(checkpoint, output, version, dtype):
    path = checkpoint(version, dtype="bf16")
    convert(path, output, dtype=dtype)
    with open_verified(output) as file:
        names = list(file.tensors)
        for name, x in model_tensors(path).items():
            if dtype == "int8" and is_matrix(name, x):
                q, scale = quantize_rows(x)
                np.testing.assert_array_equal(file[name], q)
                np.testing.assert_array_equal(file[name + ".scale"], scale)
                names.remove(name + ".scale")
            elif dtype == "int8" and name == DEEP_TABLE:
                rows = with_scales(*quantize_rows(x.reshape(-1, x.shape[-1])))
                np.testing.assert_array_equal(file[name].reshape(len(rows), -1), rows)
            else:
                narrow = dtype == "f16" and (is_matrix(name, x) or name == DEEP_TABLE)
                x = x.astype(np.float16) if narrow else x
                assert file[name].dtype == x.dtype
                np.testing.assert_array_equal(file[name], x)
            names.remove(name)
        assert not names


@pytest.mark.parametrize("version", DEEP)
def test_a_deep_embedding_against_the_formulas_in_torch(tmp_path, output, backend, version):
    golden = read_golden(version)
    write_pth(tmp_path / "golden.pth", golden.raw, dtype="bf16")
    convert(tmp_path / "golden.pth", output, dtype="f32")
    with load(output, backend=backend) as model:
        found, state = model.forward(golden.tokens, logits="all")
        for n, expected in golden.logits.items():
            assert np.abs(found[n - 1] - expected).max() <= 2e-4 * expected.std()
        np.testing.assert_allclose(state.data, golden.state, rtol=1e-4, atol=1e-4)


def test_a_table_of_floats_becomes_int8_later(tmp_path, checkpoint, output):
    """A copy of a float file has the same bytes as the conversion of the checkpoint."""
    path = checkpoint("v7a")
    convert(path, tmp_path / "f32.trwkv", dtype="f32")
    convert(tmp_path / "f32.trwkv", output, dtype="int8")
    convert(path, tmp_path / "int8.trwkv")
    with open_verified(output) as a, open_verified(tmp_path / "int8.trwkv") as b:
        assert a.tensors[DEEP_TABLE].dtype == "u8"
        assert a[DEEP_TABLE].tobytes() == b[DEEP_TABLE].tobytes()


@pytest.mark.parametrize("version", ["v6", "v8-rc00"])
@pytest.mark.parametrize("block", [50, 1000])
def test_blocks_do_not_show(monkeypatch, checkpoint, output, tmp_path, version, block):
    path = checkpoint(version)
    convert(path, output)
    monkeypatch.setattr(source, "BLOCK", block)
    monkeypatch.setattr(deep_table, "BLOCK", block)
    convert(path, tmp_path / "other.trwkv")
    with open_file(output) as a, open_file(tmp_path / "other.trwkv") as b:
        assert list(a.tensors.values()) == list(b.tensors.values())


def test_metadata_and_report(checkpoint, output):
    path = checkpoint("v5.2")
    report = convert(path, output, license="CC0-1.0", template="chat", ln_x_eps=1e-5)
    with open_file(output) as file:
        metadata, count = file.metadata, len(file.tensors)
    expected = {
        **{
            "kind": "model",
            "arch": "v5.2",
            "n_layer": 2,
            "n_embd": 32,
            "n_ffn": 96,
            "n_head": 4,
            "head_size": 8,
        },
        **{"vocab_size": 300, "ln_x_eps": 1e-5, "dtype": "int8", "template": "chat"},
    }
    assert {name: metadata[name] for name in expected} == expected
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata["source"] == {"name": "model.pth", "sha256": digest, "license": "CC0-1.0"}
    assert metadata["created_by"].startswith("tinyrwkv-convert")
    assert {name: report[name] for name in metadata} == metadata
    assert (report["input"], report["output"], report["format"]) == (str(path), str(output), "pth")
    assert (report["tensors"], report["file_bytes"], report["tokenizer"]) == (
        count,
        os.path.getsize(output),
        False,
    )
    assert any("no vocabulary" in note for note in report["notes"])
    json.dumps(report)


@pytest.mark.parametrize("dtype", ["f16", "int8"])
def test_the_error_is_measured(checkpoint, output, dtype):
    path = checkpoint("v4")
    report = convert(path, output, dtype=dtype)
    (step,) = report["compression"]
    error = norm = 0.0
    worst = (0.0, "")
    with open_file(output) as file:
        for name, x in model_tensors(path).items():
            if is_matrix(name, x):
                back = (
                    file[name] * file[name + ".scale"][:, None] if dtype == "int8" else file[name]
                )
                one, size = (
                    np.square(back - x.astype(np.float64)).sum(),
                    np.square(x.astype(np.float64)).sum(),
                )
                error, norm, worst = (
                    error + one,
                    norm + size,
                    max(worst, (np.sqrt(one / size), name)),
                )
    assert step["technique"] == dtype
    assert step["report"]["relative_error"] == pytest.approx(np.sqrt(error / norm), rel=1e-4)
    assert step["report"]["worst_relative_error"] == pytest.approx(worst[0], rel=1e-4)
    assert step["report"]["worst_tensor"] == worst[1]


def test_float32_loses_nothing_and_says_so(checkpoint, output):
    assert "compression" not in convert(checkpoint(), output, dtype="f32")


def test_every_format_gives_the_same_model(tmp_path, checkpoint):
    raw = raw_checkpoint("v7", **SIZES)
    files = {
        "pth": checkpoint(),
        "safetensors": write(tmp_path / "a.st", safetensors(raw)),
        "gguf": write(tmp_path / "a.gguf", gguf(*to_gguf(raw, "v7"))),
        "ggmf": write(tmp_path / "a.bin", ggmf(to_ggmf(raw, "v7"), 2)),
    }
    tensors = []
    for kind, path in files.items():
        assert convert(path, tmp_path / "out")["format"] == kind
        with open_file(tmp_path / "out") as file:
            tensors.append([tensor._replace(offset=0) for tensor in file.tensors.values()])
    assert all(found == tensors[0] for found in tensors)


def test_the_same_input_gives_the_same_bytes(checkpoint, output, tmp_path):
    path = checkpoint()
    convert(path, output)
    convert(path, tmp_path / "again")
    assert output.read_bytes() == (tmp_path / "again").read_bytes()


def test_vocabulary(checkpoint, output, tmp_path):
    report = convert(checkpoint(), output, vocab=write(tmp_path / "vocab.txt", VOCAB))
    assert report["tokenizer"]
    assert not any("no vocabulary" in note for note in report["notes"])
    with open_file(output) as file:
        assert file["tokenizer.bytes"].tobytes() == bytes(range(256))
        assert file["tokenizer.starts"].tolist() == list(range(257))
        assert file["tokenizer.ids"].tolist() == list(range(1, 257))
    wrong = write(tmp_path / "wrong.txt", VOCAB + b"999 'ab' 2\n")
    with pytest.raises(FormatError, match=r"wrong\.txt: line 257 has id 999"):
        convert(checkpoint(), tmp_path / "other", vocab=wrong)
    assert not (tmp_path / "other").exists()


def test_defaults_of_ln_x_eps(checkpoint, output, tmp_path):
    assert convert(checkpoint("v5.0"), output)["ln_x_eps"] == 64e-5
    path = write(tmp_path / "a", safetensors(to_fla(raw_checkpoint("v7", **SIZES))))
    assert convert(path, output)["ln_x_eps"] == pytest.approx(8e-5)
    assert convert(path, output, ln_x_eps=64e-5)["ln_x_eps"] == 64e-5


def test_the_license_of_a_gguf(output, tmp_path):
    path = write(tmp_path / "a", gguf(*to_gguf(raw_checkpoint("v6", **SIZES), "v6")))
    assert convert(path, output)["source"]["license"] == "apache-2.0"
    assert convert(path, output, license="MIT")["source"]["license"] == "MIT"
    arrays, settings = to_gguf(raw_checkpoint("v6", **SIZES), "v6")
    path = write(tmp_path / "b", gguf(arrays, {**settings, "general.license": "a\nb" + 500 * "c"}))
    assert convert(path, output)["source"]["license"] == "a?b" + 197 * "c"


def test_odd_file_names(tmp_path, output):
    path = tmp_path / "mødel\n.pth"
    write_pth(path, raw_checkpoint("v4", **SIZES))
    assert convert(path, output)["source"]["name"] == "m?del?.pth"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"dtype": "int3"}, "there is no dtype int3; choose one of f32, f16, int8, int4"),
        (
            {"dtype": "int4", "parts": "tail"},
            "there are no parts 'tail'; choose all, or some of body",
        ),
        ({"ln_x_eps": 0.0}, "ln_x_eps is 0.0"),
        ({"ln_x_eps": float("nan")}, "ln_x_eps is nan"),
        ({"ln_x_eps": 2.0}, "ln_x_eps is 2.0"),
        ({"template": "robott"}, "there is no template 'robott'.*did you mean robot"),
        ({"template": "a b"}, "there is no template 'a b'"),
        ({"license": ""}, "the license is '', but"),
        ({"license": "a\nb"}, "the license is 'a.*b', but must be 1 to 200 printable"),
    ],
)
def test_arguments_are_checked(checkpoint, output, options, found):
    with pytest.raises(ArgumentError, match=found):
        convert(checkpoint(), output, **options)
    assert not output.exists()


def test_the_output_is_not_the_input(checkpoint, tmp_path):
    path = checkpoint()
    before = path.read_bytes()
    os.symlink(path, tmp_path / "link")
    os.link(path, tmp_path / "hard")
    vocab = write(tmp_path / "vocab.txt", VOCAB)
    for input, output in (
        (path, path),
        (path, tmp_path / "link"),
        (path, tmp_path / "hard"),
        (path, vocab),
    ):
        with pytest.raises(ArgumentError, match=r"would replace the (input|vocabulary)"):
            convert(input, output, vocab=vocab)
    with pytest.raises(ArgumentError, match="would replace the input"):
        convert(path, os.path.join(tmp_path, ".", "model.pth"))
    assert path.read_bytes() == before


OLDER = MAGIC + b"an older model"


def broken(name, value):
    raw = raw_checkpoint("v7", **SIZES)
    raw[name].reshape(-1)[-1] = value
    return zip_archive(members(*pickle_and_storages(raw)))


@pytest.mark.parametrize(
    "name", ["emb.weight", "blocks.1.att.w0", "blocks.1.ffn.value.weight", "head.weight"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_number_stops_the_conversion(tmp_path, output, name, value):
    output.write_bytes(OLDER)
    path = write(tmp_path / "bad.pth", broken(name, value))
    with pytest.raises(FormatError, match=rf"bad\.pth: tensor '{name}' holds NaN or infinity"):
        convert(path, output)
    assert output.read_bytes() == OLDER
    assert sorted(os.listdir(tmp_path)) == ["bad.pth", "model.trwkv"]


def test_numbers_too_large_for_float16(tmp_path, output):
    path = write(tmp_path / "big.pth", broken("head.weight", 1e5))
    with pytest.raises(
        FormatError, match=r"'head\.weight' has a value of 100000, but f16 ends at 65504"
    ):
        convert(path, output, dtype="f16")
    assert not output.exists()
    convert(path, output, dtype="int8")
    raw = raw_checkpoint("v4", **SIZES)
    raw["blocks.1.att.time_decay"][3] = 100  # finite, but exp(100) is not
    write_pth(tmp_path / "huge.pth", raw)
    with pytest.raises(FormatError, match=r"'blocks\.1\.att\.time_decay' has huge values"):
        convert(tmp_path / "huge.pth", output)


def test_an_interruption_leaves_nothing(checkpoint, tmp_path, output):
    path = checkpoint()
    output.write_bytes(OLDER)
    calls = []

    def interrupt(done, total):
        calls.append((done, total))
        if done > 0.9 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, output, progress=interrupt)
    assert len(calls) > 5
    assert output.read_bytes() == OLDER
    assert sorted(os.listdir(tmp_path)) == ["model.pth", "model.trwkv"]


def test_progress_goes_from_0_to_all(checkpoint, output):
    calls = []
    convert(checkpoint(), output, progress=lambda done, total: calls.append((done, total)))
    dones, totals = zip(*calls, strict=True)
    assert list(dones) == sorted(dones)
    assert set(totals) == {dones[-1]}


def test_what_is_refused(tmp_path, output):
    write_pth(tmp_path / "other.pth", {"fc.weight": np.zeros((2, 3), np.float32)})
    with pytest.raises(FormatError, match=r"the tensors fc\.weight"):
        convert(tmp_path / "other.pth", output)
    with pytest.raises(TinyRWKVError, match="HTML"):
        convert(write(tmp_path / "page.pth", b"<html>"), output)
    assert not output.exists()


def test_a_folder_that_does_not_exist(checkpoint, tmp_path):
    with pytest.raises(FormatError, match="there is no folder"):
        convert(checkpoint(), tmp_path / "none" / "model.trwkv")
    with pytest.raises(FormatError, match="a folder"):
        convert(checkpoint(), tmp_path)


def in_one_file(folder, raw):
    write_pth(folder / "model.pth", raw, "bf16")
    return folder / "model.pth"


def in_parts_of_gguf(folder, raw):
    for number, data in enumerate(gguf_parts(*to_gguf(raw, "v7"), 3, "q5_k"), 1):
        write(folder / f"a-{number:05}-of-00003.gguf", data)
    return folder / "a-00001-of-00003.gguf"


def in_shards(folder, raw):
    places = {name: f"{i % 3}.safetensors" for i, name in enumerate(raw)}
    for file in set(places.values()):
        part = {name: x for name, x in raw.items() if places[name] == file}
        write(folder / file, safetensors(part, "bf16"))
    index = json.dumps({"weight_map": places}).encode()
    return write(folder / "model.safetensors.index.json", index)


@pytest.mark.parametrize("form", [in_one_file, in_parts_of_gguf, in_shards])
def test_memory_does_not_hold_the_model(tmp_path, output, monkeypatch, form):
    monkeypatch.setattr(source, "BLOCK", 1 << 14)
    raw = raw_checkpoint("v7", n_layer=6, n_embd=256, head_size=64, vocab_size=2000)
    path = form(tmp_path, raw)
    size = sum(x.nbytes for x in raw.values())
    largest = max(x.size for x in raw.values())
    del raw
    tracemalloc.start()
    convert(path, output)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 20 << 20
    # the largest tensor as int8, a MiB read at a time for checksums, and small change
    assert peak < largest + (4 << 20)
