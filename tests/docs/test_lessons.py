"""The lessons: asserts fail when their claim is broken, exercises hold only when repaired."""

from __future__ import annotations

import ast
import importlib
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyrwkv
from converters.calibrate import collect, documents
from converters.techniques import (
    gptq,
    low_rank,
    predict_ffn,
    round_int4,
    sign_predictor,
    sparse_ffn,
)
from tests.helpers.lessons import LESSONS, head_clusters
from tinyrwkv import Model, Sampler
from tinyrwkv.file import quant, system
from tinyrwkv.file.tensors import MappedFile
from tinyrwkv.versions import preview, reference

NAMES = [path.stem for path in sorted(LESSONS.glob("[0-9]_*.py"))]
MARK = "# <- repair this line"

Patch = pytest.MonkeyPatch

WRITTEN: dict[Any, list[list[int]]] = {}
write_documents = documents.sample_documents


def sample_once(of: Model, tokens: int, seed: int) -> list[list[int]]:
    """Write the documents of a seed once for all lessons."""
    if (tokens, seed) not in WRITTEN:
        WRITTEN[tokens, seed] = write_documents(of, tokens, seed)
    return WRITTEN[tokens, seed]


@pytest.fixture
def pictures(monkeypatch: Patch) -> Iterator[None]:
    """Draw pictures, show none."""
    pytest.importorskip("matplotlib", reason="needs the extra docs").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    monkeypatch.setattr(documents, "sample_documents", sample_once)
    yield
    pyplot.close("all")


def claims(name: str) -> list[str]:
    """Return what a lesson asserts, in its order."""
    tree = ast.parse((LESSONS / f"{name}.py").read_text("utf-8"))
    return [ast.unparse(node.test) for node in tree.body if isinstance(node, ast.Assert)]


