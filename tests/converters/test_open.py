"""What a file is goes by its first bytes; what is no checkpoint gets a message of its own."""

from __future__ import annotations

import os
import tarfile

import pytest

from converters.read.open import open_source
from tests.helpers.checkpoint_files import ggmf, gguf, safetensors, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.dialects import to_ggmf, to_gguf
from tests.helpers.pth_writer import members, pickle_and_storages, zip_archive
from tinyrwkv.errors import FormatError, TinyRWKVError, UnsupportedError

RAW = raw_checkpoint("v6", n_layer=1, n_embd=32, vocab_size=40)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("pth", zip_archive(members(*pickle_and_storages(RAW)))),
        ("safetensors", safetensors(RAW)),
        ("ggmf", ggmf(to_ggmf(RAW, "v6"), 1)),
        ("gguf", gguf(*to_gguf(RAW, "v6"))),
        ("trwkv", b"\x93TRWKV\r\n" + bytes(100)),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.gguf", "a"])
def test_the_name_does_not_matter(tmp_path, kind, data, name):
    with open_source(write(tmp_path / name, data)) as source:
        assert source.kind == kind
        assert source.path == str(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\xef\xbb\xbf\n <HTML>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b'{"hidden_size": 768}', "a JSON file"),
        (
            b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
            "a bare pickle, as PyTorch wrote before 1.6",
        ),
        (b"lmgg" + bytes(50), "an unversioned ggml file"),
        (b"tjgg" + bytes(50), "a GGJT file"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (b"hello, world", "the first bytes b'hello, w'"),
        (bytes(1000), "the first bytes"),
        (b"PK\3\4" + bytes(100), "no directory at its end"),
    ],
)
def test_each_refusal_says_what_it_found(tmp_path, data, found):
    path = write(tmp_path / "a.pth", data)
    with pytest.raises(TinyRWKVError) as error:
        open_source(path)
    assert found in str(error.value)
    assert str(error.value).startswith(path)
    assert error.value.file == path


def test_a_tar_of_an_old_pytorch(tmp_path):
    (tmp_path / "pickle").write_bytes(b"\x80\x02}.")
    with tarfile.open(tmp_path / "a.pth", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path / "pickle", "pickle")
    with pytest.raises(UnsupportedError, match="a tar archive"):
        open_source(tmp_path / "a.pth")


def test_what_is_no_file(tmp_path):
    with pytest.raises(FormatError, match=r"^no such file: .*missing\.pth; check the name"):
        open_source(tmp_path / "missing.pth")
    with pytest.raises(FormatError, match=r"^cannot read a\0b: .*embedded null"):
        open_source("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="a pipe or device"):
        open_source(tmp_path / "pipe")


def test_the_file_is_closed_after_a_refusal(tmp_path):
    # A handle left open would be a ResourceWarning, which the tests make an error.
    path = write(tmp_path / "a", b"nothing")
    for _ in range(5):
        with pytest.raises(FormatError):
            open_source(path)
    os.remove(path)
