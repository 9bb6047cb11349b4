"""Fuzzers of what people write: vocabularies, profiles, templates, constraints, texts."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from typing import Any

import numpy as np

import tinyrwkv
from converters.write.vocab import read_vocab
from tests.helpers.checkpoint_files import write
from tests.helpers.vocabularies import pack, single_bytes
from tinyrwkv.chat.profile import read_profile
from tinyrwkv.chat.templates import template
from tinyrwkv.tokenizer import StreamDecoder, Tokenizer

from . import model_files
from .fuzzer import Fuzzer, Random
from .models import fresh
from .mutate import any_json, array_changed, flipped, json_changed

VOCAB_SIZE = 300


@functools.lru_cache(None)
def _vocabulary() -> list[bytes]:
    """Return the lines of a good vocabulary."""
    words = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", "é日".encode(), b" 'q'\n"]
    return [f"{number} {word!r} {len(word)}".encode() for number, word in enumerate(words, 1)]


LINES = (
    *(b"", b"1", b"0 'a' 1", b"299 'a' 1", b"298 '' 0", b"297 b'' 0", b"296 'abcd' 9"),
    *(b"295 '\\ud800' 3", b"294 '\\N{DIGIT ONE}' 1", b"293 'a' 'b' 2", b"292 (1) 1", b"-1 'zz' 2"),
    *(b"291 '\\x' 1", b"290 f'a' 1", b"999999999 'zz' 2", b"289 '" + b"a" * 1025 + b"' 1025"),
    *(b"288 \xff 1", b"287 '\\777' 2", b"286 '\\q' 2", b"285 b'\xc3\xa9' 2", b"284 'a\0b' 3"),
)


def _make_vocab(rng: Random) -> bytes:
    lines = list(_vocabulary())
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            lines.insert(at, rng.choice(LINES))
        elif kind == 1:
            lines[at] = flipped(rng, lines[at])
        elif kind == 2:
            lines.append(rng.choice(LINES))
        else:
            lines.insert(at, lines.pop(rng.randrange(len(lines))))
    data = rng.choice((b"\n", b"\n", b"\r\n", b"\n\r")).join(lines) + rng.choice((b"", b"\n"))
    return flipped(rng, data) if rng.random() < 0.1 else data


def _read_vocab(data: bytes, folder: str) -> None:
    found = read_vocab(fresh(folder, data), VOCAB_SIZE)
    tokenizer = Tokenizer(found.bytes, found.starts, found.ids, VOCAB_SIZE)
    _round_trip(tokenizer, data[-200:])


def _round_trip(tokenizer: Tokenizer, text: bytes) -> None:
    """Encode a text and decode it again, at once and in pieces."""
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text
    decoder = StreamDecoder()
    pieces = [decoder.push(tokenizer.token_bytes(token)) for token in ids]
    assert "".join([*pieces, decoder.flush()]) == tokenizer.decode(ids)


def _make_tokenizer(rng: Random) -> bytes:
    letters = rng.choice((b"ab", b"\0\xff", b"aAb\xc3\xa9"))
    words = {
        257 + i: bytes(rng.choice(letters) for _ in range(rng.choice((2, 3, 8, 60))))
        for i in range(rng.randrange(30))
    }
    tokens = single_bytes() | {number: word for number, word in words.items()}
    unique = {word: number for number, word in tokens.items()}
    data, starts, ids = pack({number: word for word, number in unique.items()})
    if rng.random() < 0.7:
        kind = rng.randrange(3)
        data = flipped(rng, data) if kind == 0 else data
        starts = array_changed(rng, starts) if kind == 1 else starts
        ids = array_changed(rng, ids) if kind == 2 else ids
    text = bytes(rng.choice(letters) for _ in range(rng.randrange(200)))
    sizes = np.array([len(data), len(starts), len(ids)], np.int32)
    return sizes.tobytes() + data + starts.tobytes() + ids.tobytes() + text


def _use_tokenizer(data: bytes, folder: str) -> None:
    a, b, c = (int(size) for size in np.frombuffer(data, np.int32, 3))
    rest = data[12:]
    starts = np.frombuffer(rest[a:], np.int32, b) if b else np.zeros(0, np.int32)
    ids = np.frombuffer(rest[a + 4 * b :], np.int32, c) if c else np.zeros(0, np.int32)
    tokenizer = Tokenizer(rest[:a], starts, ids, VOCAB_SIZE)
    _round_trip(tokenizer, rest[a + 4 * b + 4 * c :])


PROFILE = {
    "prompts": ["turn left", "Do you like pizza?"],
    "commands": ["move", "turn"],
    "settings": {"temperature": 0.7, "top_p": 0.5, "max_tokens": 100, "seed": 1, "top_k": 3},
}


def _make_profile(rng: Random) -> bytes:
    value: Any = PROFILE
    for _ in range(rng.choice((0, 1, 2, 3))):
        value = json_changed(rng, value)
    data = json.dumps(value).encode()
    return flipped(rng, data) if rng.random() < 0.3 else data


def _read_profile(data: bytes, folder: str) -> None:
    fresh(folder, data, "model.chat.json")
    read_profile(os.path.join(folder, "model.trwkv"))


def _make_template(rng: Random) -> bytes:
    text = "".join(rng.choice("{}\n\r \t:aUser\0é\u2028\ud800") for _ in range(rng.randrange(60)))
    name = rng.choice(("chat", "robot", "raven", "none", "think", "none", "other", ""))
    return json.dumps([name, text, rng.random() < 0.5, text[:7]]).encode()


def _use_template(data: bytes, folder: str) -> None:
    name, text, first, system = json.loads(data)
    chosen = template(name)
    sent = chosen.prompt(text, first, system)
    assert not chosen.clean or "\n\n" not in chosen.user(text)[:-2]
    assert sent.endswith(chosen.answer_prefix + chosen.opening)


ATOMS = (
    *(
        "a",
        ".",
        "[a-z]",
        "[^a]",
        r"\d",
        r"\w",
        r"\s",
        "é",
        "(a|b)",
        "(?:x)",
        "",
        r"\x41",
        r"\u00e9",
    ),
    *(r"[\d-]", "\U0001f642", "[^\U0001f642]", r"\n", r"\.", "[a-zé-日]", "(|a)", "(a*)*"),
)
ODD_ATOMS = (
    *("[", "]", "(", ")", "{", "}", "|", "^", "$", r"\b", r"\1", "(?P<n>a)", "(?i)", "(?=a)", "\\"),
    *("[a-", "[z-a]", "[]", "[^]", r"[\d-x]", "\0", "\ud800", r"\Z", "[[:alpha:]]", "(?#", "(?"),
)
REPEATS = ("", "", "", "", "*", "+", "?", "{2}", "{0,3}")
ODD_REPEATS = ("{5,2}", "{,}", "{1000}", "{300,}", "{99999999999}", "*?", "++", "{a}", "{-1}")


def _pattern(rng: Random, depth: int = 3) -> str:
    """Return a regular expression; now and then something in it is odd or malformed."""
    parts = []
    for _ in range(rng.randrange(1, 5)):
        atom = rng.choice(ATOMS if rng.random() < 0.95 else ODD_ATOMS)
        if depth and rng.random() < 0.3:
            atom = f"({_pattern(rng, depth - 1)})"
        parts.append(atom + rng.choice(REPEATS if rng.random() < 0.95 else ODD_REPEATS))
    return rng.choice(("", "", "|")).join(parts)


def _make_regex(rng: Random) -> bytes:
    return _pattern(rng).encode("utf-8", "surrogatepass")


@functools.lru_cache(None)
def _speaker() -> tinyrwkv.Model:
    folder = tempfile.mkdtemp()
    parts = model_files.model("v7", "int8", "dense", vocabulary=True)
    return tinyrwkv.load(write(os.path.join(folder, "model"), parts.build()), backend="numpy")


def _walk(constraint: Any) -> None:
    """Follow a constraint for a few tokens."""
    model = _speaker()
    walk = constraint.start(model)
    for _ in range(4):
        logits = np.zeros(model.config["vocab_size"], np.float32)
        walk.mask(logits, None)
        token = int(logits.argmax())
        if logits[token] < 0 or not walk.advance(token):
            break


def _use_regex(data: bytes, folder: str) -> None:
    pattern = data.decode("utf-8", "surrogatepass")
    _walk(tinyrwkv.Regex(pattern))


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4, "pattern": "[a-z]+"},
        "size": {"type": "integer", "minimum": -3, "maximum": 12},
        "share": {"type": "number", "minimum": 0},
        "kind": {"enum": ["a", 1, None]},
        "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "either": {"anyOf": [{"const": 5}, {"type": "null"}]},
    },
    "required": ["name", "size"],
    "additionalProperties": False,
}


def _make_schema(rng: Random) -> bytes:
    value: Any = rng.choice([SCHEMA, *SCHEMA["properties"].values()])  # type: ignore[attr-defined]
    for _ in range(rng.choice((0, 1, 2, 4))):
        value = json_changed(rng, value)
    if rng.random() < 0.1:
        value = any_json(rng)
    return json.dumps(value).encode()


def _use_schema(data: bytes, folder: str) -> None:
    _walk(tinyrwkv.JsonSchema(json.loads(data)))


FUZZERS = {
    "vocab": Fuzzer(_make_vocab, _read_vocab),
    "tokenizer": Fuzzer(_make_tokenizer, _use_tokenizer),
    "profile": Fuzzer(_make_profile, _read_profile),
    "template": Fuzzer(_make_template, _use_template),
    "regex": Fuzzer(_make_regex, _use_regex),
    "schema": Fuzzer(_make_schema, _use_schema),
}