def failing(name: str) -> set[int]:
    """Run a lesson to its end; return the numbers of the asserts that fail, from 1 on."""
    path = LESSONS / f"{name}.py"
    tree, failed = ast.parse(path.read_text("utf-8")), set[int]()

    def hear(number: int, holds: Any) -> None:
        if not holds:
            failed.add(number)

    asserts = [node for node in tree.body if isinstance(node, ast.Assert)]
    for number, node in enumerate(asserts, 1):
        call = ast.Call(ast.Name("hear", ast.Load()), [ast.Constant(number), node.test], [])
        tree.body[tree.body.index(node)] = ast.fix_missing_locations(
            ast.copy_location(ast.Expr(call), node)
        )
    exec(
        compile(tree, str(path), "exec"),
        {"__name__": "__main__", "__file__": str(path), "hear": hear},
    )
    return failed


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_claim_of_a_lesson_holds(
    name: str, pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert failing(name) == set()
    except SystemExit:
        assert "skipped: " in capsys.readouterr().out


# How to break each claim: in the function of the package that the lesson imports.


def mix_the_wrong_way(patch: Patch) -> None:
    patch.setattr(reference, "token_shift", lambda x, x_prev, mu: x_prev + (x - x_prev) * mu)


def let_nothing_decay(patch: Patch) -> None:
    patch.setattr(reference, "sigmoid", np.zeros_like)  # so w = 1 and a = 0


def forget_the_exponent(patch: Patch) -> None:
    def time_mix_v4(att: Any, x: Any, x_prev: Any, memory: Any) -> Any:
        k, v = (att[f"{name}.weight"] @ x for name in ("key", "value"))
        with np.errstate(all="ignore"):
            a, b = memory[0] + np.exp(k) * v, memory[1] + np.exp(k)
            return att["output.weight"] @ (a / b), np.stack([a, b, memory[2]])

    patch.setattr(reference, "time_mix_v4", time_mix_v4)


def store_a_wrong_scale(patch: Patch) -> None:
    right = quant.quantize_rows
    patch.setattr(quant, "quantize_rows", lambda w: (right(w)[0], right(w)[1] * np.float32(1.2)))


def round_towards_zero(patch: Patch) -> None:
    def quantize_rows(w: Any) -> Any:
        scale = np.abs(w).max(axis=1) / np.float32(127)
        return np.trunc(w / scale[:, None]).astype(np.int8), scale

    patch.setattr(quant, "quantize_rows", quantize_rows)


def whiten_nothing(patch: Patch) -> None:
    spectrum, round_factors = low_rank.spectrum, low_rank.round_factors
    patch.setattr(low_rank, "spectrum", lambda weight, metric=None: spectrum(weight))
    patch.setattr(low_rank, "round_factors", lambda *arguments: round_factors(*arguments[:3]))


def keep_the_small_values(patch: Patch) -> None:
    def factors(self: Any, rank: int, share: float = 0.5) -> Any:
        last = low_rank.Spectrum(self.left[:, ::-1], self.values[::-1], self.right[::-1])
        return right(last, rank, share)

    right = low_rank.Spectrum.factors
    patch.setattr(low_rank.Spectrum, "factors", factors)


def measured(change: Callable[[dict[str, Any]], None]) -> Callable[[Patch], None]:
    """Break what was measured on a large model."""

    def breaks(patch: Patch) -> None:
        right = json.loads

        def loads(text: str, **options: Any) -> Any:
            found = right(text, **options)
            if "command" in found:  # a file of docs/lessons/data
                change(found)
            return found

        patch.setattr(json, "loads", loads)

    breaks.__name__ = change.__name__
    return breaks


@measured
def measure_that_whitening_harms(found: dict[str, Any]) -> None:
    for run in found["runs"]:
        run["whitened"] = not run["whitened"]


@measured
def measure_that_clusters_are_nearer(found: dict[str, Any]) -> None:
    found["clusters"], found["previews"] = found["previews"], found["clusters"]


def drop_a_neuron_that_fires(patch: Patch) -> None:
    right = sparse_ffn.sparse_exact

    def sparse_exact(neurons: Any, counts: Any) -> Any:
        tensors = right(neurons, counts)
        tensors["value.rows"][0] = 0
        return tensors

    patch.setattr(sparse_ffn, "sparse_exact", sparse_exact)


def let_all_neurons_fire(patch: Patch) -> None:
    right = collect.collect

    def collect_more(*arguments: Any, **options: Any) -> Any:
        found = right(*arguments, **options)
        for count in found.counts.values():
            count[:] = found.tokens
        return found

    patch.setattr(collect, "collect", collect_more)


def read_hardly_any_neuron(patch: Patch) -> None:
    right = predict_ffn.find_prices
    patch.setattr(
        predict_ffn,
        "find_prices",
        lambda fits, settings: right(fits, settings._replace(fraction=0.01)),
    )


def take_the_signs_of_the_weights(patch: Patch) -> None:
    patch.setattr(sign_predictor, "correlated_signs", lambda K, G, steps=None: K >= 0)


def take_the_opposite_signs(patch: Patch) -> None:
    patch.setattr(sign_predictor, "correlated_signs", lambda K, G, steps=None: K < 0)


def forget_the_share_that_was_read(patch: Patch) -> None:
    right = head_clusters.cluster_logits

    def cluster_logits(parts: Any, x: Any) -> Any:
        logits, chosen = right(parts, x)
        group = np.repeat(np.arange(chosen.shape[1]), np.diff(parts["starts"]))
        share = (head_clusters.cluster_probabilities(parts, x) * chosen).sum(axis=1)
        unread = np.where(chosen[:, group], 0, np.log(share)[:, None])
        logits[:, parts["ids"]] += unread
        return logits, chosen

    patch.setattr(head_clusters, "cluster_logits", cluster_logits)


def read_no_row_exactly(patch: Patch) -> None:
    patch.setattr(
        preview, "lowest_score", lambda scores, wanted: scores.max(axis=1, keepdims=True) + 1
    )


def read_the_whole_table(patch: Patch) -> None:
    right = Model.plan

    def plan(self: Model) -> Any:
        found = right(self)
        found["parts"][0]["touched_bytes_per_token"] = found["parts"][0]["file_bytes"]
        return found

    patch.setattr(Model, "plan", plan)


def let_tokens_hang_together(patch: Patch) -> None:
    class Generator:
        def __init__(self, seed: int) -> None:
            self.right = default_rng(seed)

        def choice(self, *arguments: Any, **options: Any) -> Any:
            return np.sort(self.right.choice(*arguments, **options))

    default_rng = np.random.default_rng
    patch.setattr(np.random, "default_rng", Generator)


def write_every_token_once(patch: Patch) -> None:
    patch.setattr(
        documents, "sample_documents", lambda of, tokens, seed: [np.arange(of.config["vocab_size"])]
    )


def read_the_file_when_loading(patch: Patch) -> None:
    right = tinyrwkv.load
    patch.setattr(
        tinyrwkv, "load", lambda *path, **options: right(*path, **{**options, "prefault": True})
    )


def keep_something_for_every_token(patch: Patch) -> None:
    kept, right = list[Any](), Model.forward

    def forward(self: Model, *arguments: Any, **options: Any) -> Any:
        kept.append(
            mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        )  # no memory freed before
        kept[-1].write(bytes(1 << 20))
        return right(self, *arguments, **options)

    patch.setattr(Model, "forward", forward)


def let_no_page_go(patch: Patch) -> None:
    patch.setattr(MappedFile, "advise", lambda *arguments: False)


def plan_too_little(patch: Patch) -> None:
    right = Model.plan
    patch.setattr(Model, "plan", lambda self: right(self) | {"resident_bytes_max": 1 << 20})


def be_sure_of_everything(patch: Patch) -> None:
    right = Model.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        logits, state = right(*arguments, **options)
        return logits * 10_000, state

    patch.setattr(Model, "forward", forward)


def ignore(setting: str, value: Any) -> Callable[[Patch], None]:
    def breaks(patch: Patch) -> None:
        right = Sampler.__post_init__

        def __post_init__(self: Sampler) -> None:
            setattr(self, setting, value)
            right(self)

        patch.setattr(Sampler, "__post_init__", __post_init__)

    breaks.__name__ = f"ignore_{setting}"
    return breaks


def place_values_without_a_zero_point(patch: Patch) -> None:
    def fit_groups(groups: Any) -> Any:
        scale = np.abs(groups).max(axis=1) / 7
        return scale.astype(np.float16), np.full(len(groups), 8, np.uint8)

    patch.setattr(round_int4, "fit_groups", fit_groups)


def feed_nothing_forward(patch: Patch) -> None:
    patch.setattr(gptq, "inverse_root", lambda moments, damping: np.eye(len(moments)))


def round_to_nearest_when_converting(patch: Patch) -> None:
    patch.setattr(gptq, "gptq", lambda W, H: gptq.Fit(round_int4.round_int4(W), 0.0, 0.0))


BROKEN: list[tuple[str, Callable[[Patch], None], set[int]]] = [
    ("1_one_token", mix_the_wrong_way, {1, 2, 3}),
    ("1_one_token", forget_the_exponent, {4}),
    ("1_one_token", let_nothing_decay, {5}),
    ("2_int8", store_a_wrong_scale, {1, 2, 3}),
    ("2_int8", round_towards_zero, {1, 3}),
    ("3_low_rank", whiten_nothing, {2, 3, 5}),
    ("3_low_rank", keep_the_small_values, {1, 2}),
    ("3_low_rank", measure_that_whitening_harms, {4}),
    ("4_sparse_ffn", drop_a_neuron_that_fires, {1}),
    ("4_sparse_ffn", let_all_neurons_fire, {2}),
    ("4_sparse_ffn", take_the_signs_of_the_weights, {3}),
    ("4_sparse_ffn", take_the_opposite_signs, {3, 4}),
    ("4_sparse_ffn", read_hardly_any_neuron, {5}),
    ("5_head", forget_the_share_that_was_read, {1}),
    ("5_head", read_no_row_exactly, {2}),
    ("5_head", measure_that_clusters_are_nearer, {3}),
    ("6_embedding", read_the_whole_table, {1}),
    ("6_embedding", let_tokens_hang_together, {2}),
    ("6_embedding", write_every_token_once, {3, 4}),
    ("7_memory", read_the_file_when_loading, {1}),
    ("7_memory", plan_too_little, {2, 3}),
    ("7_memory", keep_something_for_every_token, {4}),
    ("7_memory", let_no_page_go, {5, 6}),
    ("8_sampling", ignore("temperature", 1.0), {1}),
    ("8_sampling", ignore("top_p", 1.0), {1}),
    ("8_sampling", ignore("penalty_decay", 1.0), {2}),
    ("8_sampling", be_sure_of_everything, {3}),
    ("9_int4", place_values_without_a_zero_point, {1}),
    ("9_int4", feed_nothing_forward, {2, 3}),
    ("9_int4", round_to_nearest_when_converting, {4}),
]
"""How each assert of each lesson was broken, and which ones then fail, at least."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "breaks", "fail"),
    BROKEN,
    ids=[f"{name}-{breaks.__name__}" for name, breaks, _ in BROKEN],
)
def test_a_broken_claim_fails(
    name: str, breaks: Callable[[Patch], None], fail: set[int], pictures: None, monkeypatch: Patch
) -> None:
    if name == "7_memory" and not system.LINUX:
        pytest.skip("only Linux tells what is resident")
    breaks(monkeypatch)
    assert failing(name) >= fail


@pytest.mark.parametrize("name", NAMES)
def test_every_assert_has_been_seen_failing(name: str) -> None:
    seen = set[int]().union(*(fail for lesson, _, fail in BROKEN if lesson == name))
    assert seen == set(range(1, len(claims(name)) + 1)), claims(name)


# What a lesson and an exercise consist of


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_has_its_parts(name: str) -> None:
    text = (LESSONS / f"{name}.py").read_text("utf-8")
    assert text.startswith("# # ") and text.count("# **Claim.** ") == 1
    assert text.count("# **Picture.** ") == 1 and text.count("plt.show()\n") == 1
    assert "\nassert " in text.partition("# ## The claim\n")[2]
    assert f"lessons/{name}\n" in (LESSONS.parent / "index.md").read_text("utf-8")


@pytest.mark.parametrize(
    "path", sorted((LESSONS / "data").glob("*.json")), ids=lambda path: path.stem
)
def test_measured_figures_name_their_command(path: Path) -> None:
    assert json.loads(path.read_text("utf-8"))["command"].startswith(
        "python docs/lessons/measure.py "
    )


ANSWERS = json.loads((LESSONS / "exercises" / "answers.json").read_text("utf-8"))


def test_every_lesson_has_an_exercise() -> None:
    assert list(ANSWERS) == NAMES
    assert NAMES == [path.stem for path in sorted((LESSONS / "exercises").glob("*.py"))]


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_fails_until_it_is_repaired(name: str, tmp_path: Path) -> None:
    path = LESSONS / "exercises" / f"{name}.py"
    if name == "7_memory" and not system.LINUX:
        pytest.skip("only Linux tells what is resident")
    lines = path.read_text("utf-8").splitlines()
    (wrong,) = (i for i, line in enumerate(lines) if line.endswith(MARK))
    lines[wrong] = ANSWERS[name]["line"]
    repaired = tmp_path / "docs" / "lessons" / "exercises" / path.name  # as deep as the original
    repaired.parent.mkdir(parents=True)
    repaired.write_text("\n".join(lines) + "\n", "utf-8")
    failed, passed = (
        subprocess.run(
            [sys.executable, str(program)],
            env=os.environ | {"PYTHONPATH": str(LESSONS.parent.parent)},
            capture_output=True,
            text=True,
        )
        for program in (path, repaired)
    )
    assert failed.returncode == 1 and "AssertionError" in failed.stderr
    assert passed.returncode == 0, passed.stderr
