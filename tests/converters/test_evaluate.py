"""Figures of eval against the reference and by hand, on tiny random models."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import evaluate
from converters.judge.metrics import (
    Judge,
    TextLoss,
    exact_match,
    lambada_accuracy,
    nll_of_docs,
    nll_of_text,
)
from converters.judge.texts import split_documents, windows
from tests.helpers.tiny_models import BACKENDS
from tests.helpers.vocabularies import pack, single_bytes
from tinyrwkv import Model, Sampler, load
from tinyrwkv.errors import ArgumentError, FormatError, UnsupportedError
from tinyrwkv.file import quant
from tinyrwkv.file.writer import Writer
from tinyrwkv.tokenizer import Tokenizer
from tinyrwkv.versions import reference
from tinyrwkv.versions.layout import tensor_shapes

CONFIG = {
    **{
        "kind": "model",
        "arch": "v5.2",
        "n_layer": 1,
        "n_embd": 16,
        "n_ffn": 32,
        "n_head": 2,
        "head_size": 8,
    },
    **{"vocab_size": 300, "ln_x_eps": 64e-5, "dtype": "f32"},
}
TOKENS = single_bytes() | {
    257: b" the",
    258: b" cat",
    259: b"\n\n",
    260: b"User",
    261: b"Assistant:",
}
WORDS = "one two  three\nthe cat sat on the mat; "
LIKELY = [0, 98, 99, 100, 257, 258]  # the end of a document, a, b, c, " the", " cat"
COMMANDS = "User: go\n\nAssistant: a\n\n<|doc|>\nUser: stop\n\nAssistant: b c\n\n<|doc|>\n"


def write_model(path: Path, tokenizer: bool = True, gain: float = 1.0, seed: int = 48) -> str:
    """Write a random model that prefers few tokens and soon ends a text; `gain` scales the head."""
    rng = np.random.default_rng(seed)
    with Writer(path, CONFIG) as writer:
        for name, shape in tensor_shapes(CONFIG).items():
            sizes = [n if isinstance(n, int) else 8 for n in shape]
            values = (
                rng.uniform(0.2, 0.9, sizes) if len(sizes) == 1 else rng.standard_normal(sizes) / 4
            )
            if name in ("ln_out.weight", "ln_out.bias"):
                values[0] = name == "ln_out.bias"  # so that the head's first column is a bias
            if name == "head.weight":
                values *= 4 * gain
                values[:, 0] = -20
                values[LIKELY, 0] = 0
            writer.add(name, values.astype(np.float32))
        if tokenizer:
            data, starts, ids = pack(TOKENS)
            writer.add("tokenizer.bytes", np.frombuffer(data, np.uint8))
            writer.add("tokenizer.starts", starts)
            writer.add("tokenizer.ids", ids)
    return str(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "model.trwkv")


@pytest.fixture(scope="module")
def model(path: str) -> Model:
    return load(path, backend="numpy")


def expected_score(model: Model, ids: list[int], first: int = 0) -> tuple[float, int]:
    """Return the nll and the hits of ids[first:], token by token with the oracle, in float64."""
    weights, state = quant.dequantize(model.file), reference.new_state(model.config)
    nll, top = 0.0, 0
    for i, (token, target) in enumerate(zip([0, *ids[:-1]], ids, strict=True)):
        logits, state = reference.forward(weights, model.config, token, state)
        if i >= first:
            x = logits.astype(np.float64)
            nll += np.log(np.exp(x - x.max()).sum()) + x.max() - x[target]
            top += int(x.argmax() == target)
    return nll, top


@pytest.mark.parametrize("length", [1, 2, 16, 17, 40])
@pytest.mark.parametrize("first", [0, 1, 15, 16, 33])
def test_score_equals_the_oracle(model: Model, length: int, first: int) -> None:
    if first >= length:
        return
    ids = np.random.default_rng(length).integers(1, 260, length).tolist()
    judge = Judge(model)
    judge.loss([7, 8, 9])  # leaves nothing behind
    score = judge.loss(ids, first)
    nll, top = expected_score(model, ids, first)
    assert score.nll == pytest.approx(nll, rel=1e-5)
    assert (score.documents, score.tokens, score.top) == (1, length - first, top)
    assert score.bytes == len(model.tokenizer.decode_bytes(ids[first:]))


def test_score_counts_first_choices(model: Model) -> None:
    ids: list[int] = []
    logits, state = model.forward(0)
    for _ in range(20):
        ids.append(int(np.argmax(logits)))
        logits, state = model.forward(ids[-1], state)
    judge = Judge(model)
    assert (judge.loss(ids).top, judge.best) == (20, ids)
    assert judge.loss([*ids[:-1], ids[-1] + 1]).top == 19


def test_logits_stay_in_one_buffer(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()
    read = model.reader.read

    def spy(ids: np.ndarray, old: np.ndarray, new: np.ndarray, out: np.ndarray | None) -> bool:
        shapes.add((len(ids), None if out is None else (out.shape, out.ctypes.data)))
        return read(ids, old, new, out)

    monkeypatch.setattr(model.reader, "read", spy)
    nll_of_text(model, WORDS * 30)
    assert all(length <= 16 for length, _ in shapes)
    assert len({out[1] for _, out in shapes if out}) == 1


def test_text_is_cut_into_windows(model: Model) -> None:
    text = WORDS * 5
    ids = model.tokenizer.encode(text)
    score = nll_of_text(model, text, window=40)
    parts = [expected_score(model, ids[i : i + 40]) for i in range(0, len(ids), 40)]
    assert (score.documents, score.tokens, score.bytes) == (len(parts), len(ids), len(text))
    assert score.nll_per_token == pytest.approx(sum(nll for nll, _ in parts) / len(ids), rel=1e-5)
    assert score.nll_per_byte == pytest.approx(sum(nll for nll, _ in parts) / len(text), rel=1e-5)
    assert score.top1 == sum(top for _, top in parts) / len(ids)


def test_windows_have_512_tokens(model: Model) -> None:
    text = "x" * 1100
    assert [len(ids) for ids in windows(model.tokenizer, text.encode())] == [512, 512, 76]
    assert nll_of_text(model, text, limit=2).tokens == 1024


@settings(max_examples=10)
@given(
    st.lists(
        st.sampled_from([b" the", b" th", b" c", b"at", b"\n", b"\xff"]), min_size=500, max_size=700
    ),
    st.integers(1, 50),
    st.integers(1025, 1040),
)
def test_windows_are_the_tokens_of_the_whole(parts: list[bytes], size: int, piece: int) -> None:
    data = b"".join(parts)
    table, starts, ids = pack(TOKENS)
    tokenizer = Tokenizer(table, starts, ids, 300)
    found = list(windows(tokenizer, data, size, piece))
    assert [token for window in found for token in window] == tokenizer.encode(data)
    assert all(len(window) == size for window in found[:-1])


def test_no_token_is_cut_by_a_piece(model: Model) -> None:
    for shift in range(4):
        (ids,) = windows(model.tokenizer, b"x" * shift + b" the" * 500, 9999, piece=1200)
        assert ids == [121] * shift + [257] * 500


def test_documents_are_scored_whole(model: Model) -> None:
    text = "one\n\n<|doc|>\n" + WORDS * 20 + "\r\n<|doc|> \n\n<|doc|>\nlast <|doc|>"
    documents = ["one\n\n", WORDS * 20 + "\n", "last <|doc|>"]
    assert split_documents(text) == documents
    nlls = [expected_score(model, model.tokenizer.encode(document))[0] for document in documents]
    score = nll_of_docs(model, text)
    assert (score.documents, score.bytes) == (3, sum(map(len, documents)))
    assert score.nll == pytest.approx(sum(nlls), rel=1e-5)
    assert nll_of_docs(model, text, limit=1).nll == pytest.approx(nlls[0], rel=1e-5)


def test_nothing_to_score(model: Model) -> None:
    with pytest.raises(ArgumentError, match="nothing to score among the windows of a text"):
        nll_of_text(model, "")
    with pytest.raises(ArgumentError, match="nothing to score among the documents"):
        nll_of_docs(model, "<|doc|>\n \n<|doc|>\n")
    with pytest.raises(ArgumentError, match="nothing to score among the lambada texts"):
        lambada_accuracy(model, "\n\n")
    with pytest.raises(ArgumentError, match="nothing to score among the commands"):
        exact_match(model, "")


def test_lambada(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    loss = Judge.loss

    def spy(self: Judge, ids: list[int], first: int = 0) -> TextLoss:
        result = loss(self, ids, first)
        asked.append((model.tokenizer.decode(ids[:first]), model.tokenizer.decode(ids[first:])))
        if asked[-1][1] == " cat":
            result.top = result.tokens
        return result

    monkeypatch.setattr(Judge, "loss", spy)
    lines = ["I saw the cat", json.dumps({"text": "  a\nline  end\n"}), "", "to be"]
    matches = lambada_accuracy(model, "\r\n".join(lines))
    assert asked == [("I saw the", " cat"), ("a\nline", "  end"), ("to", " be")]
    assert (matches.documents, matches.right, matches.accuracy) == (3, 1, 1 / 3)
    assert [entry["expected"] for entry in matches.wrong] == ["end", "be"]
    assert matches.wrong[0] | {"answer": ""} == {
        "document": 2,
        "prompt": "a\nline",
        "expected": "end",
        "answer": "",
    }
    assert lambada_accuracy(model, "\n".join(lines), limit=1).documents == 1


def test_lambada_word_is_right_where_all_its_tokens_are_greedy(model: Model) -> None:
    logits, _ = model.forward([0, *model.tokenizer.encode("it is Assistant:")])
    assert logits.argmax() == 258  # " cat"
    matches = lambada_accuracy(
        model, "".join(f"it is Assistant: {word}\n" for word in ("cat", "the", "catz"))
    )
    assert [entry["document"] for entry in matches.wrong] == [2, 3]
    assert matches.wrong[0]["answer"] == "cat"


@pytest.mark.parametrize(
    "line",
    ["one", '{"text": 3}', '{"txt": "a b"}', '{"text": "a"}', "{", "{" * 9999, '{"a":' * 99999],
)
def test_lambada_refuses(model: Model, line: str) -> None:
    with pytest.raises(FormatError, match="line 2"):
        lambada_accuracy(model, "good line\n" + line)


def generated(model: Model, prompt: str) -> str:
    """Return the model's greedy answer."""
    generation = model.generate(
        prompt, sampler=Sampler(temperature=0), max_tokens=128, stop=["\n\n"]
    )
    return "".join(piece.text for piece in generation).strip()


