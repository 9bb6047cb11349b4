"""The .pth reader: all that torch.save writes of plain tensors, and nothing else of a pickle."""

from __future__ import annotations

import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.read import source
from converters.read.pth import read_pth
from tests.helpers.checkpoint_files import flipped, read_plain, read_raw, survives, write
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import (
    View,
    bf16,
    members,
    pickle_and_storages,
    write_pth,
    zip_archive,
)
from tinyrwkv.errors import FormatError, TinyRWKVError, UnsupportedError

RNG = np.random.default_rng(0)
TINY = raw_checkpoint("v7", n_layer=1, n_embd=32, vocab_size=40)
TINY_BYTES = zip_archive(members(*pickle_and_storages(TINY)))


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def refusal(tmp_path, data, kind=TinyRWKVError):
    path = write(tmp_path / "a.pth", data)
    with pytest.raises(kind) as error:
        read_plain(path)
    return str(error.value)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(
    "options", [{}, {"ordered": True, "parameters": True}, {"wrap": "state_dict"}]
)
def test_reads_every_type(tmp_path, dtype, options):
    tensors = {"a": normal(5, 7), "b.c": normal(1, 1, 9), "scalar": np.array(2.5, np.float32)}
    write_pth(tmp_path / "a.pth", tensors, dtype, **options)
    read = read_plain(tmp_path / "a.pth")
    assert list(read) == list(tensors)
    for name, x in tensors.items():
        expected = (bf16(x).astype("<u4") << 16).view("<f4") if dtype == "bf16" else x
        expected = x.astype(np.float16).astype(np.float32) if dtype == "f16" else expected
        np.testing.assert_array_equal(read[name], expected.reshape(x.shape))
        assert read[name].dtype == np.float32


def test_bfloat16_keeps_the_upper_half_of_a_float32(tmp_path):
    write_pth(tmp_path / "a.pth", {"a": np.array([1.0, -2.0, 3.140625, 1e-30], np.float32)}, "bf16")
    assert read_plain(tmp_path / "a.pth")["a"][:3].tolist() == [1.0, -2.0, 3.140625]


@pytest.mark.parametrize("block", [1 << 19, 1, 30])
def test_views_of_a_storage(tmp_path, monkeypatch, block):
    monkeypatch.setattr(source, "BLOCK", block)
    flat = normal(120)
    views = {
        "whole": View(flat, 0, (12, 10), (10, 1)),
        "transposed": View(flat, 0, (10, 12), (1, 10)),
        "part": View(flat, 7, (4, 5), (10, 1)),
        "steps": View(flat, 1, (3, 4, 2), (40, 10, 3)),
        "ones": View(flat, 3, (1, 1, 9), (999, 999, 1)),
        "last": View(flat, 119, (1,), (1,)),
    }
    write_pth(tmp_path / "a.pth", views)
    read = read_plain(tmp_path / "a.pth")
    for name, (_, offset, shape, stride) in views.items():
        strides = [4 * step for step in stride]
        expected = np.lib.stride_tricks.as_strided(flat[offset:], shape, strides)
        np.testing.assert_array_equal(read[name], expected)


