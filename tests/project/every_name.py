"""A program of a user, with every name that the package exports.

mypy checks it in strict mode: a name without a precise type, or one that needs a cast, would fail
there. A test runs it.
"""

from __future__ import annotations

import pathlib
import tempfile
import time

import numpy as np

import tinyrwkv
from tinyrwkv import (
    ArgumentError,
    Chat,
    ChecksumError,
    Choice,
    FormatError,
    Generation,
    JsonSchema,
    Model,
    Piece,
    Regex,
    Result,
    Sampler,
    Scored,
    State,
    StreamDecoder,
    TinyRWKVError,
    Tokenizer,
    UnsupportedError,
    load,
)

PROMPT = "User: turn left\n\nAssistant:"
GREEDY = Sampler(temperature=0, seed=1)


def read(model: Model) -> State:
    """Read tokens, in the three ways."""
    tokenizer: Tokenizer = model.tokenizer
    ids: list[int] = tokenizer.encode(PROMPT)
    text: str = tokenizer.decode(ids)
    logits, state = model.forward([0, *ids])
    likeliest: list[tuple[int, float]] = GREEDY.top(logits)
    every, state = model.forward(np.array(ids), state, logits="all")
    nothing, state = model.forward(1, state, logits=None)
    assert text == PROMPT and nothing is None and every.shape == (len(ids), *logits.shape)
    decoder = StreamDecoder()
    print(decoder.push(tokenizer.token_bytes(likeliest[0][0])) + decoder.flush())
    return state


def generate(model: Model) -> Result:
    """Continue a prompt until a deadline."""
    deadline = time.monotonic() + 10
    generation: Generation = model.generate(PROMPT, sampler=GREEDY, stop="\n", deadline=deadline)
    piece: Piece
    for piece in generation:
        print(piece.text, piece.token, piece.logprob, end="", flush=True)
    result = generation.result
    reason: str | None = result.stop_reason
    seconds: float = result.timings["seconds"]
    print(reason, seconds, result.text, result.tokens, result.state, result.unread)
    return result


def constrain(model: Model) -> None:
    """Answer in a given form."""
    choice = Choice([" turn(90)", " stop()"])
    regex = Regex(r" turn\(-?\d{1,3}\)")
    schema = JsonSchema({"type": "object", "properties": {"turn": {"type": "integer"}}})
    text: str = model.generate(PROMPT, constraint=choice).text()
    text += model.generate(PROMPT, constraint=regex, timeout=10).text()
    text += model.generate(PROMPT, constraint=schema, max_tokens=9).text()
    scored: list[Scored] = model.score(PROMPT, [" turn(90)", " stop()"])
    print(text, max(scored, key=lambda one: one.per_token).text)


def talk(model: Model, path: pathlib.Path) -> None:
    """Have a conversation, keep it, and continue it."""
    chat = Chat(model, system="Answer briefly.", seed=1, max_tokens=20)
    answer: str = chat.ask("turn left", timeout=10).text()
    for piece in chat.ask("And then?"):
        print(piece.text, end="")
    taken: str | None = chat.undo()
    chat.save(path)
    other = Chat(model)
    other.load(path)
    said = [(one.question, one.answer) for one in other.transcript]
    print(answer, taken, said, other.turns, other.settings()["top_p"], other.state.tokens)


def refuse(model: Model) -> None:
    """See what is wrong."""
    try:
        load("nowhere.trwkv", resident_limit="12MB")
    except (ChecksumError, UnsupportedError) as error:
        print(error)
    except FormatError as error:
        print(error.file, error.object, error.found, error.expected, error.fix)
    try:
        model.generate(PROMPT, max_tokens=-1)
    except ArgumentError as error:
        print(error.sentence)


def main() -> None:
    """Use every name."""
    with tempfile.TemporaryDirectory() as folder, load(threads=1) as model:
        path = pathlib.Path(folder, "talk.state")
        read(model).save(path)
        State.load(path, model).copy()
        generate(model)
        constrain(model)
        talk(model, path)
        refuse(model)
        touched: int = model.plan()["touched_bytes_per_token"]
        resident: int | None = model.resident()
        print(model, touched, resident, model.cached(), model.config["n_layer"])
    print(tinyrwkv.__version__)


if __name__ == "__main__":
    try:
        main()
    except TinyRWKVError as error:
        raise SystemExit(f"every_name: {error}") from None
