"""The vocabulary in a GGUF file: llama.cpp's escapes and types of tokens, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.export.gguf import export
from converters.read.gguf_vocab import unescape
from converters.read.open import open_source
from converters.write.convert import convert
from tests.helpers.checkpoint_files import gguf, with_vocabulary, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.dialects import to_gguf
from tinyrwkv import load
from tinyrwkv.errors import FormatError

ARRAYS, PLAIN = to_gguf(
    raw_checkpoint("v7", n_layer=1, n_embd=32, head_size=8, vocab_size=300), "v7"
)
WORDS = {257: b"\n\n", 258: b"it's", 259: b"'\"", 260: b"\\x41", 261: "日本".encode(), 262: b"<s>"}
TOKENS = {b + 1: bytes([b]) for b in range(256)} | WORDS
NORMAL, UNKNOWN, CONTROL, USER, UNUSED = range(1, 6)


def settings(tokens, types=None, model="rwkv"):
    """Return the settings of a file with a vocabulary."""
    made = with_vocabulary(PLAIN, tokens, 300) | {"tokenizer.ggml.model": model}
    return made if types is None else made | {"tokenizer.ggml.token_type": types}


def tokens_of(path):
    with open_source(path) as source:
        return source.about.tokens()


@given(st.binary(min_size=1, max_size=20))
def test_a_token_is_written_as_between_the_quotes_of_a_literal(token):
    assert unescape(repr(token)[2:-1].encode()) == token


def test_text_that_is_not_escaped_stays(tmp_path):
    assert unescape("日本".encode()) == "日本".encode()
    assert unescape(rb"\q\\\"") == b'q\\"'


def test_the_tokens_of_a_file(tmp_path):
    assert tokens_of(write(tmp_path / "a", gguf(ARRAYS, settings(TOKENS)))) == TOKENS
    few = {name: value for name, value in settings(TOKENS).items() if "token_type" not in name}
    found = tokens_of(write(tmp_path / "b", gguf(ARRAYS, few)))
    assert {id: found[id] for id in TOKENS} == TOKENS
    assert 0 not in found


def test_types_of_tokens(tmp_path):
    types = [CONTROL] + [NORMAL] * 256 + [USER, UNKNOWN, CONTROL, UNUSED] + [NORMAL] * 39
    found = tokens_of(write(tmp_path / "a", gguf(ARRAYS, settings(TOKENS, types))))
    assert found[257] == b"\n\n"
    assert not {258, 259, 260} & set(found)
    assert 261 in found


@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_a_conversion_takes_the_vocabulary(tmp_path, dtype):
    path = write(tmp_path / "a.gguf", gguf(ARRAYS, settings(TOKENS)))
    report = convert(path, tmp_path / "a.trwkv", dtype)
    assert report["tokenizer"]
    assert not any("vocabulary" in note for note in report["notes"])
    with load(tmp_path / "a.trwkv", backend="numpy") as model:
        text = "it's 日本 \\x41\n\n"
        ids = model.tokenizer.encode(text)
        assert model.tokenizer.decode(ids) == text
        assert 258 in ids and 261 in ids and 260 in ids and ids[-1] == 257


def test_a_given_vocabulary_comes_first(tmp_path):
    broken = settings({**TOKENS, 256: b"\n\n"})
    path = write(tmp_path / "a.gguf", gguf(ARRAYS, broken))
    with pytest.raises(FormatError, match=r"token 257 has the token b'\\n\\n' for the second time"):
        convert(path, tmp_path / "a.trwkv")
    vocab = b"".join(b"%d %a 1\n" % (b + 1, bytes([b])) for b in range(256))
    convert(path, tmp_path / "a.trwkv", vocab=write(tmp_path / "vocab", vocab))
    with load(tmp_path / "a.trwkv", backend="numpy") as model:
        assert len(model.tokenizer.encode("it's")) == 4


def test_it_comes_back_from_an_export(tmp_path):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    path = write(tmp_path / "a.gguf", gguf(ARRAYS, settings(TOKENS)))
    convert(path, tmp_path / "a.trwkv", "f32")
    export(tmp_path / "a.trwkv", tmp_path / "b.gguf")
    assert tokens_of(tmp_path / "b.gguf") == TOKENS


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_another_kind_of_vocabulary_is_left_out_with_a_note(tmp_path, model):
    path = write(tmp_path / "a.gguf", gguf(ARRAYS, settings(TOKENS, model=model)))
    report = convert(path, tmp_path / "a.trwkv")
    assert not report["tokenizer"]
    notes = " ".join(report["notes"])
    assert f"the vocabulary '{model}' in the file was not used" in notes
    vocab = b"".join(b"%d %a 1\n" % (b + 1, bytes([b])) for b in range(256))
    report = convert(path, tmp_path / "a.trwkv", vocab=write(tmp_path / "vocab", vocab))
    assert not any("was not used" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokenizer.ggml.tokens": ["<s>", "a\\"]}, r"token 1 is b'a.*', not a text with"),
        ({"tokenizer.ggml.tokens": ["<s>", "\\xg0"]}, "token 1 is .*, not a text with"),
        ({"tokenizer.ggml.tokens": ["<s>", "a" * 8193]}, "a text of 8193 bytes, not texts of at"),
        ({"tokenizer.ggml.tokens": ["<s>", "a" * 1025]}, "token 1 has a token of 1025 bytes"),
        ({"tokenizer.ggml.tokens": ["<s>", ""]}, "token 1 has an empty token"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "token 0 has id 0, but the model has the ids 1 to"),
        ({"tokenizer.ggml.tokens": ["<s>", "b"]}, "has no token for the byte 0x00 and 254 others"),
        ({"tokenizer.ggml.tokens": [7, 7]}, "items of type 5, not a list of texts"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "a list of 2 items .* not a list of 300 numbers"),
        ({"tokenizer.ggml.token_type": ["a"] * 300}, "not a list of 300 numbers"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path, changed, message):
    said = {**settings(TOKENS), **changed}
    if "tokenizer.ggml.tokens" in changed:
        said["tokenizer.ggml.token_type"] = [NORMAL] * 2
    path = write(tmp_path / "a.gguf", gguf(ARRAYS, said))
    with pytest.raises(FormatError, match=message):
        convert(path, tmp_path / "a.trwkv")
    assert not (tmp_path / "a.trwkv").exists()
