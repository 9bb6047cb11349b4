"""Tuned states of RWKV-PEFT: as the official package begins with them, and refused by name."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import tinyrwkv
from converters import cli
from converters.write.convert import convert
from converters.write.tuned_state import write_tuned_state
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.golden_files import TUNED, read_golden, read_tuned, time_states
from tests.helpers.pth_writer import write_pth
from tests.helpers.tiny_models import read_tensors, tokenizer_tensors, write_tensors
from tinyrwkv import State
from tinyrwkv.chat.chat import Chat
from tinyrwkv.cli.cli import main
from tinyrwkv.errors import ArgumentError, FormatError, UnsupportedError

TOLERANCE = 1e-4  # of the logits' standard deviation


@pytest.fixture(scope="module", params=TUNED)
def golden_model(request, tmp_path_factory):
    """Return a version, the model of its golden checkpoint, and its tuned state as a .pth."""
    version = request.param
    folder = tmp_path_factory.mktemp("tuned")
    golden = read_golden(version)
    write_pth(folder / "a.pth", golden.raw)
    convert(folder / "a.pth", folder / "a.trwkv", dtype="f32")
    write_pth(folder / "tuned.pth", time_states(golden.raw))
    return version, folder / "a.trwkv", folder / "tuned.pth"


def test_logits_are_those_of_the_official_package(golden_model, tmp_path):
    version, path, tuned = golden_model
    report = write_tuned_state(tuned, tmp_path / "a.state", path)
    assert report["arch"] == version and report["n_layer"] == 2
    golden, expected = read_golden(version), read_tuned(version)
    with tinyrwkv.load(path, backend="numpy") as model:
        state = State.load(tmp_path / "a.state", model)
        assert state.tokens == 0
        logits, _ = model.forward(golden.tokens, state, logits="all")
    spread = expected[17].std()
    for count, official in expected.items():
        assert np.abs(logits[count - 1] - official).max() <= TOLERANCE * spread
    assert np.abs(golden.logits[1] - expected[1]).max() > 1e3 * TOLERANCE * spread


def test_a_tuned_state_beside_weights_counts_too(golden_model, tmp_path):
    version, path, tuned = golden_model
    golden = read_golden(version)
    merged = {**golden.raw, **time_states(golden.raw)}
    write_pth(tmp_path / "merged.pth", merged)
    report = convert(tmp_path / "merged.pth", tmp_path / "b.trwkv", dtype="f32")
    assert any("--model MODEL writes it" in note for note in report["notes"])
    for source, name in ((tuned, "a.state"), (tmp_path / "merged.pth", "b.state")):
        write_tuned_state(source, tmp_path / name, path)
    assert (tmp_path / "a.state").read_bytes() == (tmp_path / "b.state").read_bytes()


def test_a_prefix_of_training_does_not_matter(golden_model, tmp_path):
    _, path, tuned = golden_model
    arrays = time_states(read_golden("v7").raw)
    write_pth(tmp_path / "b.pth", {f"model.{name}": array for name, array in arrays.items()})
    for source, name in ((tuned, "a.state"), (tmp_path / "b.pth", "b.state")):
        write_tuned_state(source, tmp_path / name, path)
    assert (tmp_path / "a.state").read_bytes() == (tmp_path / "b.state").read_bytes()


@pytest.fixture
def talker(tmp_path):
    """Return a v7 model with a vocabulary, and a tuned state for it as a .pth."""
    raw = raw_checkpoint("v7", n_layer=2, n_embd=32, head_size=8, vocab_size=300)
    write_pth(tmp_path / "a.pth", raw)
    convert(tmp_path / "a.pth", tmp_path / "plain.trwkv")
    metadata, tensors = read_tensors(tmp_path / "plain.trwkv")
    path = write_tensors(tmp_path / "a.trwkv", metadata, tensors | tokenizer_tensors())
    write_pth(tmp_path / "tuned.pth", time_states(raw, heads=4, size=8))
    return path, str(tmp_path / "tuned.pth")


def test_the_command_writes_a_state_that_others_begin_with(talker, tmp_path, capsys):
    path, tuned = talker
    state = str(tmp_path / "tuned.state")
    assert cli.main([tuned, state, "--model", path]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{state}: a tuned state of {path}, RWKV v7, ") and said.count("\n") == 1
    greedy = ["-p", "User:", "-n", "9", "--temperature", "0", "--quiet"]
    assert main(["generate", path, "--state", state, *greedy]) == 0
    with tinyrwkv.load(path) as model:
        generation = model.generate(
            "User:",
            state=State.load(state, model),
            sampler=tinyrwkv.Sampler(temperature=0),
            max_tokens=9,
        )
        assert capsys.readouterr().out == generation.text()


def test_a_chat_begins_from_a_tuned_state(talker, tmp_path):
    path, tuned = talker
    write_tuned_state(tuned, tmp_path / "tuned.state", path)
    with tinyrwkv.load(path) as model:
        state = State.load(tmp_path / "tuned.state", model)
        chat = Chat(model, "robot", "Be kind.", temperature=0, max_tokens=5)
        chat.load(tmp_path / "tuned.state")
        for _ in range(2):
            answer = chat.ask("abc").text()
            prompt = "System: Be kind.\n\nUser: abc\n\nAssistant:"
            expected = model.generate(
                prompt,
                state=state,
                sampler=tinyrwkv.Sampler(temperature=0),
                max_tokens=5,
                stop=["\n\n"],
            )
            assert answer == expected.text()
            assert chat.state.data.tobytes() == expected.result.state.data.tobytes()
            chat.reset()
        assert chat.state.data.tobytes() == state.data.tobytes()


def test_a_new_state_is_no_tuned_one(talker, tmp_path):
    path, _ = talker
    with tinyrwkv.load(path) as model:
        model.new_state().save(tmp_path / "new.state")
        chats = [Chat(model, "robot", temperature=0, max_tokens=5) for _ in range(2)]
        chats[0].load(tmp_path / "new.state")
        for chat in chats:
            chat.ask("abc").text()
        assert chats[0].state.data.tobytes() == chats[1].state.data.tobytes()


def refused(input, model, folder, kind=FormatError):
    output = folder / "out.state"
    with pytest.raises(kind) as caught:
        write_tuned_state(input, output, model)
    assert not output.exists()
    return str(caught.value)


def test_a_state_of_another_model_is_refused(talker, tmp_path):
    path, _ = talker
    raw = raw_checkpoint("v7", n_layer=2, n_embd=32, head_size=8, vocab_size=300)
    other = tmp_path / "other.pth"
    write_pth(other, time_states(raw, heads=2, size=16))
    assert refused(other, path, tmp_path) == (
        f"{other}: tensor 'blocks.0.att.time_state' has shape (2, 16, 16), "
        "but the model needs (4, 8, 8); give the model that the state was tuned for"
    )
    arrays = time_states(raw, heads=4, size=8)
    write_pth(other, {**arrays, "blocks.2.att.time_state": arrays["blocks.0.att.time_state"]})
    assert "a tuned state for 3 layers, up to 2, but the model has layers 0 to 1" in refused(
        other, path, tmp_path
    )
    del arrays["blocks.0.att.time_state"]
    write_pth(other, arrays)
    assert "a tuned state for 1 layers" in refused(other, path, tmp_path)


def test_what_is_no_tuned_state_is_refused(talker, tmp_path):
    path, tuned = talker
    write_pth(tmp_path / "b.pth", raw_checkpoint("v7", n_layer=1, n_embd=32, head_size=8))
    said = refused(tmp_path / "b.pth", path, tmp_path)
    assert "has no tuned state: no tensor is called blocks.N.att.time_state" in said
    arrays = time_states({"blocks.0.ln1.weight": 0, "blocks.1.ln1.weight": 0}, 4, 8)
    arrays["blocks.1.att.time_state"][1, 2, 3] = np.nan
    write_pth(tmp_path / "c.pth", arrays)
    assert "holds NaN or infinity" in refused(tmp_path / "c.pth", path, tmp_path)
    write_pth(tmp_path / "v4.pth", raw_checkpoint("v4", vocab_size=300))
    convert(tmp_path / "v4.pth", tmp_path / "v4.trwkv")
    said = refused(tuned, tmp_path / "v4.trwkv", tmp_path, UnsupportedError)
    assert "is RWKV-4, which has no state that is tuned in this way" in said


def test_no_other_file_is_replaced(talker, tmp_path):
    path, tuned = talker
    letter = tmp_path / "letter"
    letter.write_text("dear")
    for output, said in ((letter, "not a state"), (path, "replace the model"), (tuned, "replace")):
        before = pathlib.Path(output).read_bytes()
        with pytest.raises(ArgumentError, match=said):
            write_tuned_state(tuned, output, path)
        assert pathlib.Path(output).read_bytes() == before


def test_a_tuned_state_is_no_model(talker, tmp_path):
    _, tuned = talker
    with pytest.raises(UnsupportedError) as caught:
        convert(tuned, tmp_path / "out.trwkv")
    assert str(caught.value) == (
        f"{tuned} is a tuned state, not a model; write it to a state: "
        f"tinyrwkv-convert {tuned} tuned.state --model MODEL"
    )


@pytest.mark.parametrize(
    "options", [["--dtype", "f32"], ["--lora", "a.pth"], ["--preset", "lite"], ["--vocab", "v"]]
)
def test_options_of_models_are_refused_beside_a_state(talker, tmp_path, capsys, options):
    path, tuned = talker
    assert cli.main([tuned, str(tmp_path / "a.state"), "--model", path, *options]) == 1
    said = f"{options[0]} belongs to a model, but --model writes a state"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a.state").exists()