def test_exact_match(model: Model) -> None:
    prompts = ["User: go\n\nAssistant:", "User: hi\n\nAssistant: x\n\nUser: stop\n\nAssistant:"]
    answers = [generated(model, prompt) for prompt in prompts]
    text = f"{prompts[0]} {answers[0]}\n\n<|doc|>\n\n{prompts[1]} something else\n\n<|doc|>\n"
    matches = exact_match(model, text)
    assert (matches.documents, matches.right, matches.accuracy) == (2, 1, 0.5)
    wrong = {
        "document": 2,
        "prompt": prompts[1],
        "expected": "something else",
        "answer": answers[1],
    }
    assert matches.wrong == [wrong]
    assert 10 < matches.tokens < 40
    windows_lines = exact_match(model, text.replace("\n", "\r\n"), limit=1)
    assert (windows_lines.documents, windows_lines.right, windows_lines.wrong) == (1, 1, [])


class Scripted:
    """In the place of a model: answers what it is told and keeps what it was asked."""

    def __init__(self, model: Model, answer: str) -> None:
        self.tokenizer, self.answer = model.tokenizer, answer
        self.asked: list[tuple[str, dict]] = []

    def generate(self, prompt: str, **options: object) -> object:
        self.asked.append((prompt, options))
        self.result = type(
            "Result", (), {"text": self.answer, "timings": {"prompt_tokens": 2, "tokens": 1}}
        )()
        generation = type("Generation", (list,), {"result": self.result})
        return generation()


