"""One model beside another: the differences are those of the reference's logits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from converters import evaluate
from converters.judge.compare import compare
from tests.helpers.tiny_models import VOCAB_SIZE, rewrite
from tinyrwkv import load
from tinyrwkv.errors import ArgumentError, FormatError

DOCUMENTS = [
    np.random.default_rng(i).integers(1, VOCAB_SIZE, n).tolist() for i, n in enumerate((40, 16, 1))
]


def log_probabilities(oracle, ids):
    z = oracle.run([0, *ids[:-1]])[0].astype(np.float64)  # (T, V)
    z -= z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def test_differences_are_those_of_the_logits(tiny, oracle):
    model, other = load(tiny("v5.2", "int8", "compressed")), load(tiny("v5.2", "f32"))
    seen = []
    found = compare(model, other, DOCUMENTS, seen.append)
    assert seen == [40, 56, 57]
    expected = np.zeros(7)
    for ids in DOCUMENTS:
        p, q = (
            log_probabilities(oracle("v5.2", *form), ids)
            for form in (("int8", "compressed"), ("f32",))
        )
        rows, best, other_best = np.arange(len(ids)), p.argmax(axis=1), q.argmax(axis=1)
        expected += [
            *(
                len(ids),
                -p[rows, ids].sum(),
                -q[rows, ids].sum(),
                (best == ids).sum(),
                (other_best == ids).sum(),
            ),
            *((best == other_best).sum(), (np.exp(q) * (q - p)).sum()),
        ]
    np.testing.assert_allclose(list(vars(found).values()), expected, rtol=2e-3)
    figures = found.figures()
    assert figures["nll_delta"] == pytest.approx((found.nll - found.other_nll) / 57)
    assert figures["greedy_agreement"] == found.agreed / 57
    assert figures["kl"] > 0


def test_a_model_is_no_way_from_itself(tiny):
    model = load(tiny())
    figures = compare(model, model, DOCUMENTS).figures()
    assert (
        figures["nll_delta"],
        figures["top1_delta"],
        figures["greedy_agreement"],
        figures["kl"],
    ) == (0, 0, 1, 0)


def test_other_vocabularies_are_refused(tiny, tmp_path):
    def other_words(metadata, tensors):
        tensors["tokenizer.bytes"][-1] ^= 1

    def no_words(metadata, tensors):
        for part in ("bytes", "starts", "ids"):
            del tensors[f"tokenizer.{part}"]

    def fewer(metadata, tensors):
        no_words(metadata, tensors)
        metadata["vocab_size"] -= 1
        for name in ("emb.weight", "emb.weight.scale", "head.weight", "head.weight.scale"):
            tensors[name] = tensors[name][:-1]

    for i, change in enumerate((other_words, no_words, fewer)):
        other = load(rewrite(tiny(), tmp_path / str(i), change))
        with pytest.raises(ArgumentError, match="give files of one vocabulary"):
            compare(load(tiny()), other, DOCUMENTS)


def test_damage_is_told(tiny, tmp_path):
    def spoil(metadata, tensors):
        tensors["ln_out.weight"][3] = np.nan

    with pytest.raises(FormatError, match="nan or infinity"):
        compare(load(rewrite(tiny(), tmp_path / "a", spoil)), load(tiny()), DOCUMENTS)


def test_the_command(tiny, tmp_path, capsys):
    (tmp_path / "text").write_text("abc the ab " * 60)
    (tmp_path / "docs").write_text("ab\n<|doc|>\nca the")
    (tmp_path / "commands").write_text("User: a\n\nAssistant: b\n\n")
    options = ["--text", str(tmp_path / "text"), "--docs", str(tmp_path / "docs"), "--threads", "1"]
    options += ["--commands", str(tmp_path / "commands")]
    both = [tiny("v5.2", "int8", "compressed"), "--against", tiny("v5.2")]
    assert evaluate.main([*both, *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    against = report["against"]
    assert against["model"] == tiny("v5.2")
    assert against["tokens"] == report["tokens"]
    assert against["exact_match_delta"] == 0
    assert evaluate.main([tiny("v5.2"), *options, "--json"]) == 0
    dense = json.loads(capsys.readouterr().out)
    assert "against" not in dense
    for name, delta in (("nll_per_token", "nll_delta"), ("top1", "top1_delta")):
        assert against[name] == pytest.approx(dense[name], abs=1e-6)
        assert against[delta] == pytest.approx(report[name] - dense[name], abs=1e-5)
    assert evaluate.main([*both, *options]) == 0
    assert f"against {tiny('v5.2')}:\n" in capsys.readouterr().out
    assert evaluate.main([tiny("v5.2"), "--against", "none", *options]) == 1
    assert "no such file: none" in capsys.readouterr().err
