"""The benchmarks run, on next to nothing, and say what they measured."""

from __future__ import annotations

import contextlib
import json
import os

import numpy as np
import pytest

import tinyrwkv
from benchmarks import (
    block_sharing,
    common,
    compression,
    constraints,
    contention,
    deep_embedding,
    embedding_bits,
    engine_process,
    int4_repairs,
    kernels,
    limit,
    lite,
    memory,
    peers,
    preview,
    promises,
    random_checkpoint,
    random_model,
    serve,
    small_chunks,
    speculation,
    startup,
    states,
    tokens,
)
from benchmarks.random_model import sizes
from converters.calibrate import calibration
from converters.write.convert import convert
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import write_pth
from tests.helpers.servers import WHY_NOT
from tests.helpers.tiny_models import VOCABULARY
from tinyrwkv.kernels import abi
from tinyrwkv.loading import BUNDLED
from tinyrwkv.versions.layout import VERSIONS

SHAPE = ["--layers", "1", "--width", "64", "--vocab", "100"]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "STREAM_BYTES", 1 << 16)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(calibration, "FIT", 600)
    monkeypatch.setattr(calibration, "HELD_OUT", 100)
    sample = calibration.sample_documents
    fewer = lambda model, tokens, *rest: sample(model, tokens // 16, *rest)  # noqa: E731
    monkeypatch.setattr(calibration, "sample_documents", fewer)


@pytest.fixture
def run(capsys):
    """Run a benchmark; return what it prints as JSON."""

    def call(benchmark, *arguments):
        benchmark.main([*arguments, "--json"])
        return json.loads(capsys.readouterr().out)

    return call


def test_the_machine(capsys, monkeypatch):
    monkeypatch.setattr(common.os, "getloadavg", lambda: (2.0, 0.0, 0.0), raising=False)
    about = common.machine((1, 2))
    assert "the load average is 2.0" in capsys.readouterr().err
    assert set(about["stream_gb_s"]) == {"1", "2"}
    assert min(about["stream_gb_s"].values()) > 0
    assert (about["load_average"], about["numpy"]) == (2.0, np.__version__)
    assert set(about["backends"]) == {"native", "numba", "numpy"}
    monkeypatch.setattr(common.os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    common.machine()
    assert capsys.readouterr().err == ""


def test_a_table():
    assert (
        common.table([("a", 1.25, None), ("bcd", 22.0, 3)], ("x", "long", "y"))
        == "x    long  y\na     1.2  -\nbcd  22.0  3"
    )


def test_kernels(run, backend, tiny):
    told = run(kernels, tiny("v6"), "--backend", backend, "--repeat", "1", "--tokens", "2")
    (only,) = told["runs"]
    model = tinyrwkv.load(tiny("v6"), backend=backend)
    assert only["backend"] == backend
    assert sum(kind["count"] for kind in only["kinds"]) == len(model.program.operations)
    assert sum(kind["bytes"] for kind in only["kinds"]) == model.plan()["touched_bytes_per_token"]
    products = {kind["kind"]: kind["macs"] for kind in only["kinds"] if kind["macs"]}
    assert set(products) == {
        kernels.name_of(one) for one in model.program.operations if one.opcode == abi.MATMUL
    }
    assert products["MATMUL 300x64"] == 2 * 300 * 64
    assert told["tokens"] == 2


def test_tokens(run, tiny, tmp_path):
    few = ["--turns", "1", "--tokens", "3", "--prompt", "5", "--backend", "numpy"]
    told = run(tokens, tiny(), *few, "--threads", "1", "2", "--save")
    (only,) = told["runs"]  # NumPy has no threads of ours
    assert (only["backend"], only["threads"]) == ("numpy", 1)
    assert only["decode_p10_tok_s"] >= only["decode_tok_s"] > 0
    read = only["touched_bytes_per_token"] * only["decode_tok_s"] / 1e9
    assert only["of_stream"] == pytest.approx(read / told["machine"]["stream_gb_s"]["1"], abs=1e-3)
    assert only["prefill_tok_s"] > 0 and only["of_stream"] > 0
    assert json.loads((tmp_path / "results" / "tokens.json").read_text()) == told
    assert run(tokens, *SHAPE, "--arch", "v4", "--dtype", "f16", *few)["arch"] == "v4"


def test_speculation(run, tiny):
    few = ["--turns", "1", "--tokens", "30", *SHAPE]
    told = run(speculation, tiny(), "--chunks-of", "1x64", *few)
    assert {row["model"] for row in told["small_chunks"]} == {"v7-1x64-int8.trwkv"}
    checks = {check["about"]: check for check in told["checks"]}
    assert len(checks) == len(told["checks"]) == 7
    assert all(check["found"] > 0 for check in checks.values())
    (changed,) = (about for about in checks if "one word changed" in about)
    assert checks[changed]["least"] == 1.5 and "of guesses right" in changed


def test_tables_are_for_people(capsys, tiny, tmp_path):
    tokens.main([tiny(), "--turns", "1", "--tokens", "2", "--prompt", "2", "--backend", "numpy"])
    out = capsys.readouterr().out
    assert "stream read: " in out and "decode tok/s" in out
    assert not (tmp_path / "results").exists()


def test_limit(run, linux, tiny):
    told = run(limit, tiny(), "--backend", "numpy", "--tokens", "3")
    (only,) = told["runs"]
    assert only["same"] and 0 < only["peak_bytes"] <= told["limit"]
    assert (
        len(only["limited_tok_s"]) == len(only["free_tok_s"]) == limit.ROUNDS and only["ratio"] > 0
    )


@pytest.mark.parametrize("arch", ["v7a", "v8-rc00"])
def test_deep_embedding(run, linux, tiny, arch):
    few = ["--tokens", "2", "--turns", "1", "--limit", str(1 << 30)]
    told = run(deep_embedding, tiny(arch), *few)
    assert [one["how"] for one in told["memory"]] == ["cold", "warm", "limit"]
    assert all(0 < one["resident"] < one["rss"] for one in told["memory"])
    _, warm, limited = (one["table_pages"] for one in told["memory"])
    assert limited <= 1 < warm  # a small table shares its first page with other tensors
    assert told["table"]["touched_bytes_per_token"] == 2 * ({"v7a": 1024}.get(arch, 64) + 4)
    (speed,) = told["speed"]
    assert speed["threads"] == 1 and min(speed["ratio"], speed["plain_tok_s"]) > 0


def test_lite(run, monkeypatch, tmp_path):
    few = [
        "--layers",
        "2",
        "--width",
        "64",
        "--vocab",
        "300",
        "--turns",
        "1",
        "--tokens",
        "2",
        "--threads",
        "1",
    ]
    lite.main([*few, "--make", str(tmp_path / "lite.trwkv")])
    model = tinyrwkv.load(tmp_path / "lite.trwkv")
    assert {"blocks.1.ffn.bundles", "head.codes.4"} <= set(model.file.tensors)
    keep = ["--folder", str(tmp_path / "kept")]
    told = run(lite, *few, *keep)
    # What is asked of the layers, on average, and what they do.
    assert told["do_not_fire"] == pytest.approx(1 - sum(lite.FIRING) / 2, abs=0.05)
    assert 0 < told["touched_bytes_per_token"]["lite"] < told["touched_bytes_per_token"]["dense"]
    speeds = {form: by_threads["1"] for form, by_threads in told["decode_tok_s"].items()}
    for form in ("dense", "lite_int8"):
        assert told["ratio"][form]["1"] == pytest.approx(speeds["lite"] / speeds[form], rel=0.01)
    monkeypatch.delattr(lite, "make")
    again = run(lite, *few, *keep)
    assert all(again[key] == told[key] for key in ("do_not_fire", "touched_bytes_per_token"))


def test_memory(run, linux, tiny):
    told = run(memory, tiny(), "--backend", "numpy", "--tokens", "3", "--cold")
    (only,) = told["runs"]
    assert os.path.exists(BUNDLED) == (told["chat_peak"] is not None and told["chat_peak"] > 10**7)
    assert [step["step"] for step in only["steps"]] == [
        "python",
        "numpy",
        "tinyrwkv",
        "loaded",
        "first token",
        "3 tokens",
    ]
    assert all(step["peak"] >= step["rss"] > step["anon"] > 0 for step in only["steps"])
    assert 0 < only["steps"][-1]["resident"] <= only["plan"]["resident_bytes_max"]


def test_what_a_process_says_is_passed_on(linux, tmp_path):
    with pytest.raises(SystemExit, match="no such file: "):
        memory.child((str(tmp_path / "none"), "numpy", "1", "0", "1"))
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        startup.process("1 / 0")


def test_serve(run, linux):
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    few = ("--repeat", "1", "--conversations", "10")
    told = run(serve, "--words", "6", *few, "--layers", "1", "--width", "64")
    assert [one["model"] for one in told["follow_up"]] == ["default", "v7-1x64"]
    for one in told["follow_up"]:
        assert one["history_tokens"] > 60 and 6 < one["new_tokens"] < 40
        assert one["served_ms"] > 0 and one["alone_ms"] > 0 and one["ratio"] > 0
    assert [step["conversations"] for step in told["memory"]] == list(range(11))
    assert all(step["rss_bytes"] > step["anon_bytes"] > 10**6 for step in told["memory"])


def test_startup(run, tiny, monkeypatch):
    assert startup.process("pass") > 0
    seconds = {"pass": 0.02, "import numpy": 0.1, "import tinyrwkv": 0.13}
    monkeypatch.setattr(startup, "process", lambda code, *arguments: seconds.get(code, 0.2))
    told = run(startup, tiny(), "--backend", "native", "numpy", "--repeat", "2")
    assert told["import_beyond_numpy_s"] == pytest.approx(0.03)
    assert set(told["seconds"]) == {
        *(
            "python",
            "numpy",
            "tinyrwkv",
            "load native",
            "first token native",
            "load numpy",
            "first token numpy",
        )
    }


@pytest.mark.parametrize("step", ["load", "first token"])
def test_the_steps_of_a_start_run(tiny, step):
    assert startup.process(startup.STEPS[step], tiny(), "numpy") > 0


def test_peers_that_are_not_there_are_left_out(run):
    few = ["--turns", "1", "--tokens", "2", "--prompt", "3", "--threads", "1"]
    told = run(peers, *SHAPE, *few, "--peers-python", "/nowhere/python")
    both = {"decode of int4 by int8, 1 threads", "decode by the stream read, 1 threads"}
    assert set(told["ratios"]) == both
    names = ["tinyrwkv", "tinyrwkv exact", "tinyrwkv int4"]
    assert [one["name"] for one in told["runs"]] == names
    for one in told["runs"]:
        _, _, form = one["name"].partition(" ")
        assert one["engine"].startswith("tinyrwkv ") and one["engine"].endswith(form)
        assert one["decode_tok_s"] > 0 and one["prefill_tok_s"] > 0 and one["load_s"] > 0
    assert set(told["left_out"]) == {"rwkv", "llama", "llama Q4_0"}


def test_ratios_compare_runs_with_as_many_threads():
    def one(name, threads, speed, rss):
        speeds = {"decode_tok_s": speed, "decode_p10_tok_s": 2 * speed, "prefill_tok_s": 3 * speed}
        return {"name": name, "threads": threads, "rss": rss, **speeds}

    runs = [
        one("tinyrwkv", 1, 100, 10),
        one("tinyrwkv", 2, 150, 10),
        one("llama", 1, 50, 20),
        one("llama", 2, 50, 40),
    ]
    runs.append(one("tinyrwkv exact", 2, 160, 10))
    runs += [one("tinyrwkv int4", 1, 180, 5), one("llama Q4_0", 1, 90, 15)]
    found = peers.ratios(runs, {"1": 20.0, "2": 30.0}, 10**8)
    assert found["decode of int4 by int8, 1 threads"] == 1.8
    assert found["decode of int4 by llama Q4_0, 1 threads"] == 2
    exact = {what: ratio for what, ratio in found.items() if "exact" in what}
    assert exact == {"decode of the exact file by llama, 2 threads": 3.2}
    assert found["decode by llama, 1 threads"] == 2 and found["prefill by llama, 2 threads"] == 3
    assert found["RSS of llama, 2 threads, by ours"] == 4
    assert found["decode by the stream read, 1 threads"] == 0.5
    assert found["decode with 2 threads by 1"] == 1.5


def test_a_peer_that_dies_of_a_prompt_is_left_out(run, tmp_path):
    program = tmp_path / "python"
    program.write_text("""#!/bin/sh
case "$2" in
rwkv) echo '{"about": "rwkv 1", "load_s": 0.1}'; read line; echo 'illegal instruction' >&2; exit 3;;
esac
exit 0
""")
    program.chmod(0o700)
    few = ["--turns", "1", "--tokens", "2", "--prompt", "3", "--threads", "1"]
    told = run(peers, *SHAPE, *few, "--peers-python", str(program))
    assert (
        told["left_out"]["rwkv"]
        == "it ended with 3, and the last that it said is: illegal instruction"
    )
    names = ["tinyrwkv", "tinyrwkv exact", "tinyrwkv int4"]
    assert [one["name"] for one in told["runs"]] == names


class Said:
    """Stands for an engine that adds one to a token; one that errs takes 3 for 2."""

    def __init__(self, name, errs=False):
        self.name, self.about, self.errs = name, f"{name} {errs}", errs

    def forward(self, tokens, anew):
        best = (2 if self.errs and tokens[-1] == 3 else tokens[-1]) + 1
        return np.eye(50, dtype=np.float32)[best % 50] * (1.1 if self.errs else 1)

    def ask(self, do, **told):
        return getattr(engine_process, do)(self.forward, **told)


def test_agreement_is_with_the_official_package(tmp_path):
    engines = [Said("tinyrwkv", errs=True), Said("rwkv"), Said("llama")]
    found = peers.agree(engines, 50, str(tmp_path))
    assert found["rwkv False"] == found["llama False"] == {"rms": 0, "greedy": 32}
    assert found["tinyrwkv True"] == {"rms": pytest.approx(0.1, rel=0.02), "greedy": 31}
    assert peers.agree(engines[:1], 50, str(tmp_path)) == {
        "tinyrwkv True": {"rms": None, "greedy": None}
    }


def test_an_engine_reads_one_by_one_or_at_once(tmp_path):
    seen = []

    def forward(tokens, anew):
        seen.append((tokens, anew))
        return np.eye(5, dtype=np.float32)[(tokens[-1] + 1) % 5]

    assert engine_process.decode(forward, [1, 1, 1])["best"] == [2, 2, 2]
    assert engine_process.decode(forward, [1, 1, 1], greedy=True)["best"] == [2, 3, 4]
    assert seen[3:] == [([1], True), ([2], False), ([3], False)]
    assert engine_process.prefill(forward, [3, 2], save=str(tmp_path / "x.npy"))["seconds"] >= 0
    assert np.load(tmp_path / "x.npy").argmax() == 3
    assert seen[-1] == ([3, 2], True)


@pytest.mark.parametrize("arch", VERSIONS)
def test_random_checkpoints_are_whole(arch, tmp_path, oracle):
    path = str(tmp_path / "a.safetensors")
    random_checkpoint.write(
        path, sizes(arch, 2, 64, 50, 16), ranks={letter: 8 for letter in "DEwavg"}
    )
    convert(path, tmp_path / "a.trwkv", dtype="f32")
    raw = random_checkpoint.read(path)
    model = tinyrwkv.load(tmp_path / "a.trwkv", backend="numpy")
    np.testing.assert_array_equal(model.file["head.weight"], raw["head.weight"])
    logits, state = model.forward(range(20), logits="all")
    assert np.isfinite(logits).all() and np.isfinite(state.data).all()
    assert 0.1 < logits.std() < 10


def compressible(folder):
    """Write a checkpoint, its vocabulary and a text; return what --model takes."""
    write_pth(folder / "a.pth", raw_checkpoint("v5.2", n_embd=64, head_size=16, vocab_size=300))
    lines = (f"{id} {word!r} {len(word)}\n" for id, word in sorted(VOCABULARY.items()))
    (folder / "vocab.txt").write_text("".join(lines))
    (folder / "text.txt").write_text("User: go\n\nAssistant: ab\n\n<|doc|>\n" * 99)
    return [str(folder / name) for name in ("a.pth", "vocab.txt", "text.txt", "text.txt")]


def test_compression(run, monkeypatch, tmp_path):
    monkeypatch.setattr(compression, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("before\n<!-- tables -->\nold\n<!-- end -->\nafter\n")
    paths = compressible(tmp_path)
    options = ["--folder", str(tmp_path / "files"), "--tokens", "4", "--limit", "2"]
    only = ["--only", "int8", "values", "low rank 1/3", "predicted"]
    made = run(compression, "--model", *paths, *options, *only, "--step", "make")
    assert made["models"] == {"a.pth": {}}
    assert "".join(compression.table(made)) == ""
    told = run(compression, "--model", *paths, *options, *only, "--write")
    rows = told["models"]["a.pth"]
    assert list(rows) == [
        "int8",
        "values of neurons that fire",
        "low rank 1/3, whitened",
        "predicted neurons, 17 %",
    ]
    for row in rows.values():
        assert set(compression.COLUMNS) <= set(row)
        assert row["decode_tok_s"] > 0
    dense, exact, *_ = rows.values()
    assert (exact["nll"], exact["exact_match"]) == (dense["nll"], dense["exact_match"])
    assert exact["touched_bytes"] < dense["touched_bytes"]
    assert (exact["greedy"], exact["head_bytes"]) == (1, dense["head_bytes"])
    assert 0 < exact["chosen_value_bytes"] < exact["channel_mix_bytes"] < dense["channel_mix_bytes"]
    assert "Of the values, neurons that fire need" in (tmp_path / "page.md").read_text()
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n<!-- tables -->\n### a.pth\n")
    assert page.endswith("<!-- end -->\nafter\n")
    assert "old" not in page
    # a step alone takes the files and results that are there
    again = run(
        compression, "--model", *paths, *options, "--only", "int8", "--step", "speed", "--write"
    )
    assert again["models"]["a.pth"]["values of neurons that fire"] == exact
    with pytest.raises(ValueError, match="found no"):
        compression.written("nothing", told)


def test_preview(run, capsys, tmp_path):
    checkpoint, vocab, calibrate, text = compressible(tmp_path)
    dense = str(tmp_path / "dense.trwkv")
    convert(checkpoint, dense, "int8", vocab)
    paths = [dense, calibrate, text]
    options = ["--likely", "0.5", "0.9999", "--seeds", "0", "1", "--rows", "8", "300"]
    whole, *rows = run(preview, *paths, *options, "--limit", "2")
    assert [row["exact_rows"] for row in rows] == [8, 300] * 4
    assert [row["seed"] for row in rows] == [0, 0, 1, 1] * 2
    few, every, *_ = rows
    assert few["touched_bytes"] < every["touched_bytes"]
    # All rows exact is the dense head.
    assert every["nll"] == pytest.approx(whole["nll"])
    assert few["nll"] != pytest.approx(whole["nll"])
    preview.main([*paths, "--rows", "8", "--limit", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| dense head | all | ") and len(lines) == 4


@pytest.mark.slow
def test_states(run, tiny, tmp_path):
    (tmp_path / "text").write_text("Once upon a time, abc. " * 3)
    (tmp_path / "documents").write_text("User: abc\n<|doc|>\nUser: the bc\n")
    files = [["--model", tiny(), str(tmp_path / name)] for name in ("text", "documents")]
    found = run(states, *files[0], *files[1], "--every", "2")
    text, documents = found["models"]
    assert (text["texts"], documents["texts"], found["every"]) == (1, 2, 2)
    with tinyrwkv.load(tiny()) as model:
        ids = model.tokenizer.encode((tmp_path / "text").read_text())
        logits, _ = model.forward([0, *ids[:-1]], logits="all")
    exact = logits.astype(np.float64)
    expected = np.log(np.exp(exact).sum(axis=1)) - exact[range(len(ids)), ids]
    assert text["nll"] == pytest.approx(expected.mean()) and text["tokens"] == len(ids)
    for one in (text, documents):
        types = one["types"]
        assert types["f32"]["nll_delta"] == 0 != types["int8"]["nll_delta"]
        assert abs(types["int8"]["nll_delta"]) < 0.05
        assert types["int8"]["file_bytes"] < types["f16"]["file_bytes"] < types["f32"]["file_bytes"]


def test_promises(run, linux, tmp_path):
    paths = compressible(tmp_path)
    few = ["--folder", str(tmp_path / "files"), "--limit", "2", "--tokens", "3", "--threads", "1"]
    with pytest.raises(tinyrwkv.TinyRWKVError, match=r"no such file.*none"):
        run(promises, "--model", *paths[:3], str(tmp_path / "none"), *SHAPE, *few)
    with pytest.raises(tinyrwkv.TinyRWKVError, match="the same text as the calibration text"):
        run(promises, "--model", *paths, "--judge", paths[2], *SHAPE, *few)
    other = tmp_path / "other.txt"
    other.write_text("User: turn\n\n" * 99)
    others = ["--judge", str(other)]
    told = run(promises, "--model", *paths, *others, "--small", *paths, *SHAPE, *few)
    checks = {check["about"]: check for check in told["checks"]}
    assert len(checks) == len(told["checks"]) > 40
    own, far, mean = (
        checks[about]["found"]
        for about in (
            "lite: nll above f32",
            f"{compression.LITE}: nll above f32 on other.txt",
            f"{compression.LITE}: nll above f32, mean of all 2 texts",
        )
    )
    assert mean == pytest.approx((own + far) / 2)
    exact = [
        check["found"]
        for about, check in checks.items()
        if "differ" in about and "that differ" in about
    ]
    assert exact == [0, 0]
    interrupted = [check["found"] for about, check in checks.items() if "interrupted" in about]
    assert interrupted == [0] * len(promises.INTERRUPTED)
    assert checks["limit of 12 MB: the text is the same (1: yes)"]["holds"]
    assert checks["low rank that saves nothing is refused (1: yes)"]["holds"]
    assert checks["a lite: points of right answers below f32"]["found"] == 0
    assert not checks["exact: bytes of values, so many times fewer"][
        "holds"
    ]  # half of them fire here


def test_a_figure_is_on_one_side_of_its_bar():
    assert promises.Check("a", 2.0, most=2).row == ("a", "2", " at most 2", "yes")
    assert promises.Check("a", 2.01, most=2).row == ("a", "2.01", " at most 2", "NO")
    assert promises.Check("a", 1.99, least=2).row == ("a", "1.99", "at least 2", "NO")
    assert (
        promises.Check("a", 12345).row == ("a", "12,345", "-", "")
        and promises.Check("a", 0.1).row[1] == "0.1000"
    )


@pytest.mark.usefixtures("linux")
def test_pages_of_the_embedding_that_nobody_needs_are_seen(tmp_path, monkeypatch):
    path = str(tmp_path / "a.trwkv")
    random_model.write(path, sizes("v5.2", 1, 256, 65536), "int8")
    few = promises.pages_of_others(path, [5, 900])
    assert few <= promises.WITH_HEADER
    read = promises.cold

    @contextlib.contextmanager
    def cold(path):
        with read(path) as model:
            model.forward([2000])
            yield model

    monkeypatch.setattr(promises, "cold", cold)
    assert promises.pages_of_others(path, [5, 900]) == few + 1


def test_constraints(run):
    told = run(constraints, "--tokens", "4", "--prompts", "2", "--backend", "numpy")
    assert (told["vocab_size"], told["prompts"], told["backend"]) == (4096, 2, "numpy")
    assert [each["constraint"] for each in told["runs"]] == list(constraints.CASES)
    for each in told["runs"]:
        assert 0 < each["tokens"] <= 8
        assert each["first_max_us"] >= each["first_us"] > 0
        assert each["again_share"] == pytest.approx(
            each["again_us"] / told["decode_us"], rel=0.05, abs=1e-3
        )


def test_contention_measures_beside_other_processes(run):
    counts = ["--threads", "1", "2", "--busy", "0", "1"]
    found = run(contention, *SHAPE, *counts, "--tokens", "4", "--prompt", "8", "--turns", "2")
    runs = found["runs"]
    assert [(one["busy"], one["threads"]) for one in runs] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(one["slowest_ms"] >= one["median_ms"] > 0 for one in runs)
    assert all(one["decode_tok_s"] > 0 and one["prefill_tok_s"] > 0 for one in runs)


def test_small_chunks_have_their_bars(run, tiny):
    rows = [row for threads in (1, 2, 3) for row in small_chunks.measure(tiny(), threads, 2)]
    assert [row["tokens"] for row in rows] == [2, 4, 8] * 3
    assert [row["bar"] for row in rows] == [
        *small_chunks.BARS[1],
        *small_chunks.BARS[2],
        *[None] * 3,
    ]
    assert all(row["ms"] > 0 and row["one_token_ms"] > 0 for row in rows)
    first = {**rows[0], "times_one_token": 1.2}
    shown = small_chunks.table([first, {**first, "times_one_token": 1.1}]).splitlines()
    assert [line.endswith("missed") for line in shown] == [False, True, False]


def test_blocks_that_share(tmp_path, capsys):
    lines = (f"{id} {word!r} {len(word)}\n" for id, word in sorted(VOCABULARY.items()))
    (tmp_path / "vocab.txt").write_text("".join(lines))
    text = tmp_path / "text.txt"
    text.write_text("the cat ran. abc " * 40)
    raw = raw_checkpoint("v7", n_layer=3, n_embd=64, head_size=16, vocab_size=300)
    for name in [name for name in raw if name.startswith("blocks.2.")]:
        raw[name] = raw[name.replace("blocks.2.", "blocks.1.")]  # two blocks that are alike
    write_pth(tmp_path / "model.pth", raw)
    model = tmp_path / "model.trwkv"
    convert(tmp_path / "model.pth", model, vocab=tmp_path / "vocab.txt", dtype="f32")
    block_sharing.main([str(model), str(text), "--limit", "1", "--rank", "64"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    first, second = ([float(cell) for cell in row[1:]] for row in rows)
    assert abs(first[0]) < 0.2 and first[1] != 0 and first[2] != 0
    assert first[3] == 0  # of the full rank
    assert second[0] == 1 and second[1] != 0 and second[2:] == [0, 0]


def test_bits_of_embedding_and_head(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(embedding_bits, "CALIBRATION_TOKENS", 600)
    monkeypatch.setattr(embedding_bits, "CUTS", (20, 80))
    monkeypatch.setattr(embedding_bits, "CUTS_OF_EMBEDDING", (80,))
    lines = (f"{id} {word!r} {len(word)}\n" for id, word in sorted(VOCABULARY.items()))
    (tmp_path / "vocab.txt").write_text("".join(lines))
    text = tmp_path / "text.txt"
    text.write_text("\n<|doc|>\n".join("the cat ran. abc " * 40 for _ in "abc"))
    raw = raw_checkpoint("v5.2", n_layer=1, n_embd=64, head_size=16, vocab_size=300)
    write_pth(tmp_path / "model.pth", raw)
    model = tmp_path / "model.trwkv"
    convert(tmp_path / "model.pth", model, vocab=tmp_path / "vocab.txt", dtype="f32")
    embedding_bits.main([str(model), *[str(text)] * 3, "--limit", "1"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[3:]]
    found = {title: (float(size), float(divergence)) for title, size, *_, divergence in rows}
    assert len(found) == len(rows) == 5 + 4 + 6
    for part in ("head", "embedding"):
        four, five, six, eight = (
            min(divergence for title, (_, divergence) in found.items() if title.startswith(name))
            for name in (f"{part}, 4", f"{part}, 5", f"{part}, 6", f"{part}, int8")
        )
        assert four > five > six > eight >= 0
    rows_in_int8 = [
        found[f"head, {first}4 bits, nearest"][1]
        for first in ("", "20 rows int8, others ", "80 rows int8, others ")
    ]
    assert sorted(rows_in_int8, reverse=True) == rows_in_int8


def test_repairs_of_int4(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(int4_repairs, "TOKENS", 600)
    lines = (f"{id} {word!r} {len(word)}\n" for id, word in sorted(VOCABULARY.items()))
    (tmp_path / "vocab.txt").write_text("".join(lines))
    (tmp_path / "text.txt").write_text("\n<|doc|>\n".join("the cat ran. abc " * 40 for _ in "abc"))
    raw = raw_checkpoint("v5.2", n_layer=1, n_embd=64, head_size=16, vocab_size=300)
    write_pth(tmp_path / "model.pth", raw)
    model, text = tmp_path / "model.trwkv", str(tmp_path / "text.txt")
    convert(tmp_path / "model.pth", model, vocab=tmp_path / "vocab.txt")
    int4_repairs.main([str(model), text, text, "--layer", "0"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    errors = {title: float(error.removesuffix(" %")) for title, _, error in rows}
    bits = {title: float(found) for title, found, _ in rows}
    assert errors["nothing"] < errors["rounded to nearest"]
    for repair in set(errors) - {"nothing", "rounded to nearest"}:
        assert errors[repair] < errors["nothing"], repair
        assert bits[repair] > bits["nothing"] == bits["rounded to nearest"], repair
