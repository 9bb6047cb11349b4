"""The command line: the output and the exit status of each command."""

from __future__ import annotations

import io
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyrwkv
from tests.helpers.talkers import END, write_talker
from tests.helpers.terminals import Terminal, run
from tests.helpers.tiny_models import rewrite
from tinyrwkv.cli import cli
from tinyrwkv.cli.cli import main
from tinyrwkv.cli.formulas import describe
from tinyrwkv.engine.limit import least_resident

COMMANDS = ("chat", "generate", "serve", "info", "plan", "verify", "bench")
BENCH_KEYS = (
    *("backend", "threads", "decode_tok_s", "prefill_tok_s", "first_token_s"),
    *("peak_rss_bytes", "rss_anon_bytes", "resident_bytes", "touched_bytes_per_token"),
)


@pytest.fixture(autouse=True)
def numpy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRWKV_BACKEND", "numpy")


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model that tells a price."""
    tokens = [
        b"?",
        b" caf",
        b"\xc3",
        b"\xa9",
        b" is",
        b" \xe2",
        b"\x82\xac",
        b"5",
        b".",
        b"\n\n",
        b"Next",
        END,
    ]
    return write_talker(tmp_path_factory.mktemp("talker") / "m.trwkv", tokens)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model that never ends."""
    return write_talker(
        tmp_path_factory.mktemp("endless") / "m.trwkv", [b"?", b" on", b" and", b" on"]
    )


# All commands


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert (
        f"examples:\n  tinyrwkv {command}" in shown and "default: the small bundled model" in shown
    )


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and all(f"\n    {command}" in shown for command in COMMANDS)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"tinyrwkv {tinyrwkv.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["info", "--dance"],
        ["generate"],
        ["generate", "-p"],
        ["generate", "-p", "a", "-n", "many"],
        ["chat", "--temperature", "warm"],
        ["plan", "--resident-limit", "12 apples"],
        ["bench", "a", "b"],
    ],
)
def test_mistakes_in_arguments_end_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("usage: tinyrwkv")


def test_a_wrong_size_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--resident-limit", "12 apples"])
    assert (
        "'12 apples' is not a size; " in (shown := capsys.readouterr().err)
        and "write it like 12MB" in shown
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_errors_are_one_line_and_end_with_1(
    command: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "two\nlines.trwkv")
    assert main([command, path, *(["-p", "a"] if command == "generate" else [])]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        shown.err.startswith("tinyrwkv: ")
        and shown.err.count("\n") == 1
        and "lines.trwkv" in shown.err
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--temperature", "-1"],
        ["--top-p", "2"],
        ["--seed", "-1"],
        ["-n", "-1"],
        ["--stop", ""],
        ["--threads", "0"],
        ["--backend", "abacus"],
        ["--resident-limit", "1B"],
        ["--state", "nowhere"],
    ],
)
def test_values_out_of_range_are_errors(
    arguments: list[str], talker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", talker, "-p", "a", *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("tinyrwkv: ") and shown.err.count("\n") == 1


def test_ctrl_c_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.info, "run", interrupted)
    assert main(["info", "x"]) == 130
    assert capsys.readouterr().out == ""


def test_ctrl_c_while_generating(endless: str) -> None:
    with Terminal("-m", "tinyrwkv", "generate", endless, "-p", "?", "-n", "1000000000") as terminal:
        terminal.wait_for(" on and on")
        terminal.type("\x03")
        assert "Traceback" not in terminal.wait_for("interrupted")
        assert terminal.status() == 130


# generate


def test_generate_prints_the_continuation_only(talker: str) -> None:
    done = run("-m", "tinyrwkv", "generate", talker, "-p", "How much?", "--temperature", "0")
    assert done.stdout == " café is €5.\n\nNext"
    assert "ended by stop" in done.stderr and done.stderr.count("\n") == 1
    assert done.returncode == 0


