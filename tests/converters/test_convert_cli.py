"""The command line of the converter."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import converters
from converters import cli
from tests.helpers.checkpoint_files import gguf, gguf_parts, safetensors, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.dialects import to_gguf
from tests.helpers.pth_writer import write_pth
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.verify import open_verified

VOCAB = b"".join(f"{b + 1} {bytes([b])!r} 1\n".encode() for b in range(256))


@pytest.fixture
def paths(tmp_path):
    write_pth(
        tmp_path / "a.pth", raw_checkpoint("v7", n_layer=2, n_embd=32, head_size=8, vocab_size=300)
    )
    return str(tmp_path / "a.pth"), str(tmp_path / "a.trwkv")


def test_a_conversion(paths, capsys):
    assert cli.main(list(paths)) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        f"{paths[1]}: RWKV v7, 2 layers of 32, vocabulary 300, int8, weights off by 0."
    )
    assert out.count("\n") == 1
    # no bar where stderr is no terminal
    assert err == (
        "note: the unused tensors blocks.0.att.v0, v1, v2 were left out\n"
        "note: no vocabulary: the model takes and gives tokens, not text; --vocab FILE adds one\n"
    )
    with open_verified(paths[1]) as file:
        assert file.metadata["dtype"] == "int8"


def test_a_name_of_another_format_is_refused(paths, capsys):
    output = paths[1].replace("a.trwkv", "out.safetensors")
    assert cli.main([paths[0], output]) == 1
    assert capsys.readouterr().err == (
        f"tinyrwkv-convert: {output} would be a .trwkv file under the name of a .safetensors file; "
        "call it out.trwkv\n"
    )
    assert not os.path.exists(output)


def test_a_template_that_does_not_exist_is_refused(paths, capsys):
    assert cli.main([*paths, "--template", "chatt"]) == 1
    assert "there is no template 'chatt'" in capsys.readouterr().err
    assert not os.path.exists(paths[1])


def test_the_vocabulary_of_world_models_is_named(tmp_path, capsys):
    sizes = {"n_layer": 1, "n_embd": 8, "head_size": 8, "vocab_size": 65_536}
    write_pth(tmp_path / "a.pth", raw_checkpoint("v7", **sizes))
    assert cli.main([str(tmp_path / "a.pth"), str(tmp_path / "a.trwkv")]) == 0
    assert "65,536 rows are those of World models: add --vocab world\n" in capsys.readouterr().err


def test_options_reach_the_file(paths, capsys, tmp_path):
    vocab = write(tmp_path / "vocab.txt", VOCAB)
    options = [
        "--vocab",
        vocab,
        "--dtype",
        "f16",
        "--ln-x-eps",
        "1e-5",
        "--template",
        "chat",
        "--license",
        "MIT",
    ]
    assert cli.main([*paths, *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokenizer"]
    with open_file(paths[1]) as file:
        metadata = file.metadata
    assert (metadata["dtype"], metadata["ln_x_eps"], metadata["template"]) == ("f16", 1e-5, "chat")
    assert metadata["source"]["license"] == "MIT"
    assert {name: report[name] for name in metadata} == metadata


def test_the_world_vocabulary_is_looked_for(paths, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("converters.write.vocab.importlib.util.find_spec", lambda name: None)
    assert cli.main([*paths, "--vocab", "world"]) == 1
    assert "ChatRWKV" in capsys.readouterr().err
    write(tmp_path / "rwkv_vocab_v20230424.txt", VOCAB)
    assert cli.main([*paths, "--vocab", "world", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokenizer"]


def test_quiet(paths, capsys):
    assert cli.main([*paths, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_errors_give_1_and_one_line(paths, capsys, tmp_path):
    for arguments, found in (
        ([str(tmp_path / "none.pth"), paths[1]], "none.pth; check the name"),
        ([paths[0], paths[0]], "would replace the input"),
        ([*paths, "--template", "a b"], "template"),
        ([write(tmp_path / "page", b"<html>"), paths[1]], "an HTML page"),
        ([*paths, "--vocab", write(tmp_path / "v", b"1 'a' 1\n")], "no token for the byte 0x00"),
        (
            [*paths, "--vocab", str(tmp_path / "none.txt")],
            "none.txt; check the name",
        ),
    ):
        assert cli.main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("tinyrwkv-convert: ")
        assert found in err
        assert err.count("\n") == 1
    assert not os.path.exists(paths[1])


def test_all_parts_may_be_given(paths, capsys, tmp_path):
    raw = raw_checkpoint("v7", n_layer=1, n_embd=32, head_size=8, vocab_size=300)
    parts = [
        write(tmp_path / f"a-{number:05}-of-00003.gguf", data)
        for number, data in enumerate(gguf_parts(*to_gguf(raw, "v7"), 3), 1)
    ]
    output = paths[1]
    for given in (parts, parts[::-1], parts[1:], [parts[2], parts[2]]):
        assert cli.main([*given, output, "--quiet"]) == 0
        assert cli.main([given[0], "--dtype", "f16", output, "--quiet"]) == 0
    other = write(tmp_path / "b.gguf", gguf(*to_gguf(raw, "v7")))
    assert cli.main([*parts, other, output]) == 1
    message = capsys.readouterr().err
    assert f"{other} is no part of the checkpoint {parts[0]}; give one checkpoint" in message
    assert cli.main([other, *parts, output]) == 1


def test_all_shards_and_their_index_may_be_given(paths, tmp_path):
    raw = raw_checkpoint("v7", n_layer=1, n_embd=32, head_size=8, vocab_size=300)
    files = [f"m-{number:05}-of-00002.safetensors" for number in (1, 2)]
    places = {name: files[i % 2] for i, name in enumerate(raw)}
    for file in files:
        part = {name: x for name, x in raw.items() if places[name] == file}
        write(tmp_path / file, safetensors(part))
    index = json.dumps({"weight_map": places}).encode()
    write(tmp_path / "m.safetensors.index.json", index)
    given = sorted(str(path) for path in tmp_path.glob("m[-.]*"))
    assert len(given) == 3
    assert cli.main([*given, paths[1], "--quiet"]) == 0


def test_ctrl_c_gives_130(paths, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "convert", interrupted)
    assert cli.main(list(paths)) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["a"], ["a", "b", "--dtype", "int3"], ["a", "b", "--ln-x-eps", "x"]]
)
def test_wrong_arguments_give_2(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert "usage: tinyrwkv-convert" in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["--help"])
    assert error.value.code == 0
    out = capsys.readouterr().out
    for part in (
        "examples:",
        "--vocab FILE",
        "--dtype {f32,f16,int8,int4}",
        "--ln-x-eps X",
        "--json",
        "eval",
    ):
        assert part in out
    assert max(map(len, out.splitlines())) <= 120


def test_eval_is_another_program(monkeypatch, capsys):
    seen = []
    fake = types.ModuleType("converters.evaluate")
    fake.main = lambda argv: seen.append(argv) or 7
    monkeypatch.setitem(sys.modules, "converters.evaluate", fake)
    monkeypatch.setattr(converters, "evaluate", fake, raising=False)
    assert cli.main(["eval", "model.trwkv", "--text", "book.txt"]) == 7
    assert seen == [["model.trwkv", "--text", "book.txt"]]

    def refuses(argv):
        raise ArgumentError("arguments", "text", "none", "a file", "give one")

    fake.main = refuses
    assert cli.main(["eval", "model.trwkv"]) == 1
    assert "tinyrwkv-convert: arguments: text: found none" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_is_for_terminals(paths, monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main(list(paths)) == 0
    _, *bars, blank, _ = terminal.getvalue().split("\r")
    assert all(re.fullmatch(r"convert +\[#*\.*\] +[0-9]+ %", bar) for bar in bars)
    assert not blank.strip()  # gone at the end
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main([*paths, "--quiet"]) == 0
    assert terminal.getvalue() == ""


def test_as_a_module(paths):
    root = Path(converters.__file__).parent.parent
    command = [sys.executable, "-m", converters.__name__, *paths, "--quiet"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run(
        [*command[:3], "missing", paths[1]], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("tinyrwkv-convert: no such file: missing;")


def test_an_error_of_the_system_gives_1_and_one_line(paths, capsys, monkeypatch):
    def failing(*args, **kwargs):
        raise OSError(5, "Input/output error", "a.pth")

    monkeypatch.setattr(cli, "convert", failing)
    assert cli.main(list(paths)) == 1
    assert capsys.readouterr().err == "tinyrwkv-convert: [Errno 5] Input/output error: 'a.pth'\n"
