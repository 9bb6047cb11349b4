"""Scores: the sums of what single tokens are given, whatever the state, which never changes."""

from __future__ import annotations

import importlib.util
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.tiny_models import error, is_exact
from tests.helpers.vocabularies import single_bytes
from tinyrwkv import ArgumentError

ROOT = Path(__file__).resolve().parents[2]

texts = st.text("abc é日\n", min_size=1, max_size=30)


def by_hand(model, prompt: list[int], text: str, state) -> float:
    """Read token by token and add up the logarithms of the probabilities."""
    logits, state = model.forward(prompt, state)
    total = 0.0
    for token in model.tokenizer.encode(text):
        p = np.exp(logits.astype(float) - logits.max())
        total += math.log(p[token] / p.sum())
        logits, state = model.forward(token, state)
    return total


@given(st.lists(texts, min_size=1, max_size=3), st.booleans())
@settings(max_examples=25)
def test_scores_are_sums_over_tokens(load, backend, choices, fresh):
    model = load(backend)
    state = None if fresh else model.forward([5, 6])[1]
    kept = None if state is None else state.data.copy()
    scores = model.score("ab", choices, state)
    assert [scored.text for scored in scores] == choices
    prompt = model.tokenizer.encode("ab")
    for scored in scores:
        assert scored.tokens == len(model.tokenizer.encode(scored.text))
        assert scored.bytes == len(scored.text.encode())
        expected = by_hand(model, [0, *prompt] if fresh else prompt, scored.text, state)
        assert scored.logprob == pytest.approx(
            expected, abs=1e-9 if is_exact(backend) else 2e-2 * scored.tokens
        )
        assert (
            scored.per_token * scored.tokens
            == pytest.approx(scored.logprob)
            == scored.per_byte * scored.bytes
        )
    assert model.score("ab", choices, state) == scores
    assert model.score(prompt, choices, state) == scores
    assert state is None or error(state.data, kept) == 0


def test_all_first_tokens_together_are_certain(load):
    model = load("numpy")
    data = {bytes([token - 1]): token for token in single_bytes()}
    logits, _ = model.forward([0, 3])
    first = {text: data[text.encode()] for text in "abc"}
    for text, scored in zip(first, model.score([3], first), strict=True):
        p = np.exp(logits.astype(float))
        assert scored.logprob == pytest.approx(math.log(p[first[text]] / p.sum()), abs=1e-5)


def test_the_logits_of_choices_are_exact_whatever_the_head(load, backend):
    dense, previewed = load(backend), load(backend, form="previewed")
    texts = ["a", "b", "é", "x"]
    scores = {model: model.score([3], texts) for model in (dense, previewed)}
    # The sum over all tokens is that of the preview, the same for every choice.
    shift = [
        one.logprob - other.logprob
        for one, other in zip(scores[dense], scores[previewed], strict=True)
    ]
    assert shift == pytest.approx([shift[0]] * len(shift), abs=0.2)
    logits, _ = dense.forward([0, 3])
    rough, _ = previewed.forward([0, 3])
    ids = [dense.tokenizer.encode(text)[0] for text in texts]
    assert not np.allclose(logits[ids], rough[ids], atol=1e-4)


@pytest.mark.parametrize("choices", [[], "ab", b"ab", None, [""], ["a", 3]])
def test_choices_are_texts(load, choices):
    with pytest.raises(ArgumentError, match="choices"):
        load("numpy").score([3], choices)


def test_the_prompt_and_state_are_checked(load):
    for prompt, state in ((["a"], None), ([10**6], None), ([3], 5)):
        with pytest.raises(ArgumentError):
            load("numpy").score(prompt, ["a"], state)


# ---- examples/classify.py ----


@pytest.fixture(scope="module")
def classify():
    spec = importlib.util.spec_from_file_location("classify", ROOT / "examples" / "classify.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bundled_model_classifies_commands(classify, capsys, monkeypatch):
    commands = {
        "turn left": "turn",
        "please go forward two meters": "move",
        "take a picture": "photo",
        "say good morning": "say",
        "wait for five seconds": "wait",
    }
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(commands)))
    assert classify.main(["--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["text"]: line["class"] for line in told} == commands
    for line in told:
        assert sum(line["shares"].values()) == pytest.approx(1)
        assert line["written"] == line["class"]


def test_the_example_prints_what_it_says(classify, capsys):
    command, *shown = classify.__doc__.split("    $ python3 examples/classify.py ")[1].splitlines()
    assert classify.main([command.strip('"')]) == 0
    assert [line.strip() for line in shown] == [
        line.strip() for line in capsys.readouterr().out.splitlines()
    ]


def test_other_choices_and_prompts(classify, capsys):
    told = {}
    for by in ("total", "token", "byte"):
        assert (
            classify.main(
                ["rain", "--prompt", "{}\\nsun", "--choices", "a", "longer", "--by", by, "--json"]
            )
            == 0
        )
        told[by] = json.loads(capsys.readouterr().out)["shares"]
    model = tinyrwkv.load()
    one, other = model.score("rain\nsun", [" a", " longer"])
    assert told["total"]["a"] / told["total"]["longer"] == pytest.approx(
        math.exp(one.logprob - other.logprob)
    )
    assert told["byte"]["a"] / told["byte"]["longer"] == pytest.approx(
        math.exp(one.per_byte - other.per_byte)
    )
    assert classify.main(["rain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert classify.main(["rain", "--model", "no such file"]) == 1
    assert "no such file" in capsys.readouterr().err