def test_thousands_of_tensors(tmp_path):
    one = normal(3)
    write_pth(tmp_path / "a.pth", {f"t{i}": one for i in range(2100)})
    assert len(read_plain(tmp_path / "a.pth")) == 2100


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    write_pth(tmp_path / "a.pth", {f"t{i}": normal(1000, 1000) for i in range(3)})
    tracemalloc.start()
    with source.InputFile(tmp_path / "a.pth") as file:
        total = sum(
            block.size for tensor in read_pth(file).tensors.values() for block in tensor.blocks()
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 3_000_000
    assert peak < 8 << 20  # of 12 MB: blocks of 2 MiB and what checks them


def test_checksums(tmp_path):
    tensors = {"a": normal(50, 50)}
    parts = members(*pickle_and_storages(tensors))
    plain, without = zip_archive(parts), zip_archive(parts, crc=False)
    at = plain.index(parts["archive/data/0"]) + 100
    damaged = plain[:at] + bytes([plain[at] ^ 1]) + plain[at + 1 :]
    assert "member 'archive/data/0' has CRC-32" in refusal(tmp_path, damaged, FormatError)
    # torch writes zeros when it is told to compute none
    np.testing.assert_array_equal(read_plain(write(tmp_path / "b.pth", without))["a"], tensors["a"])


@pytest.mark.parametrize(
    ("view", "found"),
    [
        (lambda x: View(x, 1, (3, 4), (4, 1)), "offset 1"),
        (lambda x: View(x, -1, (3, 4), (4, 1)), "offset -1"),
        (lambda x: View(x, 0, (3, 5), (4, 1)), "shape (3, 5)"),
        (lambda x: View(x, 11, (3, 4), (-4, -1)), "stride (-4, -1)"),
        (lambda x: View(x, 0, (1 << 40, 1 << 40), (0, 0)), "stride (0, 0)"),
        (lambda x: View(x, 0, (2, 2), (1 << 62, 1)), "stride"),
        (lambda x: View(x, 0, (0, 4), (4, 1)), "shape (0, 4)"),
    ],
)
def test_a_view_outside_its_storage_is_refused(tmp_path, view, found):
    data = zip_archive(members(*pickle_and_storages({"a": view(normal(12))})))
    message = refusal(tmp_path, data, FormatError)
    assert found in message
    assert "tensor 'a'" in message


def test_a_storage_of_another_size_is_refused(tmp_path):
    pickle, storages = pickle_and_storages({"a": normal(3, 4)})
    message = refusal(tmp_path, zip_archive(members(pickle, [storages[0][:-4]])), FormatError)
    assert "a storage of 44 bytes, but needs one of 48 bytes" in message
    assert "has no storage, but needs one of" in refusal(
        tmp_path, zip_archive(members(pickle, [])), FormatError
    )


def test_archives_that_torch_does_not_write(tmp_path):
    parts = members(*pickle_and_storages({"a": normal(3, 4)}))
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert "compressed by method 8" in refusal(
        tmp_path, (tmp_path / "z.zip").read_bytes(), UnsupportedError
    )
    assert "has 0 members data.pkl, not one" in refusal(
        tmp_path, zip_archive({"a/b": b""}), FormatError
    )
    both = {**parts, "other/data.pkl": b""}
    assert "has 2 members data.pkl, not one" in refusal(tmp_path, zip_archive(both), FormatError)
    big = {**parts, "archive/byteorder": b"big"}
    assert "big-endian" in refusal(tmp_path, zip_archive(big), UnsupportedError)
    huge = {**parts, "archive/data.pkl": bytes(5 << 20)}
    assert "at most 4194304" in refusal(tmp_path, zip_archive(huge), UnsupportedError)
    many = {f"archive/{i:0200d}": b"" for i in range(9000)}
    assert "the zip directory has 22" in refusal(
        tmp_path, zip_archive({**parts, **many}), FormatError
    )


def test_a_directory_with_numbers_of_64_bits(tmp_path):
    # What stands in the directory of a checkpoint of more than 4 GB.
    x = normal(3, 4)
    data = bytearray(zip_archive(members(*pickle_and_storages({"a": x}))))
    at, name = data.rindex(b"PK\1\2"), b"archive/.data/serialization_id"
    size, start = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (24, 42))
    extra = b"\1\0\x18\0" + b"".join(n.to_bytes(8, "little") for n in (size, size, start))
    data[at + 20 : at + 28] = b"\xff" * 8
    data[at + 42 : at + 46] = b"\xff" * 4
    data[at + 30 : at + 32] = len(extra).to_bytes(2, "little")
    data[at + 46 + len(name) : at + 46 + len(name)] = extra
    end = data.rindex(b"PK\6\6")
    length = int.from_bytes(data[end + 40 : end + 48], "little") + len(extra)
    data[end + 40 : end + 48] = length.to_bytes(8, "little")
    place = data.rindex(b"PK\6\7")
    data[place + 8 : place + 16] = end.to_bytes(8, "little")
    np.testing.assert_array_equal(read_plain(write(tmp_path / "a.pth", bytes(data)))["a"], x)


def test_the_longest_comment_may_follow_the_directory(tmp_path):
    longest = b"\xff\xff" + b"c" * 0xFFFF
    read = read_plain(write(tmp_path / "a.pth", TINY_BYTES[:-2] + longest))
    assert read.keys() == TINY.keys()
    assert "no directory at its end" in refusal(tmp_path, TINY_BYTES[:-2] + longest + b"c")


