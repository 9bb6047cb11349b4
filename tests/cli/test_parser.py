"""What the parser of both command lines says about mistakes, and how it reads paths."""

from __future__ import annotations

import pathlib

import pytest

from converters.cli import main as convert
from tinyrwkv.cli.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["genrte"], "there is no command genrte; did you mean generate?"),
        (["xyz"], "there is no command xyz; the commands are chat, generate, serve, "),
        (["a.trwkv"], "the command is missing before a.trwkv: tinyrwkv chat a.trwkv"),
        (["chat", "--temprature", "1"], "no option --temprature; did you mean --temperature?"),
        (["generate", "--promt=a"], "there is no option --promt; did you mean --prompt?"),
        (["info", "--dance"], "no option --dance; tinyrwkv info --help lists them"),
        (["info", "-x"], "there is no option -x; tinyrwkv info --help lists them"),
        (["bench", "a", "b"], "there is one argument too many: b"),
        (["chat", "--seed", "one"], "--seed: 'one' is not a whole number, such as 4"),
        (["chat", "--top-p", "most"], "--top-p: 'most' is not a number, such as 0.8"),
        (["chat", "--lookup=5"], "--lookup/--no-lookup: it takes no value, but has '5'"),
    ],
)
def test_a_mistake_is_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    shown = capsys.readouterr().err
    command = " ".join(["tinyrwkv", *arguments[: arguments[0] in ("chat", "info", "bench")]])
    assert ended.value.code == 2 and said in shown
    assert shown.startswith(f"usage: {command if ' ' in command else 'tinyrwkv'} ")


@pytest.mark.parametrize(
    ("arguments", "usage", "said"),
    [
        (["a", "b", "--dtpe", "int8"], "tinyrwkv-convert ", "did you mean --dtype?"),
        (["eval", "a", "--txt", "b"], "tinyrwkv-convert eval ", "did you mean --text?"),
        (["recover", "a", "b", "--minute=1x"], "tinyrwkv-convert recover ", "--minutes"),
    ],
)
def test_the_converter_names_them_too(
    arguments: list[str], usage: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        convert(arguments)
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and shown.startswith(f"usage: {usage}") and said in shown


def test_texts_that_look_like_options_are_texts(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["generate", "nowhere.trwkv", "--stop=--x", "-p", "--a b"]
    assert main(given) == 1
    assert "no such file: nowhere.trwkv" in capsys.readouterr().err


def test_the_home_folder_is_known_behind_an_equals_sign(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for arguments in (["info", "--model=~/a.trwkv"], ["plan", "~/a.trwkv"]):
        assert main(arguments) == 1
        assert f"no such file: {tmp_path}" in capsys.readouterr().err
    assert convert(["~/a.pth", "~/a.trwkv", "--vocab=~/v.txt"]) == 1
    assert f"no such file: {tmp_path}" in capsys.readouterr().err


def test_a_model_may_be_given_by_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("chat", "serve", "info", "plan", "verify", "bench"):
        for option in ("-m", "--model"):
            assert main([command, option, "nowhere.trwkv"]) == 1
            assert "no such file: nowhere.trwkv" in capsys.readouterr().err
    assert main(["info", "a.trwkv", "-m", "b.trwkv"]) == 1
    assert "two models were given, a.trwkv and b.trwkv" in capsys.readouterr().err
    assert convert(["eval", "-m", "nowhere.trwkv", "--text", __file__]) == 1
    assert "no such file: nowhere.trwkv" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        convert(["eval", "--text", __file__])
    assert "nothing to judge: give a MODEL" in capsys.readouterr().err
    assert main(["generate", "-m", "a.trwkv", "--temp", "0", "-p", "a"]) == 1
    assert "no such file: a.trwkv" in capsys.readouterr().err


def test_the_version_of_the_converter(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        convert(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("tinyrwkv-convert ")
