"""The lessons: each claim fails when it is broken, each exercise fails as given and holds when repaired."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import calibrate, head_clusters, low_rank, sign_predictor, sparse_ffn
from tinyrwkv import Model, Sampler, memory, model, quant, reference

LESSONS = Path(__file__).resolve().parent.parent / "docs" / "lessons"
NAMES = [path.stem for path in sorted(LESSONS.glob("[0-9]_*.py"))]
MARK = "# <- repair this line"

Patch = pytest.MonkeyPatch

WRITTEN: dict[Any, list[list[int]]] = {}
write_documents = calibrate.sample_documents


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
    monkeypatch.setattr(calibrate, "sample_documents", sample_once)
    yield
    pyplot.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_claim_of_a_lesson_holds(name: str, pictures: None, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        runpy.run_path(str(LESSONS / f"{name}.py"))
    except SystemExit:
        assert "skipped: " in capsys.readouterr().out


# How to break each claim: in the function of the package that the lesson imports.


def mix_the_wrong_way(patch: Patch) -> None:
    patch.setattr(reference, "token_shift", lambda x, x_prev, mu: x_prev + (x - x_prev) * mu)


def forget_the_exponent(patch: Patch) -> None:
    def time_mix_v4(att: Any, x: Any, x_prev: Any, memory: Any) -> Any:
        k, v = (att[f"{name}.weight"] @ x for name in ("key", "value"))
        with np.errstate(all="ignore"):
            a, b = memory[0] + np.exp(k) * v, memory[1] + np.exp(k)
            return att["output.weight"] @ (a / b), np.stack([a, b, memory[2]])

    patch.setattr(reference, "time_mix_v4", time_mix_v4)


def store_a_wrong_scale(patch: Patch) -> None:
    right = quant.quantize_rows
    patch.setattr(quant, "quantize_rows", lambda w: (right(w)[0], right(w)[1] * np.float32(1.02)))


def round_towards_zero(patch: Patch) -> None:
    def quantize_rows(w: Any) -> Any:
        scale = np.abs(w).max(axis=1) / np.float32(127)
        return np.trunc(w / scale[:, None]).astype(np.int8), scale

    patch.setattr(quant, "quantize_rows", quantize_rows)


def whiten_nothing(patch: Patch) -> None:
    right = low_rank.spectrum
    patch.setattr(low_rank, "spectrum", lambda weight, metric=None: right(weight))


def keep_the_small_values(patch: Patch) -> None:
    def factors(self: Any, rank: int, share: float = 0.5) -> Any:
        last = low_rank.Spectrum(self.left[:, ::-1], self.values[::-1], self.right[::-1])
        return right(last, rank, share)

    right = low_rank.Spectrum.factors
    patch.setattr(low_rank.Spectrum, "factors", factors)


def drop_a_neuron_that_fires(patch: Patch) -> None:
    right = sparse_ffn.sparse_exact

    def sparse_exact(neurons: Any, counts: Any) -> Any:
        tensors = right(neurons, counts)
        tensors["value.rows"][0] = 0
        return tensors

    patch.setattr(sparse_ffn, "sparse_exact", sparse_exact)


def take_the_signs_of_the_weights(patch: Patch) -> None:
    patch.setattr(sign_predictor, "correlated_signs", lambda K, G, steps=None: K >= 0)


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
    patch.setattr(reference, "lowest_score", lambda scores, wanted: scores.max(axis=1, keepdims=True) + 1)


def read_the_whole_table(patch: Patch) -> None:
    right = model.plan

    def plan(*arguments: Any) -> Any:
        found = right(*arguments)
        found["parts"][0]["touched_bytes_per_token"] = found["parts"][0]["file_bytes"]
        return found

    patch.setattr(model, "plan", plan)


def let_no_page_go(patch: Patch) -> None:
    patch.setattr(memory, "advise", lambda *arguments: False)


def plan_too_little(patch: Patch) -> None:
    right = Model.plan
    patch.setattr(Model, "plan", lambda self: right(self) | {"resident_bytes_max": 1 << 20})


def ignore(setting: str, value: Any) -> Callable[[Patch], None]:
    def breaks(patch: Patch) -> None:
        right = Sampler.__post_init__

        def __post_init__(self: Sampler) -> None:
            setattr(self, setting, value)
            right(self)

        patch.setattr(Sampler, "__post_init__", __post_init__)

    breaks.__name__ = f"ignore_{setting}"
    return breaks


BROKEN = [
    ("1_one_token", mix_the_wrong_way),
    ("1_one_token", forget_the_exponent),
    ("2_int8", store_a_wrong_scale),
    ("2_int8", round_towards_zero),
    ("3_low_rank", whiten_nothing),
    ("3_low_rank", keep_the_small_values),
    ("4_sparse_ffn", drop_a_neuron_that_fires),
    ("4_sparse_ffn", take_the_signs_of_the_weights),
    ("5_head", forget_the_share_that_was_read),
    ("5_head", read_no_row_exactly),
    ("6_embedding", read_the_whole_table),
    ("7_memory", let_no_page_go),
    ("7_memory", plan_too_little),
    ("8_sampling", ignore("temperature", 1.0)),
    ("8_sampling", ignore("top_p", 1.0)),
    ("8_sampling", ignore("penalty_decay", 1.0)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "breaks"), BROKEN, ids=[f"{name}-{breaks.__name__}" for name, breaks in BROKEN])
def test_a_broken_claim_fails(name: str, breaks: Callable[[Patch], None], pictures: None, monkeypatch: Patch) -> None:
    if name == "7_memory" and not memory.LINUX:
        pytest.skip("only Linux tells what is resident")
    breaks(monkeypatch)
    with pytest.raises(AssertionError) as failure:
        runpy.run_path(str(LESSONS / f"{name}.py"))
    assert failure.traceback[-1].path == LESSONS / f"{name}.py"


def test_every_claim_is_broken() -> None:
    assert {name for name, _ in BROKEN} == set(NAMES)


# What a lesson and an exercise consist of


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_has_its_parts(name: str) -> None:
    text = (LESSONS / f"{name}.py").read_text("utf-8")
    assert text.startswith("# # ") and text.count("# **Claim.** ") == 1
    assert text.count("plt.show()\n") == 1
    assert "\nassert " in text.partition("# ## The claim\n")[2]
    assert f"lessons/{name}\n" in (LESSONS.parent / "index.md").read_text("utf-8")


@pytest.mark.parametrize("path", sorted((LESSONS / "data").glob("*.json")), ids=lambda path: path.stem)
def test_measured_figures_name_their_command(path: Path) -> None:
    assert json.loads(path.read_text("utf-8"))["command"].startswith("python docs/lessons/measure.py ")


ANSWERS = json.loads((LESSONS / "exercises" / "answers.json").read_text("utf-8"))


def test_every_lesson_has_an_exercise() -> None:
    assert list(ANSWERS) == NAMES
    assert NAMES == [path.stem for path in sorted((LESSONS / "exercises").glob("*.py"))]


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_fails_until_it_is_repaired(name: str, tmp_path: Path) -> None:
    path = LESSONS / "exercises" / f"{name}.py"
    if name == "7_memory" and not memory.LINUX:
        pytest.skip("only Linux tells what is resident")
    lines = path.read_text("utf-8").splitlines()
    (wrong,) = (i for i, line in enumerate(lines) if line.endswith(MARK))
    lines[wrong] = ANSWERS[name]["line"]
    repaired = tmp_path / "docs" / "lessons" / "exercises" / path.name  # as deep as the original
    repaired.parent.mkdir(parents=True)
    repaired.write_text("\n".join(lines) + "\n", "utf-8")
    failed, held = (
        subprocess.run(
            [sys.executable, str(program)],
            env=os.environ | {"PYTHONPATH": str(LESSONS.parent.parent)},
            capture_output=True,
            text=True,
        )
        for program in (path, repaired)
    )
    assert failed.returncode == 1 and "AssertionError" in failed.stderr
    assert held.returncode == 0, held.stderr