def test_generate_is_what_the_library_does(
    tiny: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", tiny(), "-p", "Once upon", "-n", "12", "--seed", "5", "--quiet"]) == 0
    shown = capsys.readouterr()
    pieces = tinyrwkv.load(tiny()).generate(
        "Once upon", sampler=tinyrwkv.Sampler(seed=5), max_tokens=12
    )
    assert shown.out == "".join(piece.text for piece in pieces) and shown.err == ""


def test_guesses_change_no_text(
    tiny: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["generate", tiny("v7"), "-p", "ab ab ab ab", "-n", "40", "--temperature", "0"]
    shown = []
    for more in ([], ["--no-lookup"], ["--draft", tiny("v4")], ["--draft", tiny("v7")]):
        assert main([*call, *more]) == 0
        told = capsys.readouterr()
        shown.append(told.out)
        assert "guesses right" not in told.err or more != ["--no-lookup"]
    assert len(set(shown)) == 1
    assert main([*call, "--draft", "nowhere.trwkv"]) == 1
    assert "nowhere.trwkv" in capsys.readouterr().err


def test_generate_stops_and_counts(talker: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            ["generate", talker, "-p", "?", "--temperature", "0", "--stop", "\n\n", "--stop", "5."]
        )
        == 0
    )
    assert capsys.readouterr().out == " café is €"
    assert main(["generate", talker, "-p", "?", "--temperature", "0", "-n", "2"]) == 0
    assert capsys.readouterr().out == " caf\ufffd"  # the length limit cuts a character in two


def test_generate_reads_standard_input(talker: str) -> None:
    done = run(
        "-m",
        "tinyrwkv",
        "generate",
        talker,
        "-p",
        "-",
        "--temperature",
        "0",
        "--quiet",
        text=b"\xff how much?",
    )
    assert done.stdout == " café is €5.\n\nNext" and done.stderr == ""


def test_generate_goes_on_from_a_saved_state(
    tiny: Callable[..., str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, common = str(tmp_path / "state"), ["--temperature", "0", "--quiet"]
    assert (
        main(["generate", tiny(), "-p", "Once upon a", "-n", "0", "--save-state", state, *common])
        == 0
    )
    assert capsys.readouterr().out == ""
    assert main(["generate", tiny(), "-p", " time", "-n", "9", "--state", state, *common]) == 0
    model = tinyrwkv.load(tiny())
    ids = [0, *model.tokenizer.encode("Once upon a"), *model.tokenizer.encode(" time")]
    settings = {"sampler": tinyrwkv.Sampler(temperature=0), "max_tokens": 9}
    pieces = model.generate(ids, state=model.new_state(), **settings)
    assert capsys.readouterr().out == "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [([], "f32"), (["--state-dtype", "int8"], "i8"), (["--state-dtype", "f16"], "f16")],
)
def test_generate_saves_states_of_the_type_that_is_wanted(
    tiny: Callable[..., str], tmp_path: pathlib.Path, options: list[str], dtype: str
) -> None:
    state = str(tmp_path / "state")
    arguments = ["generate", tiny(), "-p", "a", "-n", "1", "--quiet", "--save-state", state]
    assert main([*arguments, *options]) == 0
    with tinyrwkv.file.mapped.open_file(state) as file:
        assert file.tensors["state"].dtype == dtype
    assert main(["generate", tiny(), "-p", "a", "-n", "1", "--quiet", "--state", state]) == 0


def test_a_type_of_states_that_does_no_good_is_refused_before_anything_is_generated(
    tiny: Callable[..., str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = str(tmp_path / "state")
    wanted = ["-p", "a", "-n", "3", "--state-dtype", "int8"]
    assert main(["generate", tiny("v4"), *wanted, "--save-state", state]) == 1
    out, err = capsys.readouterr()
    assert out == "" and f"{state}: states of RWKV-4 are saved as f32 only" in err
    assert main(["generate", tiny(), *wanted]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "none is saved; add --save-state FILE" in err
    assert main(["chat", tiny("v4"), "--state-dtype", "int8"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "states of RWKV-4 are saved as f32 only" in err


@pytest.mark.parametrize(("options", "dtype"), [([], "i8"), (["--state-dtype", "f32"], "f32")])
def test_chat_keeps_states_of_the_type_that_is_wanted(
    tiny: Callable[..., str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    dtype: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    talk = tmp_path / "talk.state"
    arguments = ["chat", tiny(), "--system", "Be kind.", "-n", "2", "--resume", str(talk)]
    assert main([*arguments, *options]) == 0
    kept = [*(tmp_path / "cache").rglob("*.state"), talk]
    assert len(kept) == 2
    for path in kept:
        with tinyrwkv.file.mapped.open_file(path) as file:
            assert file.tensors["state"].dtype == dtype


def test_text_needs_a_tokenizer(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.random_model import write
    from tests.helpers.tiny_models import shape_of

    path = str(tmp_path / "m")
    write(path, shape_of("v7"), "f32", low=8)
    assert main(["generate", path, "-p", "a"]) == 1
    assert "--vocab" in capsys.readouterr().err
    assert main(["info", path]) == main(["plan", path]) == main(["verify", path]) == 0


# info, plan, verify


def test_info(tiny: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", tiny(), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with tinyrwkv.file.mapped.open_file(tiny()) as file:
        assert told["metadata"] == file.metadata and told["hash"] == file.hash
        assert [tensor["name"] for tensor in told["tensors"]] == list(file.tensors)
        assert told["file_bytes"] == os.path.getsize(tiny())
    assert told["tensors"][0].keys() == {"name", "dtype", "shape", "offset", "nbytes", "crc32"}
    assert told["backends"]["numpy"] and "program" not in told
    assert main(["info", tiny(), "--tensors"]) == 0
    shown = capsys.readouterr().out
    assert all(tensor["name"] in shown for tensor in told["tensors"]) and told["hash"] in shown
    assert main(["info", tiny()]) == 0
    brief = capsys.readouterr().out
    assert told["hash"] in brief and "head.weight" not in brief
    count = len(told["tensors"])
    assert f"\ntensors          {count}: " in brief and "--tensors lists them\n" in brief


def test_info_is_brief_about_compression(
    tiny: Callable[..., str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = {
        "nll": 3.27767927,
        "bytes": 38384292.0,
        "rows": 1024,
        "by": None,
        "layers": [{"recall": 0.77}],
        "ranks": {},
    }
    steps = [
        {"technique": "low rank", "params": {"whiten": True, "text": "own"}, "report": report},
        {"technique": "nothing", "params": {}, "report": {}},
    ]
    path = rewrite(
        tiny(), tmp_path / "model", lambda metadata, _: metadata.update(compression=steps)
    )
    assert main(["info", path]) == 0
    shown = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "low rank" in line or "nothing:" in line or "nll" in line
    ]
    assert shown == [
        "compression      low rank: whiten True, text own",
        "                 nll 3.278, bytes 38,384,292, rows 1,024",
        "compression      nothing:",
    ]
    assert main(["info", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["compression"] == steps


def test_info_shows_the_program(
    tiny: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    program = list(describe(tinyrwkv.load(tiny()).program))
    assert main(["info", tiny(), "--program"]) == 0
    assert capsys.readouterr().out.splitlines() == program
    assert main(["info", tiny(), "--program", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["program"] == program


def test_info_shows_no_program_of_tensors_that_do_not_fit(
    tiny: Callable[..., str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shorten(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        tensors["ln_out.bias"] = tensors["ln_out.bias"][:-1]

    path = rewrite(tiny(), tmp_path / "short.trwkv", shorten)
    assert main(["info", path]) == 0
    capsys.readouterr()
    assert main(["info", path, "--program"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "'ln_out.bias' must be" in shown.err


def test_info_of_a_state(
    tiny: Callable[..., str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "state")
    tinyrwkv.load(tiny()).new_state().save(path)
    assert main(["info", path]) == 0 and main(["verify", path]) == 0
    capsys.readouterr()
    assert main(["plan", path]) == 1 and main(["info", path, "--program"]) == 1


def test_plan(tiny: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", tiny(), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == tinyrwkv.load(tiny()).plan()
    assert {"file_bytes", "touched_bytes_per_token", "resident_bytes_max", "parts"} <= told.keys()
    assert main(["plan", tiny()]) == 0
    shown = capsys.readouterr().out
    assert (
        all(part["part"] in shown for part in told["parts"])
        and "together" in shown
        and "it chooses" not in shown
    )


def test_plan_within_a_limit(
    tiny: Callable[..., str], linux: None, capsys: pytest.CaptureFixture[str]
) -> None:
    least = least_resident(tinyrwkv.load(tiny()).steps)
    assert main(["plan", tiny(), "--json", "--resident-limit", f"{least}B"]) == 0
    assert json.loads(capsys.readouterr().out)["resident_bytes_max"] <= least
    assert main(["plan", tiny(), "--resident-limit", f"{least - 1}B"]) == 1


def test_verify(
    tiny: Callable[..., str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", tiny()]) == 0
    shown = capsys.readouterr()
    assert "every checksum is right" in shown.out and shown.err == ""
    assert main(["verify", tiny(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    data = bytearray(pathlib.Path(tiny()).read_bytes())
    data[tinyrwkv.file.mapped.open_file(tiny()).tensors["head.weight"].offset] ^= 1
    broken = tmp_path / "broken"
    broken.write_bytes(data)
    assert main(["verify", str(broken)]) == 1
    assert "head.weight" in capsys.readouterr().err
    assert main(["verify", str(broken), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False and "head.weight" in told["error"]


def test_verify_draws_a_bar_in_a_terminal(tiny: Callable[..., str]) -> None:
    with Terminal("-m", "tinyrwkv", "verify", tiny(), columns=60) as terminal:
        assert "\rverify [" in terminal.wait_for("every checksum is right")
        assert terminal.status() == 0


# bench


def test_bench(tiny: Callable[..., str]) -> None:
    amounts = ("--prompt-tokens", "8", "--tokens", "3", "--repeat", "1")
    done = run("-m", "tinyrwkv", "bench", tiny(), *amounts, "--json")
    assert done.returncode == 0 and done.stderr == ""
    told = json.loads(done.stdout)
    assert tuple(told) == BENCH_KEYS
    assert told["backend"] == "numpy" and told["threads"] == 1
    assert all(told[key] > 0 for key in BENCH_KEYS[2:5])
    assert (
        told["touched_bytes_per_token"] == tinyrwkv.load(tiny()).plan()["touched_bytes_per_token"]
    )
    if tinyrwkv.file.system.LINUX:
        assert 10**7 < told["rss_anon_bytes"] <= told["peak_rss_bytes"] < 10**9
        assert 0 < told["resident_bytes"] <= os.path.getsize(tiny()) + 4096


def test_bench_counts_what_a_token_chooses(
    tiny: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny("v5.2", "int8", "compressed")
    assert (
        main(["bench", path, "--prompt-tokens", "8", "--tokens", "9", "--repeat", "1", "--json"])
        == 0
    )
    every, file = (
        tinyrwkv.load(path).plan()[key] for key in ("touched_bytes_per_token", "file_bytes")
    )
    assert every < json.loads(capsys.readouterr().out)["touched_bytes_per_token"] < file


def test_bench_for_people(tiny: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", tiny(), "--prompt-tokens", "2", "--tokens", "2", "--repeat", "1"]) == 0
    shown = capsys.readouterr().out
    assert "backend numpy, 1 thread\n" in shown and shown.count("tok/s") == 2
    assert main(["bench", tiny(), "--repeat", "0"]) == 1