def test_exact_match_asks_as_it_says(model: Model) -> None:
    scripted = Scripted(model, " b c ")
    matches = exact_match(scripted, COMMANDS)  # type: ignore[arg-type]
    assert [prompt for prompt, _ in scripted.asked] == [
        "User: go\n\nAssistant:",
        "User: stop\n\nAssistant:",
    ]
    options = scripted.asked[0][1]
    assert tuple(options["stop"]) == ("\n\n",)
    assert options["sampler"].temperature == 0
    assert (matches.right, matches.tokens, matches.wrong[0]["answer"]) == (1, 6, "b c")


def test_exact_match_lets_a_long_answer_end(model: Model) -> None:
    scripted = Scripted(model, "")
    exact_match(scripted, "User: go\n\nAssistant: " + "x" * 500)  # type: ignore[arg-type]
    assert scripted.asked[0][1]["max_tokens"] == 1000


def test_exact_match_refuses(model: Model) -> None:
    with pytest.raises(FormatError, match="document 2"):
        exact_match(model, "User: a\n\nAssistant: b\n<|doc|>\nUser: a\n\nBob: b\n")
    with pytest.raises(FormatError, match="document 1"):
        exact_match(model, "User: a\n\nAssistant: \n\n")
    with pytest.raises(ArgumentError, match="template"):
        exact_match(model, COMMANDS, template="none")
    with pytest.raises(ArgumentError, match="template"):
        exact_match(model, COMMANDS, template="other")


