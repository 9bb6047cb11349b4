"""Adapters of RWKV-PEFT: merged as NumPy merges them, refused by tensor and shape otherwise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from converters import cli
from converters.write.convert import Adapter, convert
from tests.helpers.checkpoint_files import safetensors, write
from tests.helpers.checkpoints import VERSIONS, raw_checkpoint
from tests.helpers.pth_writer import write_pth
from tests.helpers.tiny_models import read_tensors
from tinyrwkv.errors import ArgumentError, FormatError, TinyRWKVError, UnsupportedError

SIZES = {"n_layer": 2, "n_embd": 32, "head_size": 8, "vocab_size": 50}
NAMES = ("blocks.0.att.receptance", "blocks.1.att.output", "blocks.1.ffn.key", "head")
PREFIXES = ("", "model.", "module.", "_forward_module.")


def factors(raw, rank, seed=0, names=NAMES, first=""):
    """Return random factors for some matrices of a checkpoint."""
    random = np.random.default_rng(seed)
    made = {}
    for name in names:
        out, inputs = raw[f"{name}.weight"].shape
        for letter, shape in (("A", (rank, inputs)), ("B", (out, rank))):
            made[f"{name}.{first}lora_{letter}"] = (0.2 * random.standard_normal(shape)).astype(
                "f4"
            )
    return made


def product(pairs, name, first=""):
    return pairs[f"{name}.{first}lora_B"] @ pairs[f"{name}.{first}lora_A"]


@pytest.fixture
def files(tmp_path):
    """Write files and convert them; return what a conversion needs."""

    class Files:
        raw = raw_checkpoint("v7", **SIZES)
        base, out = tmp_path / "base.pth", tmp_path / "out.trwkv"
        expected = tmp_path / "expected.trwkv"

        def write(self, name, tensors):
            write_pth(tmp_path / name, tensors)
            return tmp_path / name

        def merged(self, raw, adapter, **options):
            """Return the tensors of a conversion with an adapter, and of the checkpoint `raw`."""
            self.write("base.pth", self.raw)
            self.write("expected.pth", raw)
            report = convert(self.base, self.out, dtype="f32", adapter=adapter, **options)
            convert(tmp_path / "expected.pth", self.expected, dtype="f32", **options)
            return report, read_tensors(self.out)[1], read_tensors(self.expected)[1]

    made = Files()
    made.write("base.pth", made.raw)
    return made


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-6, err_msg=name)


@given(
    st.sampled_from(VERSIONS),
    st.integers(1, 9),
    st.one_of(st.none(), st.floats(0.5, 64)),
    st.sampled_from(PREFIXES),
    st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_lora_is_merged_as_numpy_merges_it(tmp_path_factory, version, rank, alpha, prefix, seed):
    folder = tmp_path_factory.mktemp("lora")
    raw = raw_checkpoint(version, **SIZES)
    pairs = factors(raw, rank, seed)
    write_pth(folder / "base.pth", raw)
    write_pth(folder / "lora.pth", {prefix + name: array for name, array in pairs.items()})
    merged = dict(raw)
    for name in NAMES:
        scale = np.float32((16 if alpha is None else alpha) / rank)
        merged[f"{name}.weight"] = raw[f"{name}.weight"] + scale * product(pairs, name)
    write_pth(folder / "merged.pth", merged)
    adapter = Adapter(folder / "lora.pth", alpha)
    report = convert(folder / "base.pth", folder / "a.trwkv", dtype="f32", adapter=adapter)
    convert(folder / "merged.pth", folder / "b.trwkv", dtype="f32")
    found, expected = (read_tensors(folder / name)[1] for name in ("a.trwkv", "b.trwkv"))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
    (step,) = report["compression"]
    assert (step["technique"], step["params"]["adapter"]) == ("lora", "lora.pth")
    assert any("alpha is taken to be 16" in note for note in report["notes"]) == (alpha is None)
    assert step["params"]["ranks"] == [rank] and step["params"]["alpha"] == (alpha or 16)
    assert step["report"] == {"merged": len(NAMES), "replaced": 0}


def test_pissa_takes_its_first_factors_away(files):
    pairs, before = factors(files.raw, 4, 1), factors(files.raw, 4, 2, first="init_")
    merged = dict(files.raw)
    for name in NAMES:
        change = product(pairs, name) - product(before, name, "init_")
        merged[f"{name}.weight"] = files.raw[f"{name}.weight"] + change
    lora = files.write("pissa.pth", pairs)
    init = files.write("init.pth", {f"model.{name}": array for name, array in before.items()})
    report, found, expected = files.merged(merged, Adapter(lora, initial=init))
    same(found, expected)
    (step,) = report["compression"]
    assert step["technique"] == "pissa" and "alpha" not in step["params"]
    assert not any("alpha" in note for note in report["notes"])


def test_an_untrained_pissa_changes_nothing(files):
    pairs = factors(files.raw, 4, 1)
    before = {name.replace("lora_", "init_lora_"): array for name, array in pairs.items()}
    lora, init = files.write("pissa.pth", pairs), files.write("init.pth", before)
    _, found, expected = files.merged(files.raw, Adapter(lora, initial=init))
    same(found, expected)


def test_whole_tensors_take_the_place_of_the_base(files):
    random = np.random.default_rng(5)
    whole = {
        name: random.standard_normal(files.raw[name].shape).astype("f4") * np.float32(0.1)
        for name in ("blocks.0.ln1.weight", "blocks.1.att.w0", "head.weight", "blocks.1.att.r_k")
    }
    pairs = factors(files.raw, 4, names=("head",))
    merged = {**files.raw, **whole}
    merged["head.weight"] = whole["head.weight"] + 4 * product(pairs, "head")
    lora = files.write("lora.pth", whole | pairs)
    report, found, expected = files.merged(merged, Adapter(lora))
    same(found, expected)
    assert report["compression"][0]["report"] == {"merged": 1, "replaced": 4}


def test_the_matrices_are_merged_some_rows_at_a_time(files, monkeypatch):
    monkeypatch.setattr("converters.read.source.BLOCK", 96)  # 3 rows of 32
    pairs = factors(files.raw, 4)
    merged = dict(files.raw)
    for name in NAMES:
        merged[f"{name}.weight"] = files.raw[f"{name}.weight"] + 4 * product(pairs, name)
    _, found, expected = files.merged(merged, Adapter(files.write("lora.pth", pairs)))
    same(found, expected)


def test_a_tuned_state_in_an_adapter_is_left_out_with_a_note(files):
    pairs = factors(files.raw, 4)
    pairs["blocks.0.att.time_state"] = np.ones((4, 8, 8), np.float32)
    report = convert(
        files.base, files.out, adapter=Adapter(files.write("lora.pth", pairs)), dtype="f16"
    )
    assert any(note.startswith("the tuned state") for note in report["notes"])


def test_an_adapter_may_be_a_safetensors_file(files, tmp_path):
    pairs = factors(files.raw, 4)
    path = write(tmp_path / "lora.safetensors", safetensors(pairs))
    _, found, _ = files.merged(files.raw, Adapter(path))
    _, expected, _ = files.merged(files.raw, Adapter(files.write("lora.pth", pairs)))
    same(found, expected)


def test_a_merged_model_is_a_plain_one_and_remembers_its_adapter(files, tmp_path):
    lora = files.write("lora.pth", factors(files.raw, 4))
    convert(files.base, files.out, dtype="f32", adapter=Adapter(lora))
    report = convert(files.out, tmp_path / "small.trwkv", dtype="int8")
    assert [step["technique"] for step in report["compression"]] == ["lora", "int8"]
    convert(files.base, tmp_path / "direct.trwkv", dtype="int8", adapter=Adapter(lora))
    again, direct = (read_tensors(tmp_path / f"{name}.trwkv")[1] for name in ("small", "direct"))
    assert all(again[name].tobytes() == array.tobytes() for name, array in direct.items())


def refusal(files, adapter, kind=FormatError, base=None):
    with pytest.raises(kind) as caught:
        convert(base or files.base, files.out, adapter=adapter)
    assert not files.out.exists()
    return str(caught.value)


OTHER = "give the model that the adapter was trained on"
WRONG = {
    "another width": (
        lambda raw, pairs: pairs.update({"head.lora_A": np.zeros((4, 16), np.float32)}),
        "tensor 'head.lora_A' has shape (4, 16), but {base} needs (r, 32); " + OTHER,
    ),
    "another rank": (
        lambda raw, pairs: pairs.update({"head.lora_B": np.zeros((50, 3), np.float32)}),
        "tensor 'head.lora_B' has shape (50, 3), but {base} needs (50, 4); " + OTHER,
    ),
    "a vector": (
        lambda raw, pairs: pairs.update({"head.lora_A": np.zeros(32, np.float32)}),
        "tensor 'head.lora_A' has shape (32,), but {base} needs (r, 32); " + OTHER,
    ),
    "another layer": (
        lambda raw, pairs: pairs.update(
            {f"blocks.2.att.key.lora_{x}": np.zeros((4, 4), np.float32) for x in "AB"}
        ),
        "tensor 'blocks.2.att.key.lora_A' belongs to 'blocks.2.att.key.weight', "
        "which is no matrix of {base}; " + OTHER,
    ),
    "no partner": (
        lambda raw, pairs: pairs.pop("head.lora_A"),
        "tensor 'head.lora_B' has no partner; the file is incomplete: save the adapter again",
    ),
    "a tensor twice": (
        lambda raw, pairs: pairs.update({"model.head.lora_A": pairs["head.lora_A"]}),
        "tensor 'model.head.lora_A' is a second 'head.lora_A'; give an adapter that has it once",
    ),
    "an unknown tensor": (
        lambda raw, pairs: pairs.update({"blocks.0.att.new": np.zeros(3, np.float32)}),
        "tensor 'blocks.0.att.new' is no tensor of {base}; " + OTHER,
    ),
    "a whole tensor of another shape": (
        lambda raw, pairs: pairs.update({"ln_out.bias": np.zeros(16, np.float32)}),
        "tensor 'ln_out.bias' has shape (16,), but {base} needs (32,); " + OTHER,
    ),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_what_does_not_fit_is_refused_by_tensor_and_shape(files, wrong):
    change, said = WRONG[wrong]
    pairs = factors(files.raw, 4)
    change(files.raw, pairs)
    path = files.write("lora.pth", pairs)
    assert refusal(files, Adapter(path)) == f"{path}: {said.format(base=files.base)}"


def test_factors_that_are_no_numbers_are_refused(files):
    pairs = factors(files.raw, 4)
    pairs["head.lora_A"][1, 2] = np.nan
    path = files.write("lora.pth", pairs)
    assert "tensor 'head.lora_A' holds NaN or infinity" in refusal(files, Adapter(path))
    pairs["head.lora_A"][:] = 3e38
    path = files.write("lora.pth", pairs)
    said = refusal(files, Adapter(path))
    assert said.startswith(f"{path}: tensor 'head.lora_A' makes weights that are not finite; ")


@pytest.mark.parametrize(("ending", "kind"), [("bone", "a Bone"), ("disha", "a DiSHA")])
def test_adapters_of_other_kinds_are_refused_by_name(files, ending, kind):
    path = files.write("a.pth", {f"blocks.0.att.key.{ending}": np.zeros((4, 32), np.float32)})
    assert refusal(files, Adapter(path), UnsupportedError) == (
        f"{path} is {kind} adapter, which can't be merged, only LoRA and PiSSA; "
        "merge it with the program that trained it, and convert what it writes"
    )


def test_what_is_no_adapter_is_refused(files):
    tuned = files.write("t.pth", {"blocks.0.att.time_state": np.zeros((4, 8, 8), np.float32)})
    said = refusal(files, Adapter(tuned), UnsupportedError)
    assert said.endswith(f"tinyrwkv-convert {tuned} tuned.state --model MODEL")
    init = files.write("i.pth", factors(files.raw, 4, first="init_"))
    said = refusal(files, Adapter(init), UnsupportedError)
    assert said.startswith(f"{init} is the initial file of a PiSSA adapter, which can't be merged")
    other = files.write("other.pth", files.raw)
    said = refusal(files, Adapter(other))
    assert said.startswith(f"{other} is no adapter: it has no lora_A and lora_B tensors; ")


def test_an_initial_file_must_be_of_the_same_training(files):
    lora = files.write("lora.pth", factors(files.raw, 4))
    few = files.write("few.pth", factors(files.raw, 4, names=NAMES[:3], first="init_"))
    said = refusal(files, Adapter(lora, initial=few))
    assert said.startswith(f"{few} has no initial factors for 'head.lora_A'; ")
    said = refusal(files, Adapter(lora, initial=lora))
    assert said.startswith(f"{lora} has no init_lora_A and init_lora_B tensors; ")
    narrow = factors(files.raw, 4, first="init_")
    narrow["head.init_lora_B"] = narrow["head.init_lora_B"][:40]
    path = files.write("narrow.pth", narrow)
    said = refusal(files, Adapter(lora, initial=path))
    assert said.startswith(f"{path}: tensor 'head.init_lora_B' has shape (40, 4), but ")


def test_an_adapter_is_not_merged_into_a_model_file(files, tmp_path):
    lora = files.write("lora.pth", factors(files.raw, 4))
    convert(files.base, tmp_path / "model.trwkv")
    said = refusal(files, Adapter(lora), UnsupportedError, tmp_path / "model.trwkv")
    assert "is a converted model: an adapter is merged into the checkpoint itself" in said
    said = refusal(files, Adapter(tmp_path / "model.trwkv"))
    assert said.startswith(f"{tmp_path / 'model.trwkv'} is a trwkv file, not a LoRA or PiSSA ")


@pytest.mark.parametrize("alpha", [0, -1, np.nan, np.inf])
def test_an_alpha_is_a_number_above_0(files, alpha):
    lora = files.write("lora.pth", factors(files.raw, 4))
    assert "must be a number above 0" in refusal(files, Adapter(lora, alpha), ArgumentError)


def test_the_output_is_none_of_the_adapters_files(files):
    lora = files.write("lora.pth", factors(files.raw, 4))
    init = files.write("init.pth", factors(files.raw, 4, first="init_"))
    for output in (lora, init):
        before = output.read_bytes()
        with pytest.raises(TinyRWKVError, match="would replace the "):
            convert(files.base, output, adapter=Adapter(lora, initial=init))
        assert output.read_bytes() == before


def test_the_command_merges(files, tmp_path, capsys):
    lora = files.write("lora.pth", factors(files.raw, 4))
    arguments = [str(files.base), str(files.out), "--dtype", "f32", "--lora", str(lora)]
    assert cli.main([*arguments, "--lora-alpha", "8", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["compression"]
    assert step["params"]["alpha"] == 8
    convert(files.base, files.expected, dtype="f32", adapter=Adapter(lora, 8))
    found, expected = read_tensors(files.out)[1], read_tensors(files.expected)[1]
    assert all(found[name].tobytes() == array.tobytes() for name, array in expected.items())
    with tinyrwkv.load(files.out, backend="numpy") as model:
        assert model.config["compression"] == [step]


def test_the_command_refuses_what_does_not_go_together(files, capsys):
    lora = files.write("lora.pth", factors(files.raw, 4))
    base, out = str(files.base), str(files.out)
    cases = {
        "--lora-alpha belongs to an adapter": [base, out, "--lora-alpha", "8"],
        "--lora-init belongs to an adapter": [base, out, "--lora-init", str(lora)],
        "a PiSSA adapter has no alpha": [
            *(base, out, "--lora", str(lora)),
            *("--lora-alpha", "8", "--lora-init", str(lora)),
        ],
        "--lora changes the model": [base, out + ".gguf", "--lora", str(lora)],
    }
    for said, arguments in cases.items():
        assert cli.main(arguments) == 1
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([base, out, "--lora", str(lora), "--lora-alpha", "0"])
    assert "'0' is not a number above 0" in capsys.readouterr().err


def test_a_compressed_model_has_the_adapter_too(files, tmp_path):
    from converters.compress.compress import compress
    from converters.compress.options import Options

    raw = raw_checkpoint("v7", n_layer=2, n_embd=64, head_size=16, vocab_size=300)
    base = files.write("wide.pth", raw)
    lora = files.write("lora.pth", factors(raw, 4))
    report = compress(base, files.out, Options(sparse_ffn="exact"), adapter=Adapter(lora))
    assert report["compression"][0]["technique"] == "lora"
    convert(base, tmp_path / "dense.trwkv", adapter=Adapter(lora))
    logits = []
    for path in (files.out, tmp_path / "dense.trwkv"):
        with tinyrwkv.load(path, backend="numpy") as model:
            logits.append(model.forward([1, 2, 3])[0])
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-5)
