"""The file format: what is written is read back, and nothing else is believed."""

import json
import os
import pickle
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tinyrwkv.errors import (
    ArgumentError,
    ChecksumError,
    FormatError,
    TinyRWKVError,
    UnsupportedError,
)
from tinyrwkv.file.header import MAGIC
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.tensors import Tensor
from tinyrwkv.file.verify import check_sums, open_verified
from tinyrwkv.file.writer import Writer

DOCS = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
SIZES = {"n_layer": 1, "n_embd": 4, "n_ffn": 16, "n_head": 1, "head_size": 4, "vocab_size": 3}
MODEL = {
    "arch": "v7",
    "kind": "model",
    **SIZES,
    "ln_x_eps": 0.00064,
    "dtype": "int8",
    "created_by": "docs/format.md",
}
WEIGHT = np.array([[127, -64, 0, 1], [-127, 2, 3, 4], [5, 6, 127, 7]], np.int8)
SCALE = np.array([0.5, 1, 0.25], np.float32)
X = {"name": "x", "dtype": "f32", "shape": [1], "offset": 4096, "nbytes": 4, "crc32": 0}
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_example(path):
    with Writer(path, MODEL) as writer:
        writer.add("emb.weight", WEIGHT)
        writer.add("emb.weight.scale", SCALE)
    return Path(path).read_bytes()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return the bytes of the example of docs/format.md."""
    return write_example(tmp_path_factory.mktemp("good") / "a.trwkv")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.trwkv"


def fields(good, magic=b"\x93TRWKV\r\n", **changes):
    """Return the example with other header fields and right checksums."""
    names = [
        "major",
        "minor",
        "flags",
        "table_offset",
        "table_bytes",
        "data_offset",
        "file_bytes",
        "crc",
        "zero",
    ]
    values = dict(zip(names, struct.unpack_from("<HHIQQQQIQ", good, 8), strict=True)) | changes
    head = magic + struct.pack("<HHIQQQQIQ", *values.values())
    return head + struct.pack("<I", zlib.crc32(head)) + good[64:]


def with_table(table, minor=0, data=bytes(128)):
    """Return a file of zeros with this table (an object, or JSON text) and right checksums."""
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    offset = 4096 + len(data)
    blank = bytes(4096) + data + raw
    return fields(
        blank,
        major=1,
        minor=minor,
        table_offset=offset,
        table_bytes=len(raw),
        data_offset=4096,
        file_bytes=len(blank),
        crc=zlib.crc32(raw),
    )


def tables(*tensors, **metadata):
    return with_table({"metadata": MODEL | metadata, "tensors": list(tensors)})


def refusal(path, contents, kind=FormatError, verify=False):
    path.write_bytes(contents)
    with pytest.raises(kind) as caught:
        (open_verified if verify else open_file)(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 1000
    return message[len(f"{path}: ") :]


def test_example_of_the_documentation(path, good):
    example = DOCS.partition("\n## An example\n")[2]
    dump = re.search(r"```\n(00000000  .*?)\n```", example, re.DOTALL).group(1)
    contents = bytearray()
    for line in dump.splitlines():
        if line == "*":
            last = contents[-16:]
            continue
        address = int(line[:8], 16)
        while len(contents) < address:
            contents += last
        contents += bytes.fromhex(line[8:60])
    assert bytes(contents) == good
    path.write_bytes(contents)
    with open_verified(path) as file:
        assert file.metadata == MODEL
        assert np.array_equal(
            file["emb.weight"] * file["emb.weight.scale"][:, None], WEIGHT * SCALE[:, None]
        )
        assert file["emb.weight"].dtype == np.int8 and file["emb.weight.scale"].dtype == np.float32


TENSORS = st.dictionaries(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200),
    st.tuples(
        st.sampled_from(["<f4", "<f2", "i1", "u1", "<i4", ">f4", ">i4"]).flatmap(
            lambda dtype: arrays(dtype, array_shapes(max_dims=4, max_side=5))
        ),
        st.booleans(),
        st.booleans(),
    ),
    max_size=6,
)


@RELAXED
@given(TENSORS)
@example({"x": (np.arange(1 << 18, dtype=np.int32), False, False)})
@example(
    {
        "y": (np.ones(3, np.int8), False, False),
        "x": (np.arange(1 << 20, dtype=np.int32)[::4], False, True),
    }
)
def test_round_trip(path, contents):
    with Writer(path, MODEL) as writer:
        for name, (array, aligned, transposed) in contents.items():
            writer.add(name, array.T if transposed else array, page_aligned=aligned)
    with open_verified(str(path)) as file:
        assert list(file.tensors) == list(contents) and file.metadata == MODEL
        assert file.bytes.size == path.stat().st_size
        for name, (array, aligned, transposed) in contents.items():
            expected = array.T if transposed else array
            found, entry = file[name], file.tensors[name]
            assert name in file and found.shape == expected.shape == entry.shape
            assert found.dtype == expected.dtype.newbyteorder(
                "<"
            ) and found.tobytes() == expected.astype(found.dtype).tobytes(order="C")
            assert (
                found.flags.c_contiguous
                and not found.flags.writeable
                and np.shares_memory(found, file.bytes)
            )
            assert entry.offset % (4096 if aligned or entry.nbytes >= 1 << 20 else 64) == 0


def test_every_metadata_key(path):
    metadata = {
        **MODEL,
        "template": "chat",
        "source": {"name": "rwkv é", "sha256": "0" * 64, "license": "Apache-2.0"},
        "compression": [
            {
                "technique": "int8",
                "params": {"rows": True},
                "report": {"error": 0.5, "list": [1, [2]]},
            }
        ],
        "model": "ab" * 32,
        "tokens": 1 << 53,
        "state_version": 2,
    }
    with Writer(path, {"kind": "model"}) as writer:
        writer.metadata.update(metadata)
    with open_file(path) as file:
        assert file.metadata == metadata
    assert set(
        re.findall(r"^\| `(\w+)` \| ", DOCS.split("## Tensors of a model")[0], re.MULTILINE)
    ) == set(metadata)


def test_numpy_numbers_in_a_report(path):
    report = {"error": np.float32(0.5), "rank": np.int64(3), "kept": np.bool_(True)}
    with Writer(path, MODEL) as writer:
        writer.metadata["compression"] = [{"technique": "low rank", "params": {}, "report": report}]
    with open_file(path) as file:
        assert file.metadata["compression"][0]["report"] == {"error": 0.5, "rank": 3, "kept": True}


def test_state_file(path):
    state = {
        "kind": "state",
        "arch": "v4",
        "n_layer": 1,
        "n_embd": 4,
        "n_head": 1,
        "head_size": 4,
        "model": "0" * 64,
    }
    with Writer(path, state) as writer:
        writer.add("state", np.zeros(20, np.float32))
    with open_file(path) as file:
        assert file.metadata == state
    del state["model"]
    with pytest.raises(FormatError, match="metadata lacks model"), Writer(path, state):
        pass


def test_hash_tells_contents_apart(tmp_path, good):
    hashes = set()
    for number in (1, 1, 2):
        with Writer(tmp_path / "a", MODEL) as writer:
            writer.add("x", np.full(3, number, np.int8))
        with open_file(tmp_path / "a") as file:
            hashes.add(file.hash)
            assert re.fullmatch("[0-9a-f]{64}", file.hash)
    assert len(hashes) == 2


def test_names_outside_ascii_and_path_types(tmp_path):
    for name in ("modèle 模型 😀.trwkv", b"bytes.trwkv"):
        path = (
            os.path.join(os.fsencode(tmp_path), name)
            if isinstance(name, bytes)
            else tmp_path / name
        )
        with Writer(path, MODEL) as writer:
            writer.add("x", np.ones(1, np.int8))
        with open_file(path) as file:
            assert isinstance(file.path, str) and file["x"][0] == 1


def test_pages_are_read_only_and_live_on(path):
    write_example(path)
    with open_file(path) as file:
        view = file["emb.weight"]
        with pytest.raises(ValueError, match="read-only"):
            view[0, 0] = 1
        with pytest.raises(ValueError, match="read-only"):
            file.bytes[0] = 1
    assert np.array_equal(view, WEIGHT)  # the map lives as long as its views
    for call in (lambda: file["emb.weight"], lambda: check_sums(file)):
        with pytest.raises(ArgumentError, match="is closed; "):
            call()
    file.close()


def test_closing_frees_the_map(path):
    write_example(path)

    def maps():
        return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())

    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc")
    with open_file(path) as file:
        assert maps() == 1 and len(file["emb.weight"]) == 3
    assert maps() == 0


def test_missing_tensor(path):
    write_example(path)
    with (
        open_file(path) as file,
        pytest.raises(FormatError, match="has no tensor 'x'; "),
    ):
        assert "x" not in file
        file["x"]


def test_verify_reports_progress(path):
    with Writer(path, MODEL) as writer:
        writer.add("big", np.ones(5 << 18, np.float32))
        writer.add("small", np.ones(1, np.float32))
    seen = []
    with open_file(path) as file:
        check_sums(file, lambda *both: seen.append(both))
        end = file.tensors["small"].offset + 4
    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done) and len(set(totals)) == 1 and len(seen) >= 6
    assert done[-1] == end <= totals[-1]


def test_newer_minor_may_know_more_keys(path):
    table = {"metadata": MODEL | {"new": [1, {"a": None}]}, "tensors": []}
    path.write_bytes(with_table(table, minor=5))
    with open_file(path) as file:
        assert file.metadata == MODEL
    for minor in (0, 1, 2, 3, 4):
        assert "unknown key" in refusal(path, with_table(table, minor=minor))
    for wrong in (
        {"metadata": MODEL, "tensors": [], "new": 1},
        {"metadata": MODEL, "tensors": [X | {"new": 1}]},
    ):
        refusal(path, with_table(wrong, minor=5))


def contents_of(file):
    return file.metadata, {name: (t, file[name].tobytes()) for name, t in file.tensors.items()}


@RELAXED
@given(st.data())
def test_any_changed_byte_is_noticed(path, good, data):
    spot = st.one_of(
        *(st.integers(a, b - 1) for a, b in ((0, 64), (64, 4096), (4096, 4224), (4224, 4608)))
    )
    at, change = data.draw(spot), data.draw(st.integers(1, 255))
    path.write_bytes(good)
    with open_file(path) as file:
        expected = contents_of(file)
    damaged = bytearray(good)
    damaged[at] ^= change
    path.write_bytes(damaged)
    try:
        with open_verified(path) as file:
            assert contents_of(file) == expected
    except FormatError as error:
        assert error.file == str(path)
    else:
        pytest.fail("every byte of a file is under some check")


def test_any_cut_is_noticed(path, good):
    for size in range(len(good)):
        if 70 < size < 4090 and size % 100:
            continue
        message = refusal(path, good[:size])
        assert "cut" in message or size == 0


def test_unverified_damage_is_found_by_verify_alone(path, good):
    for at, name in (
        (4097, "tensor 'emb.weight'"),
        (4160, "tensor 'emb.weight.scale'"),
        (4110, "padding before emb"),
    ):
        damaged = bytearray(good)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with open_file(path) as file, pytest.raises(ChecksumError, match=name):
            check_sums(file)
    assert "padding before the end" in refusal(path, good[:4200] + b"x" + good[4201:], verify=True)


@RELAXED
@given(st.binary(max_size=300), st.booleans())
@example(b"[" * 100_000, True)
@example(b'{"metadata":' * 50_000, True)
@example(b'{"metadata":{},"tensors":[' + b"[]," * 600_000 + b"[]]}", True)
@example(b"9" * 1_000_000, True)
@example(b"0." + b"9" * 1_000_000, True)
def test_any_bytes_are_refused(path, contents, as_table):
    refusal(path, with_table(contents) if as_table else contents)


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@RELAXED
@given(st.data())
def test_hostile_tables_are_refused_or_harmless(path, data):
    """Put any value into any place of a good table: nothing but a FormatError comes out."""
    table = {"metadata": dict(MODEL), "tensors": [dict(X), X | {"name": "y", "offset": 4160}]}
    place = data.draw(
        st.sampled_from([table, table["metadata"], table["tensors"][0], table["tensors"][1]])
    )
    huge = st.integers(-1, 2**70) | st.sampled_from([2**31, 2**32, 2**63, 2**64, True, 1.0, 1e300])
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(
        NESTED | huge | st.lists(huge, max_size=5)
    )
    path.write_bytes(with_table(table))
    try:
        with open_file(path) as file:
            for name, tensor in file.tensors.items():
                assert (
                    file[name].nbytes == tensor.nbytes
                    and 4096 <= tensor.offset <= 4224 - tensor.nbytes
                )
    except FormatError:
        pass


def test_hostile_tables_take_little_memory(path):
    """A parsed table may take 27 times its text, so the text is limited for small boards."""
    junk = b'{"metadata":{},"tensors":[' + b"{}," * 100_000 + b"{}]}"
    tracemalloc.start()
    refusal(path, with_table(junk))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * len(junk)


def tensor(offset, nbytes, name="x", **changes):
    """Return a line of the table: bytes at an offset."""
    line = {"name": name, "dtype": "u8", "shape": [nbytes], "offset": offset, "nbytes": nbytes}
    return line | {"crc32": 0} | changes


@pytest.mark.parametrize(
    ("fits", "too_much", "told"),
    [
        ([tensor(4096, 128)], [tensor(4096, 129)], "its last byte at 4225"),
        (
            [tensor(4096, 64), tensor(4160, 1, "y")],
            [tensor(4096, 65), tensor(4160, 1, "y")],
            "4161",
        ),
        ([tensor(4096, 1, shape=[1] * 4)], [tensor(4096, 1, shape=[1] * 5)], "1 to 4 whole"),
        ([tensor(4096, 1, "x" * 200)], [tensor(4096, 1, "x" * 201)], "1 to 200 printable"),
        ([tensor(4096, 1, crc32=2**32 - 1)], [tensor(4096, 1, crc32=2**32)], "of 32 bits"),
    ],
)
def test_a_tensor_may_go_to_each_limit_and_no_further(path, fits, too_much, told):
    path.write_bytes(tables(*fits))
    with open_file(path) as file:
        assert len(file.tensors) == len(fits)
    assert told in refusal(path, tables(*too_much))


def test_a_table_may_have_two_mebibytes_and_no_more(path):
    raw = json.dumps({"metadata": MODEL, "tensors": []}).encode()
    full = raw.ljust(2 << 20)
    path.write_bytes(with_table(full, data=b""))
    open_file(path).close()
    assert "at most 2097152" in refusal(path, with_table(full + b" ", data=b""))


def test_giant_files_are_not_read(path):
    """A file may hold a tensor of 8 TiB, as a hole."""
    size = 1 << 43
    tensor = X | {"shape": [size // 4], "nbytes": size}
    raw = json.dumps({"metadata": MODEL, "tensors": [tensor]}).encode()
    end = 4096 + size
    changes = {
        "table_offset": end,
        "table_bytes": len(raw),
        "file_bytes": end + len(raw),
        "crc": zlib.crc32(raw),
    }
    head = fields(bytes(64), major=1, data_offset=4096, **changes)
    with open(path, "wb") as file:
        file.write(head)
        try:
            file.seek(end)
            file.write(raw)
        except OSError:
            pytest.skip("this file system has no such files")
    with open_file(path) as file:
        assert file["x"].nbytes == size and not file["x"][-5:].any()


def wrong(good, **change):
    return tables(X | change)


def bad_json(text):
    return with_table(
        json.dumps({"metadata": MODEL, "tensors": []}).replace("0.00064", text).encode()
    )


TABLE_JSON = (
    "expected one UTF-8 JSON object; it was altered, or its writer is broken: "
    "fetch or convert it again"
)
CHANGED = (
    "this looks like a .trwkv file that was changed as if it were text; "
    "copy or download it again in binary mode"
)
BAD_NUMBER = f"table: found bad JSON ('the number {{}} is not finite or too long'), {TABLE_JSON}"
METADATA_CASES = [
    ("kind", ["pth", 1, None, True, ["model"], {}], "one of model, state"),
    ("arch", ["v5", 7, "V7", None], "one of v4, v5.0, v5.1, v5.2, v6, v7, v7a, v8-rc00"),
    ("n_layer", [True, 0, -1, 4097, 2**64, 1.0, "1", None, [1]], "a whole number from 1 to 4096"),
    ("n_embd", [False, 0, 1048577, 4.0], "a whole number from 1 to 1048576"),
    ("n_ffn", [True, 0, 4194305], "a whole number from 1 to 4194304"),
    ("n_head", [True, 0, 1048577], "a whole number from 1 to 1048576"),
    ("head_size", [True, 0, 1048577], "a whole number from 1 to 1048576"),
    ("vocab_size", [True, 0, 16777217], "a whole number from 1 to 16777216"),
    ("ln_x_eps", [1, True, 0.0, -1e-5, 1.5, "1e-5"], "a decimal number above 0, at most 1"),
    ("dtype", ["int3", "i8", 8], "one of f32, f16, int8, int4"),
    ("template", ["", "x" * 1001, 1, None], "text of 1 to 1000 characters"),
    ("created_by", ["", "x" * 1001, 1, ["x"]], "text of 1 to 1000 characters"),
    ("model", ["A" * 64, "0" * 63, "0" * 64 + "0", 0], "64 lower-case hex digits"),
    ("tokens", [-1, 2**53 + 1, True, 1.0], "a whole number from 0 to 9007199254740992"),
    (
        "source",
        [
            "x",
            {},
            {"name": "x"},
            {"name": "x", "sha256": "0"},
            {"name": 1, "sha256": "0" * 64},
            {"name": "x", "sha256": "0" * 64, "url": "x"},
        ],
        "an object of name, sha256 (64 lower-case hex digits) and perhaps license",
    ),
    (
        "compression",
        [
            {},
            ["x"],
            [{}],
            [{"technique": "x", "params": [], "report": {}}],
            [{"technique": 1, "params": {}, "report": {}}],
        ],
        "a list of objects of technique (text), params and report (objects)",
    ),
]


@pytest.mark.parametrize(
    ("key", "values", "expected"), METADATA_CASES, ids=[case[0] for case in METADATA_CASES]
)
def test_metadata_refusals(path, key, values, expected):
    for value in values:
        message = refusal(path, tables(**{key: value}))
        assert (
            message.startswith(f"metadata '{key}': found ")
            and f", expected {expected}; " in message
        )
        with pytest.raises(FormatError, match=re.escape(f"metadata '{key}': found ")):
            Writer(path, {key: value})


REFUSALS = {  # what is in the file: what the message after its name begins with
    "empty": (
        lambda good: b"",
        "this is an empty file; fetch the file again",
    ),
    "html": (
        lambda good: b"\n <!DOCTYPE html><html>",
        "this looks like an HTML page; download the file itself, not the page about it",
    ),
    "html 2": (
        lambda good: b"<HTML lang=en>" * 400,
        "this looks like an HTML page; download the file itself, not the page about it",
    ),
    "lfs": (
        lambda good: b"version https://git-lfs.github.com/spec/v1\n",
        "this looks like a Git LFS pointer; fetch the file it stands for: git lfs pull",
    ),
    "crlf to lf": (
        lambda good: good.replace(b"\r\n", b"\n"),
        CHANGED,
    ),
    "lf to crlf": (
        lambda good: good.replace(b"\n", b"\r\n"),
        CHANGED,
    ),
    "to utf-8": (
        lambda good: good.decode("latin-1").encode(),
        CHANGED,
    ),
    "pth": (
        lambda good: b"PK\x03\x04\x00\x00\x08\x08" + bytes(99),
        "this looks like a PyTorch checkpoint; convert it first: tinyrwkv-convert ",
    ),
    "gguf": (
        lambda good: b"GGUF\x03\x00\x00\x00" + bytes(99),
        "this looks like a GGUF file of llama.cpp; convert it first: tinyrwkv-convert ",
    ),
    "safetensors": (
        lambda good: b'\x80\x01\0\0\0\0\0\0{"__metadata__":' + bytes(99),
        "this looks like a safetensors file; convert it first: tinyrwkv-convert ",
    ),
    "another kind": (
        lambda good: b"\x7fELF\2\1\1\0" + bytes(99),
        r"not a .trwkv file, it begins with b'\x7fELF\x02\x01\x01\x00'; give a .trwkv file",
    ),
    "cut header": (
        lambda good: good[:20],
        "file: found 20 bytes, expected at least 64; the download or copy was cut: "
        "fetch the file again",
    ),
    "header crc": (
        lambda good: good[:9] + b"\1" + good[10:],
        "header: its bytes do not match their CRC-32; fetch the file again",
    ),
    "major": (
        lambda good: fields(good, major=2),
        "header: found format 2.4, flags 0, reserved 0, expected format 1, flags 0, reserved 0; "
        "update tinyrwkv",
    ),
    "major 0": (lambda good: fields(good, major=0), "header: found format 0.4, "),
    "flags": (
        lambda good: fields(good, flags=1),
        "header: found format 1.4, flags 1, reserved 0, ",
    ),
    "reserved": (
        lambda good: fields(good, zero=1),
        "header: found format 1.4, flags 0, reserved 1, ",
    ),
    "cut": (
        lambda good: good[:-1],
        "file: found 4607 bytes, expected 4608; the download or copy was cut: fetch the file again",
    ),
    "appended": (
        lambda good: good + b"\n",
        "file: found 4609 bytes, expected 4608; something was appended: fetch the file again",
    ),
    "big file": (
        lambda good: fields(good, file_bytes=2**64 - 1),
        "file: found 4608 bytes, expected 18446744073709551615; ",
    ),
    "big table": (
        lambda good: fields(good, table_bytes=2097153),
        "header: found a table of 2097153 bytes, expected at most 2097152",
    ),
    "data place": (
        lambda good: fields(good, data_offset=4097),
        "header: found data at 4097, a table of 384 bytes at 4224, expected aligned data, "
        "then the table up to byte 4608",
    ),
    "no data page": (lambda good: fields(good, data_offset=0), "header: found data at 0, "),
    "data after table": (
        lambda good: fields(good, data_offset=8192),
        "header: found data at 8192, ",
    ),
    "table place": (
        lambda good: fields(good, table_offset=4225, table_bytes=383),
        "header: found data at 4096, a table of 383 bytes at 4225, ",
    ),
    "table before the end": (
        lambda good: fields(good, table_bytes=383),
        "header: found data at 4096, a table of 383 bytes at 4224, ",
    ),
    "overflow": (
        lambda good: fields(good, table_offset=2**64 - 64, table_bytes=64),
        "header: found data at 4096, a table of 64 bytes at 18446744073709551552, ",
    ),
    "table crc": (
        lambda good: good[:-1] + b" ",
        "table: found CRC-32 5b3a9d1d, expected 4ee0b054; fetch the file again",
    ),
    "not json": (lambda good: with_table(b"{"), "table: found bad JSON ("),
    "empty table": (lambda good: with_table(b""), "table: found bad JSON ("),
    "not utf-8": (lambda good: with_table(b'{"metadata": "\xff"}'), "table: found bad JSON ("),
    "utf-16": (
        lambda good: with_table('{"metadata": {}}'.encode("utf-16")),
        "table: found bad JSON (",
    ),
    "bom": (lambda good: with_table(b"\xef\xbb\xbf{}"), "table: found bad JSON ("),
    "NaN": (lambda good: bad_json("NaN"), BAD_NUMBER.format("NaN")),
    "infinity": (lambda good: bad_json("-Infinity"), BAD_NUMBER.format("-Infinity")),
    "overflowing": (lambda good: bad_json("1e999"), BAD_NUMBER.format("1e999")),
    "endless": (lambda good: bad_json("1" * 100_000), BAD_NUMBER.format("1" * 20)),
    "key twice": (
        lambda good: bad_json('0.1,"ln_x_eps":0.1'),
        f"table: found bad JSON ('a key stands twice in one object'), {TABLE_JSON}",
    ),
    "deep": (
        lambda good: with_table(b"[" * 13 + b"]" * 13),
        "table: found bad JSON ('control characters, or more than 12 levels'), ",
    ),
    "very deep": (
        lambda good: with_table(b"[" * 900_000 + b"]" * 900_000),
        "table: found bad JSON (",
    ),
    "deep metadata": (lambda good: bad_json("[" * 300 + "]" * 300), "table: found bad JSON ("),
    "control": (
        lambda good: tables(created_by="\x1b[2J"),
        "table: found bad JSON ('control characters, or",
    ),
    "control in a key": (
        lambda good: with_table({"metadata": {"a\n": 1}, "tensors": []}),
        "table: found bad JSON ('control characters",
    ),
    "surrogate": (
        lambda good: bad_json(r'"\ud800"'),
        "table: found bad JSON ('control characters, or",
    ),
    "keys": (
        lambda good: with_table({"metadata": {}}),
        "table: found {'metadata': {}}, expected an object of metadata and a list of tensors",
    ),
    "more keys": (
        lambda good: with_table({"metadata": MODEL, "tensors": [], "x": 1}),
        "table: found {",
    ),
    "list": (lambda good: with_table([]), "table: found [], "),
    "null": (lambda good: with_table(None), "table: found None, "),
    "tensors": (lambda good: with_table({"metadata": MODEL, "tensors": {}}), "table: found {"),
    "row": (
        lambda good: tables({"name": "x"}),
        "table: found {'name': 'x'}, expected an object of name, dtype, shape, offset, nbytes, "
        "crc32",
    ),
    "no row": (lambda good: tables(None), "table: found None, expected an object of name, "),
    "more in a row": (lambda good: wrong(good, extra=1), "table: found {"),
    "metadata": (
        lambda good: with_table({"metadata": [], "tensors": []}),
        "metadata: found [], expected an object",
    ),
    "unknown": (
        lambda good: tables(n_layers=1),
        "metadata has an unknown key, 'n_layers'; update tinyrwkv",
    ),
    "type": (
        lambda good: tables(n_layer=True),
        "metadata 'n_layer': found True, expected a whole number from 1 to 4096",
    ),
    "no kind": (
        lambda good: with_table({"metadata": {}, "tensors": []}),
        "metadata lacks kind; it was altered",
    ),
    "no more": (
        lambda good: with_table({"metadata": {"kind": "model"}, "tensors": []}),
        "metadata lacks arch, n_layer, ",
    ),
    "nul": (lambda good: wrong(good, name="a\0b"), "table: found bad JSON ("),
    "name": (
        lambda good: wrong(good, name="a b"),
        "tensor 'a b': found a bad name, expected 1 to 200 printable ASCII characters "
        "without spaces",
    ),
    "long name": (lambda good: wrong(good, name="x" * 201), "tensor 'xxxx"),
    "no name": (lambda good: wrong(good, name=""), "tensor '': found a bad name"),
    "foreign name": (lambda good: wrong(good, name="é"), r"tensor '\xe9': found a bad name"),
    "number as name": (lambda good: wrong(good, name=1), "tensor 1: found a bad name"),
    "list as name": (lambda good: wrong(good, name=["x"]), "tensor ['x']: found a bad name"),
    "dtype": (
        lambda good: wrong(good, dtype="f64"),
        "tensor 'x': found dtype 'f64', expected one of f32, f16, i8, u8, u16, i32",
    ),
    "list as dtype": (lambda good: wrong(good, dtype=["f32"]), "tensor 'x': found dtype ['f32'], "),
    "empty tensor": (
        lambda good: wrong(good, shape=[0], nbytes=0),
        "tensor 'x': found shape [0], expected 1 to 4 whole numbers above 0",
    ),
    "scalar": (lambda good: wrong(good, shape=[]), "tensor 'x': found shape [], "),
    "five": (lambda good: wrong(good, shape=[1] * 5), "tensor 'x': found shape [1, 1, 1, 1, 1], "),
    "negative": (lambda good: wrong(good, shape=[-1, -1]), "tensor 'x': found shape [-1, -1], "),
    "bool shape": (lambda good: wrong(good, shape=[True]), "tensor 'x': found shape [True], "),
    "float shape": (lambda good: wrong(good, shape=[1.0]), "tensor 'x': found shape [1.0], "),
    "number as shape": (lambda good: wrong(good, shape=1), "tensor 'x': found shape 1, "),
    "nbytes": (
        lambda good: wrong(good, nbytes=5),
        "tensor 'x': found nbytes 5, expected 4 for f32 [1]",
    ),
    "float nbytes": (
        lambda good: wrong(good, nbytes=4.0),
        "tensor 'x': found nbytes 4.0, expected 4 for f32 [1]",
    ),
    "product": (
        lambda good: wrong(good, shape=[2**32, 2**32], nbytes=0),
        f"tensor 'x': found nbytes 0, expected {2**66} for f32 ",
    ),
    "huge": (
        lambda good: wrong(good, shape=[2**62, 2**2], nbytes=2**66),
        f"tensor 'x': found its last byte at {2**66 + 4096}, ",
    ),
    "align": (
        lambda good: wrong(good, offset=4097),
        "tensor 'x': found offset 4097, expected a multiple of 64",
    ),
    "big align": (
        lambda good: with_table(
            {
                "metadata": MODEL,
                "tensors": [X | {"shape": [1 << 18], "nbytes": 1 << 20, "offset": 4160}],
            },
            data=bytes((1 << 20) + 64),
        ),
        "tensor 'x': found offset 4160, expected a multiple of 4096",
    ),
    "float offset": (lambda good: wrong(good, offset=4096.0), "tensor 'x': found offset 4096.0, "),
    "bool offset": (lambda good: wrong(good, offset=False), "tensor 'x': found offset False, "),
    "in the header": (
        lambda good: wrong(good, offset=0),
        "tensor 'x': found offset 0, expected at least 4096, ",
    ),
    "negative offset": (
        lambda good: wrong(good, offset=-64),
        "tensor 'x': found offset -64, expected at least 4096, ",
    ),
    "overlap": (
        lambda good: tables(X | {"name": "y", "shape": [3], "nbytes": 12}, X),
        "tensor 'x': found offset 4096, expected at least 4108, the end of what comes before",
    ),
    "order": (
        lambda good: tables(X | {"name": "y", "offset": 4160}, X),
        "tensor 'x': found offset 4096, expected at least 4164, ",
    ),
    "into the table": (
        lambda good: wrong(good, offset=4160, shape=[17], nbytes=68),
        "tensor 'x': found its last byte at 4228, expected at most 4224, where the table begins",
    ),
    "behind the file": (
        lambda good: wrong(good, offset=1 << 40),
        f"tensor 'x': found its last byte at {(1 << 40) + 4}, ",
    ),
    "crc": (
        lambda good: wrong(good, crc32=-1),
        "tensor 'x': found crc32 -1, expected a whole number of 32 bits",
    ),
    "big crc": (lambda good: wrong(good, crc32=2**32), f"tensor 'x': found crc32 {2**32}, "),
    "text as crc": (lambda good: wrong(good, crc32="0"), "tensor 'x': found crc32 '0', "),
    "twice": (
        lambda good: tables(X, X | {"offset": 4160}),
        "tensor 'x' is listed twice",
    ),
    "data": (
        lambda good: wrong(good, crc32=1),
        "tensor 'x': found CRC-32 2144df1c, expected 00000001; fetch the file again",
    ),
    "padding": (
        lambda good: (
            tables(X | {"crc32": 0x2144DF1C, "offset": 4160})[:4100]
            + b"x"
            + tables(X | {"crc32": 0x2144DF1C, "offset": 4160})[4101:]
        ),
        "padding before x: found other bytes, expected zeros; fetch the file again",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(path, good, name):
    make, expected = REFUSALS[name]
    supported = name not in ("major", "major 0", "flags", "reserved")
    message = refusal(path, make(good), FormatError if supported else UnsupportedError, verify=True)
    assert message.startswith(expected)


def test_a_sentence_replaces_the_first_half_of_a_message():
    what = ("a.trwkv", "file", "nothing", "a file to read", "check the name")
    plain, free = FormatError(*what), FormatError(*what, sentence="no such file: a.trwkv")
    assert str(plain) == ("a.trwkv: file: found nothing, expected a file to read; check the name")
    assert str(free) == "no such file: a.trwkv; check the name"
    for error in (plain, free):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is FormatError and str(copy) == str(error)
        assert vars(copy) == vars(error)
        assert (error.file, error.object, error.found, error.expected, error.fix) == what


def test_refusals_of_the_system(path, tmp_path, monkeypatch):
    long, folder = "x" * 5000, tmp_path / "b"
    no_name, no_folder = tmp_path / "b.trwkv", folder / "a.trwkv"
    (tmp_path / "c").mkdir()
    cases = [
        (no_name, f"no such file: {no_name}; check the name"),
        (no_folder, f"no such file: {no_folder}; there is no folder {folder}"),
        (tmp_path / "c", f"cannot read {tmp_path / 'c'}: it is a folder, not a .trwkv file; "),
        (os.devnull, f"cannot read {os.devnull}: not a file but a pipe or device; "),
        ("a\0b", "cannot read a\0b: "),
        (long, f"cannot read {long}: "),
        ("", "no such file: ''; "),
    ]
    for bad, expected in cases:
        with pytest.raises(FormatError) as caught:
            open_file(bad)
        assert str(caught.value).startswith(expected)
        assert caught.value.file == str(bad) and caught.value.expected == "a file to read"
    for bad in (None, 3, ["a"]):
        with pytest.raises(ArgumentError, match="a file name"):
            open_file(bad)
        with pytest.raises(ArgumentError, match="a file name"):
            Writer(bad, {})

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    write_example(path)
    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(FormatError, match=r"cannot read .*a\.trwkv: Permission denied; "):
        open_file(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="not a file but a pipe or device"):
        open_file(tmp_path / "pipe")
    with (
        pytest.raises(FormatError, match="a folder, pipe or device"),
        Writer(tmp_path / "pipe", MODEL),
    ):
        pass


def test_documentation_lists_every_refusal():
    """Every message of the tests above stands in docs/format.md, and the other way round."""
    section = DOCS.split("## Refusals")[1].split("## An example")[0]
    documented = [
        re.findall("`(.+?)`", line)[0] for line in section.splitlines() if re.search(r"\| `", line)
    ]
    tested = [expected for _, expected in REFUSALS.values()]
    ours = {text for text in documented if not text.startswith(("no such file", "cannot read"))}
    assert [text for text in ours if not any(message.startswith(text) for message in tested)] == []

    assert {text.split()[0] for text in tested} == {text.split()[0] for text in ours}


OLD = MAGIC + b"a damaged model"


def test_writer_leaves_nothing_behind(tmp_path, path):
    for stop in (KeyboardInterrupt, MemoryError, ZeroDivisionError):
        for before in (None, OLD):
            if before:
                path.write_bytes(before)
            with pytest.raises(stop), Writer(path, MODEL) as writer:
                writer.add("x", np.ones(1 << 16, np.float32))
                assert len(os.listdir(tmp_path)) == 1 + bool(before)
                raise stop
            assert os.listdir(tmp_path) == (["a.trwkv"] if before else [])
            assert not before or path.read_bytes() == before
        path.unlink()


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_writer_that_fails_at_the_end(tmp_path, path, monkeypatch, function, error):
    path.write_bytes(OLD)

    def fail(*_):
        raise error

    expected = FormatError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught, Writer(path, MODEL) as writer:
        writer.add("x", np.ones(3, np.int8))
        monkeypatch.setattr(os, function, fail)
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"cannot write {path}: No space left on device; ")
    assert os.listdir(tmp_path) == ["a.trwkv"] and path.read_bytes() == OLD


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk(tmp_path, path, monkeypatch):
    monkeypatch.setattr(
        "tinyrwkv.file.output.open",
        lambda *_, **options: open("/dev/full", "wb", **options),
        raising=False,
    )
    with pytest.raises(FormatError, match="No space left"), Writer(path, MODEL) as writer:
        writer.add("x", np.ones(1 << 22, np.int8))
    with pytest.raises(ArgumentError, match="an earlier failure"), Writer(path, MODEL) as writer:
        with pytest.raises(FormatError, match="No space left"):
            writer.add("x", np.ones(1 << 22, np.int8))
        with pytest.raises(ArgumentError, match="closed"):
            writer.add("y", np.ones(1, np.int8))
    assert os.listdir(tmp_path) == []


def test_a_written_file_leaves_the_cache(path, monkeypatch):
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system takes no advice")
    advice = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *rest: advice.append(rest))
    write_example(path)
    assert advice == [(0, 0, os.POSIX_FADV_DONTNEED)]


def test_writer_replaces_files_that_are_mapped(path):
    write_example(path)
    if os.name == "nt":
        pytest.skip("Windows keeps mapped files")
    with open_file(path) as file:
        with Writer(path, MODEL) as writer:
            writer.add("x", np.ones(1, np.int8))
        assert np.array_equal(file["emb.weight"], WEIGHT)
    with open_file(path) as file:
        assert list(file.tensors) == ["x"]


def test_writer_takes_the_place_of_files_only(tmp_path):
    with (
        pytest.raises(FormatError, match=r"cannot write .*: not a file but a folder"),
        Writer(tmp_path, MODEL),
    ):
        pass
    with (
        pytest.raises(FormatError, match="there is no folder"),
        Writer(tmp_path / "b" / "a", MODEL),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_writers_of_one_name_do_not_meet(path):
    with Writer(path, MODEL) as one, Writer(path, MODEL) as two:
        one.add("x", np.ones(1, np.int8))
        two.add("x", np.zeros(1, np.int8))
    with open_verified(path) as file:
        assert file["x"][0] == 1  # the last to end has the name


def test_a_writer_again(path):
    writer = Writer(path, MODEL)
    for number in (1, 2):
        with writer:
            writer.add("x", np.full(3, number, np.int8))
        with open_verified(path) as file:
            assert file["x"].tolist() == [number] * 3


def test_leftover_of_a_power_cut(path):
    writer = Writer(path, MODEL)
    before = set(Path(path).parent.iterdir())
    with pytest.raises(KeyboardInterrupt), writer:
        (half,) = set(Path(path).parent.iterdir()) - before
        raise KeyboardInterrupt
    half.write_bytes(b"half a file")
    with writer:
        writer.add("x", np.ones(1, np.int8))
    with open_verified(path) as file:
        assert list(file.tensors) == ["x"]


@pytest.mark.parametrize(
    ("name", "array", "found"),
    [
        ("x", np.ones(2), "dtype 'float64'"),
        ("x", np.ones(2, bool), "dtype 'bool'"),
        ("x", np.ones(2, object), "dtype 'object'"),
        ("x", np.array(["a"]), "dtype 'str"),
        ("x", np.float32(1), "float32"),
        ("x", np.array(1, np.float32), "shape []"),
        ("x", np.ones((1, 1, 1, 1, 1), np.int8), "shape [1, 1, 1, 1, 1]"),
        ("x", np.ones((3, 0), np.int8), "shape [3, 0]"),
        ("x", [1, 2], "list"),
        ("a b", np.ones(1, np.int8), "a bad name"),
        ("", np.ones(1, np.int8), "a bad name"),
        ("é", np.ones(1, np.int8), "a bad name"),
        ("x" * 201, np.ones(1, np.int8), "a bad name"),
        (["x"], np.ones(1, np.int8), "ndarray"),
        ("old", np.ones(1, np.int8), "the name of an earlier tensor"),
    ],
)
def test_arrays_that_are_refused(path, name, array, found):
    with Writer(path, MODEL) as writer:
        writer.add("old", np.ones(1, np.int8))
        with pytest.raises(ArgumentError) as caught:
            writer.add(name, array)
        assert caught.value.found.startswith(found)
        writer.add("new", np.ones(1, np.int8))
    with open_verified(path) as file:
        assert list(file.tensors) == ["old", "new"]


def test_a_tensor_in_blocks_is_the_same(path, good):
    blocks = ([WEIGHT[:1], WEIGHT[1:]], [SCALE[:2], SCALE[2:]])
    with Writer(path, MODEL) as writer:
        writer.add_blocks("emb.weight", WEIGHT.shape, blocks[0])
        writer.add_blocks("emb.weight.scale", SCALE.shape, blocks[1])
    assert path.read_bytes() == good


@pytest.mark.parametrize("blocks", [[], [WEIGHT[:1]], [WEIGHT, WEIGHT[:1]]])
def test_blocks_must_be_all_rows(path, blocks):
    with pytest.raises(ArgumentError, match="give all rows"), Writer(path, MODEL) as writer:
        writer.add_blocks("emb.weight", WEIGHT.shape, blocks)
    assert not path.exists()


def test_metadata_that_are_refused_at_the_end(tmp_path, path):
    step = {"technique": "x", "params": {}, "report": {}}
    loop = {}
    loop["loop"] = loop
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for change in (
        {"new": 1},
        {"n_layer": True},
        {"compression": [step | {"report": {"error": float("nan")}}]},
        {"compression": [step | {"report": {"what": {1, 2}}}]},
        {"compression": [step | {"report": loop}]},
        {"compression": [step | {"report": {"deep": deep}}]},
        {"compression": [step | {"report": {"big": "x" * (2 << 20)}}]},
        {"created_by": "\ud800"},
        {"created_by": "a\nb"},
        {"kind": "state"},
    ):
        with pytest.raises(TinyRWKVError), Writer(path, MODEL) as writer:
            writer.metadata.update(change)
        assert os.listdir(tmp_path) == []
    for bad in (None, [], {"new": 1}, {1: 1}):
        with pytest.raises(FormatError, match="metadata"):
            Writer(path, bad)
    with pytest.raises(ArgumentError, match="closed"):
        Writer(path, MODEL).add("x", np.ones(1, np.int8))


def test_tensor_is_a_plain_tuple(path):
    write_example(path)
    with open_file(path) as file:
        assert file.tensors["emb.weight"] == Tensor(
            "emb.weight", "i8", (3, 4), 4096, 12, zlib.crc32(WEIGHT.tobytes())
        )


def test_a_folder_tells_what_is_in_it(tmp_path):
    (tmp_path / "b.trwkv").touch()
    (tmp_path / "a.pth").touch()
    with pytest.raises(FormatError, match=re.escape(f"give the file in it: {tmp_path}/b.trwkv")):
        open_file(tmp_path)
    (tmp_path / "b.trwkv").unlink()
    with pytest.raises(FormatError, match=r"is the folder of a checkpoint.*; convert it first: "):
        open_file(tmp_path)