def test_template(model: Model) -> None:
    scripted = Scripted(model, "b")
    assert exact_match(scripted, "Bob: a\n\nAlice: b", template="raven").right == 1  # type: ignore[arg-type]
    assert scripted.asked[0][0] == "Bob: a\n\nAlice:"


def test_progress(model: Model) -> None:
    calls: list[tuple[float, int]] = []
    nll_of_text(model, "x" * 1100, progress=lambda *call: calls.append(call))
    assert calls == [(512 / 1100, 512), (1024 / 1100, 1024), (1.0, 1100)]
    calls.clear()
    nll_of_text(model, "x" * 1100, limit=2, progress=lambda *call: calls.append(call))
    assert calls == [(0.5, 512), (1.0, 1024)]
    calls.clear()
    exact_match(model, COMMANDS, limit=1, progress=lambda *call: calls.append(call))
    assert [share for share, _ in calls] == [1.0]


def test_no_tokenizer(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "bare.trwkv", tokenizer=False), backend="numpy")
    for function in nll_of_text, nll_of_docs, lambada_accuracy, exact_match:
        with pytest.raises(UnsupportedError, match="--vocab"):
            function(model, COMMANDS)


def test_damaged_model(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "nan.trwkv", gain=np.nan), backend="numpy")
    with pytest.raises(FormatError, match="logits"):
        nll_of_text(model, "abc")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    contents = {
        "text": WORDS * 3,
        "docs": COMMANDS,
        "lambada": "I saw the cat\n",
        "commands": COMMANDS,
    }
    for name, content in contents.items():
        Path(tmp_path, name).write_text(content)
    return {name: str(tmp_path / name) for name in contents}