def test_members_that_overlap_are_refused(tmp_path):
    parts = members(*pickle_and_storages({"a": normal(3, 4), "b": normal(3, 4)}))
    data = bytearray(zip_archive(parts))
    first, second = (data.rindex(b"archive/data/" + digit) for digit in (b"0", b"1"))
    data[second - 4 : second] = data[first - 4 : first]  # where the member begins
    assert "overlaps what follows it" in refusal(tmp_path, bytes(data), FormatError)

    data = bytearray(zip_archive(parts))
    local = data.index(b"archive/data/0")
    # It seems to begin 17 bytes later: behind it are 16 of its own, then the next member.
    extra = int.from_bytes(data[local - 2 : local], "little") + 17
    data[local - 2 : local] = extra.to_bytes(2, "little")
    assert "'archive/data/0' has a damaged header" in refusal(tmp_path, bytes(data), FormatError)


def test_tensors_that_share_their_numbers_read_a_few_times_the_file_at_most(tmp_path):
    storage = normal(1000)

    def shared(count, view):
        return zip_archive(members(*pickle_and_storages({f"x{i}": view for i in range(count)})))

    whole = View(storage, 0, (1000,), (1,))
    assert len(read_plain(write(tmp_path / "a.pth", shared(3, whole)))) == 3
    corners = View(storage, 0, (2, 2), (998, 1))  # four numbers, but all between them is read
    repeated = View(storage, 0, (10, 100), (0, 0))
    for view in (whole, corners, repeated):
        message = refusal(tmp_path, shared(100, view), FormatError)
        assert "the tensors would read more than 4 times the bytes of the file" in message


def test_more_tensors_than_a_model_has_are_refused(tmp_path):
    pickle, storages = pickle_and_storages({"a": normal(1)})
    repeated = b"".join(b"J" + i.to_bytes(4, "little") + b"h\x7f" for i in range(1 << 16))
    data = pickle.removesuffix(b"s.") + b"q\x7fs(" + repeated + b"u."
    parts = {**members(pickle, storages), "archive/data.pkl": data}
    assert "tensors or more; at most 65536 can be read" in refusal(tmp_path, zip_archive(parts))


def test_other_contents(tmp_path):
    parts = members(*pickle_and_storages({"a": normal(3, 4)}))

    def with_pickle(pickle):
        return zip_archive({**parts, "archive/data.pkl": pickle})

    assert "holds an empty dict" in refusal(tmp_path, with_pickle(b"\x80\x02}."), FormatError)
    assert "an object of type list" in refusal(tmp_path, with_pickle(b"\x80\x02]."), FormatError)
    strategy = b"\x80\x02}(X\x09\0\0\0_strategyK\1u."
    assert "ChatRWKV" in refusal(tmp_path, with_pickle(strategy), UnsupportedError)
    stray = b"\x80\x02}(X\x05\0\0\0epochK\1u."
    assert "key 'epoch' holds an object of type int" in refusal(
        tmp_path, with_pickle(stray), UnsupportedError
    )


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    for bad in (np.nan, np.inf, -np.inf):
        x = normal(30, 30)
        x[17, 3] = bad
        data = zip_archive(members(*pickle_and_storages({"fine": normal(3), "blocks.1.x": x})))
        assert "tensor 'blocks.1.x' holds NaN or infinity" in refusal(tmp_path, data, FormatError)


def test_every_cut_is_refused(tmp_path):
    path = str(tmp_path / "a.pth")
    for size in [
        *range(0, 200, 7),
        *range(200, len(TINY_BYTES), len(TINY_BYTES) // 60),
        len(TINY_BYTES) - 1,
    ]:
        assert survives(path, TINY_BYTES[:size]), size
    assert not survives(path, TINY_BYTES)


@settings(max_examples=150, deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_any_flip_gives_a_result_or_an_error(tmp_path_factory, flips):
    survives(str(tmp_path_factory.mktemp("pth") / "a.pth"), flipped(TINY_BYTES, flips))


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1), mask=st.integers(1, 255))
def test_any_flip_in_the_directory_or_pickle(tmp_path_factory, place, mask):
    path = str(tmp_path_factory.mktemp("pth") / "a.pth")
    directory = TINY_BYTES.index(b"PK\1\2")
    survives(path, TINY_BYTES[:directory] + flipped(TINY_BYTES[directory:], [(place, mask)]))
    pickle, storages = pickle_and_storages(TINY)
    survives(path, zip_archive(members(flipped(pickle, [(place, mask)]), storages)))


def test_a_whole_checkpoint(tmp_path):
    config, raw = read_raw(write(tmp_path / "a.pth", TINY_BYTES))
    assert config["arch"] == "v7"
    for name, x in raw.items():
        np.testing.assert_array_equal(x, TINY[name])
