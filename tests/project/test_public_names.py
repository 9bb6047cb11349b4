"""What a user of the package meets first: its names, their types, and what a repr tells."""

from __future__ import annotations

import ast
import logging

import pytest

import tinyrwkv
from tests.helpers.places import ROOT
from tests.helpers.terminals import run

PROGRAM = ROOT / "tests" / "project" / "every_name.py"
GREEDY = tinyrwkv.Sampler(temperature=0)
PROMPT = "User: turn left\n\nAssistant:"


@pytest.fixture(scope="module")
def model() -> tinyrwkv.Model:
    return tinyrwkv.load()


def test_the_program_of_a_user_has_every_name() -> None:
    tree = ast.parse(PROGRAM.read_text("utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert set(tinyrwkv.__all__) <= used


def test_the_program_of_a_user_runs() -> None:
    done = run(str(PROGRAM), PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"\n{tinyrwkv.__version__}\n")


def test_dir_tells_all_names() -> None:
    assert set(tinyrwkv.__all__) <= set(dir(tinyrwkv))
    assert all(getattr(tinyrwkv, name) is not None for name in tinyrwkv.__all__)
    with pytest.raises(AttributeError, match="no attribute 'chart'"):
        tinyrwkv.chart  # noqa: B018


def test_reprs_tell_what_things_are(model: tinyrwkv.Model) -> None:
    assert f"<Model {model.path!r}: v7, 8 layers of width 256, " in repr(model)
    _, state = model.forward([0, 1, 2])
    assert repr(state) == (
        f"<State after 3 tokens: RWKV v7, model {model.hash[:12]}, {state.data.nbytes:,} bytes>"
    )
    assert repr(model.tokenizer) == f"<Tokenizer of {model.path!r}: 4,095 tokens>"
    generation = model.generate(PROMPT, sampler=GREEDY, stop="\n")
    assert repr(generation) == "<Generation: no text yet>"
    assert repr(generation.result) == "<Result: no text yet>"
    next(generation)
    assert repr(generation.result) == "<Result: ' turn(', 1 token, not ended>"
    generation.text()
    assert repr(generation) == "<Generation: ' turn(90)', 5 tokens, ended by stop>"
    chat = tinyrwkv.Chat(model)
    assert repr(chat) == f"<Chat with {model.path!r}: template robot, 0 turns>"
    chat.ask("turn left").text()
    assert repr(chat).endswith(", 1 turn>")


def test_a_chat_takes_a_timeout(model: tinyrwkv.Model) -> None:
    chat = tinyrwkv.Chat(model)
    late = chat.ask("Tell me a story.", timeout=0)
    assert late.text() == "" and late.result.stop_reason == "deadline"
    assert chat.ask("turn left", timeout=60).text() == " turn(90)" and chat.turns == 1
    with pytest.raises(tinyrwkv.ArgumentError, match=r"give timeout=seconds, or deadline=time\."):
        chat.ask("turn left", deadline=0.5)


def test_a_limit_may_be_written_with_its_unit(linux: None) -> None:
    with tinyrwkv.load(resident_limit="5.5 MB") as model:
        assert model.resident_limit == 5_500_000
    with pytest.raises(tinyrwkv.ArgumentError, match=r'a size such as "12MB", not .12 apples.'):
        tinyrwkv.load(resident_limit="12 apples")


def test_what_runs_a_model_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "tinyrwkv"), tinyrwkv.load(backend="numpy") as model:
        assert f"loaded {model!r}" in caplog.messages
        assert "resident limit: none" in caplog.messages
        assert not any(message.startswith("kernels: ") for message in caplog.messages)
    with caplog.at_level(logging.DEBUG, "tinyrwkv"), tinyrwkv.load() as model:
        if model.backend.name == "native":
            assert any(message.endswith(".so") for message in caplog.messages)


def test_nothing_is_logged_unasked() -> None:
    code = "import sys, tinyrwkv; tinyrwkv.load(); print('logging' in sys.modules)"
    done = run("-c", code)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_notebook_shows_no_escapes(model: tinyrwkv.Model) -> None:
    """Where standard output is no terminal, as in Jupyter, a text is what it is."""
    chat = tinyrwkv.Chat(model)
    shown = [repr(one) for one in (model, chat, chat.ask("turn left"), chat.state, GREEDY)]
    assert all(text.isprintable() for text in shown)