def test_json(path: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    options = [word for name, file in files.items() for word in (f"--{name}", file)]
    assert evaluate.main([path, *options, "--backend", "numpy", "--json", "--show-wrong", "1"]) == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert output.err == ""  # no bar where stderr is no terminal
    text, docs, lambada, commands = report["parts"]
    score = nll_of_docs(load(path, backend="numpy"), COMMANDS)
    figures = (docs["tokens"], docs["nll_per_token"], docs["nll_per_byte"], docs["top1"])
    assert figures == (score.tokens, score.nll_per_token, score.nll_per_byte, score.top1)
    assert score.nll_per_byte < score.nll_per_token
    assert [part["part"] for part in report["parts"]] == ["text", "docs", "lambada", "commands"]
    assert report["tokens"] == text["tokens"] + docs["tokens"]
    both = text["tokens"] * text["nll_per_token"] + docs["tokens"] * docs["nll_per_token"]
    assert report["nll_per_token"] == pytest.approx(both / report["tokens"])
    assert 0 <= report["top1"] <= 1 and report["nll_per_byte"] > 0
    assert (report["exact_match"], report["lambada_accuracy"]) == (
        commands["accuracy"],
        lambada["accuracy"],
    )
    model = load(path, backend="numpy")
    assert report["touched_bytes_per_token"] == model.plan()["touched_bytes_per_token"]
    if sys.platform.startswith("linux"):
        assert 0 < report["resident_bytes"] <= -(-model.plan()["file_bytes"] // 4096) * 4096
    assert [entry["part"] for entry in report["wrong"]] == ["lambada", "commands"]


def test_a_text_of_documents_is_noticed(
    path: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (("docs", "note: the file of --text has lines <|doc|>"), ("text", "")):
        assert evaluate.main([path, "--text", files[name], "--backend", "numpy", "--json"]) == 0
        err = capsys.readouterr().err
        assert err.startswith(said) and bool(err) == bool(said)


def test_byte_order_mark_is_no_text(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(tmp_path, "marked").write_bytes(b"\xef\xbb\xbfabc")
    assert (
        evaluate.main([path, "--text", str(tmp_path / "marked"), "--backend", "numpy", "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["tokens"] == 3


def test_line_ends_of_windows_make_no_other_text(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for end in (b"\n", b"\r\n"):
        Path(tmp_path, "lines").write_bytes(end.join([b"one two", b"", b"three", b""]))
        command = [path, "--text", str(tmp_path / "lines"), "--backend", "numpy", "--json"]
        assert evaluate.main(command) == 0
        told = json.loads(capsys.readouterr().out)
        found.append((told["tokens"], told["nll_per_token"], told["nll_per_byte"]))
    assert found[0] == found[1]


@pytest.mark.parametrize("option", ["--text", "--docs", "--lambada", "--commands"])
def test_texts_in_utf_16_are_refused_by_name(
    path: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(tmp_path, "wide").write_bytes("one two three".encode("utf-16"))
    assert evaluate.main([path, option, str(tmp_path / "wide")]) == 1
    said = f"{tmp_path / 'wide'} is a text in UTF-16, not in UTF-8; convert it first: iconv"
    assert said in capsys.readouterr().err


def test_only_the_keys_that_apply(
    path: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        evaluate.main([path, "--commands", files["commands"], "--backend", "numpy", "--json"]) == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert "exact_match" in report
    assert not {
        "nll_per_token",
        "nll_per_byte",
        "top1",
        "tokens",
        "lambada_accuracy",
        "wrong",
    } & set(report)


def test_table(path: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--text",
        files["text"],
        "--commands",
        files["commands"],
        "--limit",
        "1",
        "--show-wrong",
        "1",
    ]
    assert evaluate.main([path, *options, "--backend", "numpy"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].split() == [
        "documents",
        "tokens",
        "nll/token",
        "nll/byte",
        "top-1",
        "right",
        "seconds",
    ]
    assert lines[1].split()[:2] == ["text", "1"]
    assert lines[2].split()[:2] == ["commands", "1"] and lines[2].split()[3] == "0.0000"
    assert "  expected: a" in lines
    assert len(lines[1]) == len(lines[0]) == len(lines[2])
    assert lines[-2].startswith("backend numpy, threads 1; ")


def test_errors(
    path: str, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"abc\x8b")
    for arguments, message in (
        ([path, "--text", str(tmp_path / "no")], "no such file: "),
        ([path, "--text", str(tmp_path)], "directory"),
        ([path, "--text", "a\0b"], "null"),
        ([path, "--text", str(binary)], "byte 0x8b at 3"),
        ([files["text"], "--text", files["text"]], "text: "),
        ([path, "--text", files["text"], "--threads", "0"], "threads"),
        ([path, "--commands", files["text"]], "document 1"),
    ):
        assert evaluate.main([*arguments, "--backend", "numpy"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("tinyrwkv-convert eval: ") and message in error, error
    assert evaluate.main([path, "--text", files["text"], "--against", ""]) == 1
    assert "tinyrwkv-convert eval: " in capsys.readouterr().err
    assert evaluate.main([path, "--text", files["text"], "--docs", ""]) == 1
    assert "tinyrwkv-convert eval: " in capsys.readouterr().err
    for arguments in (
        [path],
        [path, "--text", files["text"], "--limit", "0"],
        ["--text", files["text"]],
    ):
        with pytest.raises(SystemExit) as exit:
            evaluate.main(arguments)
        assert exit.value.code == 2


@pytest.mark.parametrize("option", ["--limit", "--threads", "--show-wrong"])
def test_a_word_is_no_number(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["model.trwkv", "--text", "book.txt", option, "many"])
    expected = f"argument {option}: 'many' is not a whole number"
    assert expected in capsys.readouterr().err


def test_help_names_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (line,) = [line for line in lines if line.startswith("--backend B")]
    assert all(backend in line for backend in ("auto", *BACKENDS))


def test_interrupted(
    path: str,
    files: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "nll_of_text", interrupt)
    assert evaluate.main([path, "--text", files["text"], "--backend", "numpy"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    clock = iter([0.0, 0.05, 10.0, 10.01])
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(evaluate.time, "monotonic", lambda: next(clock))
    with evaluate.Bar("text") as bar:
        bar(0.01, 5)  # too early to draw
        assert screen.getvalue() == ""
        bar(0.1, 5000)
        bar(0.2, 5010)
    drawn = screen.getvalue().split("\r")
    assert drawn[1].split() == [
        "text",
        "[###...........................]",
        "10%",
        "500",
        "tok/s",
        "1:30",
        "left",
    ]
    assert drawn[2:] == [" " * 79, ""]
    assert len(drawn[1]) < 80
