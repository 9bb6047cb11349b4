"""The objects compiled ahead of time: what is in them, and which ones are refused."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import pathlib
import platform
import shutil
import struct
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinyrwkv
from tests.helpers.emulated_check import attach, compare, digest, main, make, read, soft
from tinyrwkv.engine import backends
from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.native import load, targets
from tinyrwkv.native import processor as this_process
from tinyrwkv.native.load import RECORD, SYMBOL, choose, native_run, source_hash
from tinyrwkv.native.recipes import RECIPES
from tinyrwkv.native.targets import TARGETS

FOLDER = pathlib.Path(load.FOLDER)
RECORDED = json.loads((FOLDER / RECORD).read_text())
COMMITTED = sorted(RECORDED["objects"])
ELF = [name for name in COMMITTED if TARGETS[name].system == targets.LINUX]
RUNNABLE = [target.name for target in targets.runnable() if target.name in COMMITTED]
MACHINES = {"x86_64": 62, "aarch64": 183, "arm": 40, "riscv64": 243}  # e_machine


class Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    address: int
    size: int
    align: int


LOAD, DYNAMIC, GNU_STACK = 1, 2, 0x6474E551
EXECUTE, WRITE = 1, 2
NEEDED, SYMTAB, STRTAB, TEXTREL, GNU_HASH, FLAGS = 1, 6, 5, 22, 0x6FFFFEF5, 30


class Elf:
    """The little of an ELF file that a loader looks at."""

    def __init__(self, data: bytes) -> None:
        assert data[:4] == b"\x7fELF" and data[5] == 1, "not a little-endian ELF file"
        self.data, self.bits = data, {1: 32, 2: 64}[data[4]]
        header = struct.unpack_from(
            "<HHI" + ("QQQ" if self.bits == 64 else "III") + "I6H", data, 16
        )
        self.kind, self.machine, self.flags = header[0], header[1], header[6]
        self.segments = []
        for i in range(header[9]):
            at = header[4] + i * header[8]
            if self.bits == 64:
                kind, flags, offset, address, _, size, _, align = struct.unpack_from(
                    "<IIQQQQQQ", data, at
                )
            else:
                kind, offset, address, _, size, _, flags, align = struct.unpack_from(
                    "<8I", data, at
                )
            self.segments.append(Segment(kind, flags, offset, address, size, align))
        self.dynamic = self._dynamic()

    def offset(self, address: int) -> int:
        for segment in self.segments:
            if segment.kind == LOAD and segment.address <= address < segment.address + segment.size:
                return address - segment.address + segment.offset
        raise AssertionError(f"no segment holds {address:#x}")

    def _dynamic(self) -> list[tuple[int, int]]:
        (segment,) = (segment for segment in self.segments if segment.kind == DYNAMIC)
        return list(
            struct.iter_unpack(
                "<qQ" if self.bits == 64 else "<iI", self.data[segment.offset :][: segment.size]
            )
        )

    def symbols(self) -> dict[str, bool]:
        """Return the names that the object exports (True) or needs (False)."""
        entries = dict(self.dynamic)
        table, names = self.offset(entries[SYMTAB]), self.offset(entries[STRTAB])
        found, size = {}, 24 if self.bits == 64 else 16
        for at in range(
            table + size, table + size * self._symbol_count(self.offset(entries[GNU_HASH])), size
        ):
            if self.bits == 64:
                name, _, _, section, _, _ = struct.unpack_from("<IBBHQQ", self.data, at)
            else:
                name, _, _, _, _, section = struct.unpack_from("<IIIBBH", self.data, at)
            found[self.data[names + name : self.data.index(b"\0", names + name)].decode()] = (
                section != 0
            )
        return found

    def _symbol_count(self, at: int) -> int:
        """Walk the hash table to its last chain: the number of symbols is written nowhere."""
        buckets, first, bloom, _ = struct.unpack_from("<4I", self.data, at)
        at += 16 + bloom * self.bits // 8
        last = max(struct.unpack_from(f"<{buckets}I", self.data, at))
        while last >= first and not self.data[at + 4 * (buckets + last - first)] & 1:
            last += 1
        return max(last + 1, first)


@pytest.fixture(params=ELF)
def committed(request: Any) -> tuple[str, Elf]:
    return request.param, Elf((FOLDER / TARGETS[request.param].file).read_bytes())


def test_the_record_is_of_these_sources_and_all_that_ship():
    assert RECORDED["sources"] == source_hash(), "run tinyrwkv-build-kernels"
    assert set(COMMITTED) == {recipe.name for recipe in RECIPES.values() if recipe.committed}
    assert list(RECIPES) == list(TARGETS)
    objects = {
        path.name for ending in targets.ENDINGS.values() for path in FOLDER.glob(f"*{ending}")
    }
    assert objects == {TARGETS[name].file for name in COMMITTED}
    assert sum(entry["bytes"] for entry in RECORDED["objects"].values()) < 800_000
    assert len({json.dumps(entry["tools"]) for entry in RECORDED["objects"].values()}) == 1


@pytest.mark.parametrize("name", COMMITTED)
def test_objects_are_those_of_the_record(name):
    data = (FOLDER / TARGETS[name].file).read_bytes()
    assert hashlib.sha256(data).hexdigest() == RECORDED["objects"][name]["sha256"]
    assert len(data) == RECORDED["objects"][name]["bytes"]


def test_objects_are_for_their_machine(committed):
    name, elf = committed
    machine = TARGETS[name].machine
    assert elf.machine == MACHINES[machine] and elf.bits == (32 if machine == "arm" else 64)
    assert elf.kind == 3  # a shared object
    if machine == "arm":  # the loader of a hard-float system refuses an object of the other kind
        assert elf.flags == 0x05000400, "expected EABI version 5, hard float"


def test_objects_need_little_and_export_one_function(committed):
    symbols = committed[1].symbols()
    assert [name for name, defined in symbols.items() if defined] == [SYMBOL]
    assert {name for name, defined in symbols.items() if not defined} <= {
        "memset",
        "memcpy",
        "sched_yield",
    }


def test_objects_load_without_rights_or_repairs(committed):
    name, elf = committed
    tags = {tag for tag, _ in elf.dynamic}
    assert not tags & {NEEDED, TEXTREL}
    assert not dict(elf.dynamic).get(FLAGS, 0) & 4  # text relocations, said the other way
    assert all(segment.flags & (WRITE | EXECUTE) != WRITE | EXECUTE for segment in elf.segments)
    assert GNU_STACK in {
        segment.kind for segment in elf.segments
    }  # without it the stack becomes executable
    if TARGETS[name].machine == "aarch64":  # kernels with pages of 16 and 64 kB are in use
        assert all(segment.align >= 65536 for segment in elf.segments if segment.kind == LOAD)


# The choice. Nothing here is loaded, so the objects may be any bytes.


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Forget what is known of this processor, before and after."""
    cached = (this_process.machine, targets.cpu_features)
    for function in cached:
        function.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for function in cached:
        function.cache_clear()


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    def become(machine: str, features: str) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(targets, "machine", lambda: machine)
        monkeypatch.setattr(targets, "cpu_features", lambda: frozenset(features.split()))

    return become


V3 = "avx2 bmi1 bmi2 f16c fma movbe abm"
ARM64 = ("aarch64-dotprod", "aarch64")


ANSWER = RECORDED["answer"]


def write_objects(folder: pathlib.Path, *names: str, sources: str | None = None) -> pathlib.Path:
    objects = {}
    for name in names:
        data = f"machine code of {name}".encode()
        (folder / TARGETS[name].file).write_bytes(data)
        objects[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    record = {"sources": sources or source_hash(), "answer": ANSWER, "objects": objects}
    (folder / RECORD).write_text(json.dumps(record))
    return folder


@pytest.fixture
def objects(tmp_path: pathlib.Path, processor: Any) -> pathlib.Path:
    """Two objects and their record, on a processor that can run both."""
    processor("aarch64", "asimddp")
    return write_objects(tmp_path, *ARM64)


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise AssertionError(f"{path} was loaded")

    monkeypatch.setattr(load.ctypes, "CDLL", refuse)


def refused(folder: pathlib.Path) -> str:
    """Return why nothing can be loaded from a folder; nothing may have been."""
    choice = choose(folder)
    assert choice.path is None and choice.name == ""
    with pytest.raises(UnsupportedError) as raised:
        native_run(folder)
    assert choice.reason in str(raised.value)
    return choice.reason


def test_the_best_is_chosen(objects):
    choice = choose(objects)
    assert choice.name == "aarch64-dotprod" and choice.path == str(objects / "aarch64-dotprod.so")


def test_without_the_feature_the_next_is_chosen(objects, processor):
    processor("aarch64", "")
    assert choose(objects).name == "aarch64"


@pytest.mark.usefixtures("nothing_loaded")
def test_objects_of_other_sources_are_refused(objects):
    assert "other sources" in refused(write_objects(objects, *ARM64, sources="0" * 64))


@pytest.mark.parametrize(
    "change", [b"", b"machine code of aarch64-dotprod\0", b"Machine code of aarch64-dotprod"]
)
def test_an_altered_object_is_passed_over(objects, change):
    (objects / "aarch64-dotprod.so").write_bytes(change)
    choice = choose(objects)
    assert (
        choice.name == "aarch64" and "aarch64-dotprod.so differs from its record" in choice.reason
    )


@pytest.mark.usefixtures("nothing_loaded")
def test_altered_objects_are_never_loaded(objects):
    for path in objects.glob("*.so"):
        data = bytearray(path.read_bytes())
        data[7] ^= 1
        path.write_bytes(data)
    assert refused(objects).count("differs from its record") == 2


@pytest.mark.usefixtures("nothing_loaded")
def test_objects_that_are_missing_or_not_recorded_are_told(objects):
    (objects / "aarch64.so").unlink()
    write_objects(objects, "aarch64")
    (objects / "aarch64.so").unlink()
    assert refused(objects) == "aarch64-dotprod is not built; aarch64 is not built"


@pytest.mark.parametrize(
    "text",
    [
        *("", "\0", "{", "null", "[]", "{}", '"x"', "1e999", "[" * 100_000),
        '{"sources": 1, "answer": "x", "objects": []}',
        '{"sources": "x", "answer": "x", "objects": null}',
        '{"sources": "x", "answer": "x", "objects": {"aarch64": 1}}',
        '{"sources": "x", "answer": "x", "objects": {"aarch64": {}}}',
        '{"sources": "x", "objects": {}}',
    ],
)
@pytest.mark.usefixtures("nothing_loaded")
def test_a_damaged_record_is_refused(objects, text):
    (objects / RECORD).write_text(text)
    assert refused(objects).startswith("no objects: ")


@pytest.mark.usefixtures("nothing_loaded")
def test_without_a_record_nothing_counts(objects):
    (objects / RECORD).unlink()
    assert refused(objects).startswith("no objects: ")
    (objects / RECORD).write_bytes(b"\xff\xfe")
    assert refused(objects).startswith("no objects: ")


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize("machine", ["ppc64le", "s390x", "arm", "x86_64-32", "riscv64"])
def test_foreign_machines_are_refused(objects, processor, machine):
    processor(machine, "")
    refused(objects)
    refused(FOLDER)


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("system", "expected"), [("win32", "this processor"), ("emscripten", "this system")]
)
def test_other_systems_are_refused(objects, monkeypatch, system, expected):
    monkeypatch.setattr(sys, "platform", system)
    assert refused(objects) == f"no object is made for {expected}"


@pytest.mark.skipif(not RUNNABLE, reason="no object runs here")
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_bit_in_an_object_is_told_and_another_runs(tmp_path, tiny, place):
    package = tmp_path / "tinyrwkv"
    left_out = shutil.ignore_patterns("models", "__pycache__")
    shutil.copytree(pathlib.Path(tinyrwkv.__file__).parent, package, ignore=left_out)
    path, settings = tiny(), {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}

    def python(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, **settings},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    for i, name in enumerate(RUNNABLE):  # the best one first
        altered = package / "native" / f"{name}.so"
        data = bytearray(altered.read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        altered.write_bytes(data)
        told = json.loads(python("-m", "tinyrwkv", "info", path, "--json"))["backends"]["native"]
        for refused_name in RUNNABLE[: i + 1]:
            assert f"{refused_name}.so differs from its record" in told
        following = RUNNABLE[i + 1 :]
        assert told.startswith(f"{following[0]}.so, " if following else RUNNABLE[0])
    without_numba = "from tinyrwkv.engine import backends; backends.has_numba = lambda: False"
    code = f"import sys, tinyrwkv; {without_numba}; print(tinyrwkv.load(sys.argv[1]).backend.name)"
    assert python("-c", code, path).strip() == "numpy"


def test_an_object_that_the_system_refuses_is_named(objects):
    with pytest.raises(FormatError, match=r"aarch64-dotprod\.so"):
        native_run(objects)


# What a processor can run.


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", "", "x86-64"),
        ("x86_64", "avx2 fma", "x86-64"),
        ("x86_64", V3, "x86-64-v3 x86-64"),
        ("x86_64", V3 + " avx512f avx512_vnni", "x86-64-v3 x86-64"),
        ("aarch64", "", "aarch64"),
        ("aarch64", "asimddp", "aarch64-dotprod aarch64"),
        ("arm", "vfp neon v6 v7", "armv7 armv6"),
        ("arm", "vfp v6 v7", "armv6"),  # a processor without NEON
        ("arm", "vfp v6", "armv6"),
        ("arm", "vfp", ""),
        ("arm", "", ""),
        ("riscv64", "v", "riscv64-v riscv64"),
        ("riscv64", "", "riscv64"),
        ("aarch64-32", "", ""),
        ("x86_64-32", V3, ""),
    ],
)
def test_targets_fit_the_processor(processor, machine, features, expected):
    processor(machine, features)
    assert [target.name for target in targets.runnable()] == expected.split()


def test_the_more_a_target_needs_the_earlier_it_comes():
    order = list(TARGETS.values())
    for i, one in enumerate(order):
        for other in order[i + 1 :]:
            assert (
                (one.system, one.machine) != (other.system, other.machine)
                or not one.needs < other.needs
                or "never" in other.needs
            )


@pytest.mark.parametrize(
    ("told", "size", "expected"),
    [
        ("x86_64", 8, "x86_64"),
        ("AMD64", 8, "x86_64"),
        ("aarch64", 8, "aarch64"),
        ("arm64", 8, "aarch64"),
        ("armv7l", 4, "arm"),
        ("armv6l", 4, "arm"),
        ("armv8l", 4, "arm"),
        ("aarch64", 4, "arm"),  # a 32-bit system on a 64-bit kernel, as on many Raspberry Pis
        ("x86_64", 4, "x86_64-32"),
        ("i686", 4, "i686-32"),
        ("riscv64", 8, "riscv64"),
        ("", 8, ""),
    ],
)
def test_what_counts_is_the_process_and_not_the_kernel(fresh, told, size, expected):
    fresh.setattr(platform, "machine", lambda: told)
    fresh.setattr(this_process.ctypes, "sizeof", lambda _: size)
    assert this_process.machine() == expected


class FakeC:
    """A C library whose getauxval knows HWCAP (16) and the platform (15)."""

    def __init__(self, capabilities: int, platform: bytes | None) -> None:
        class Getauxval:
            restype: Any = None
            argtypes: Any = None

            def __call__(self, number: int) -> Any:
                assert self.argtypes == [ctypes.c_ulong]
                return {(16, ctypes.c_ulong): capabilities, (15, ctypes.c_char_p): platform}[
                    number, self.restype
                ]

        self.getauxval = Getauxval()


@pytest.mark.parametrize(
    ("machine", "capabilities", "platform_name", "expected"),
    [
        ("aarch64", 0x887, None, ""),  # Cortex-A53 and A72: fp, asimd, evtstrm, crc32, cpuid
        ("aarch64", 0x10FFFF, None, "asimddp"),
        ("arm", 1 << 6 | 1 << 12 | 1 << 13, b"v7l", "vfp neon v6 v7"),
        ("arm", 1 << 6 | 1 << 12 | 1 << 16, b"v8l", "vfp neon v6 v7"),
        ("arm", 1 << 6, b"v6l", "vfp v6"),
        ("arm", 1 << 6, b"v5l", "vfp"),
        ("arm", 0, b"v4l", ""),
        ("riscv64", 1 << 21 | 1, None, "v"),
        ("riscv64", 0x112D, None, ""),
        ("ppc64le", -1, None, ""),
    ],
)
def test_features_come_from_the_kernel(fresh, machine, capabilities, platform_name, expected):
    fresh.setattr(sys, "platform", "linux")
    fresh.setattr(targets, "machine", lambda: machine)
    fresh.setattr(targets.ctypes, "CDLL", lambda _: FakeC(capabilities, platform_name))
    assert targets.cpu_features() == set(expected.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu sse2 avx2\nflags\t\t: other\n", "fpu sse2 avx2"),
        ("processor : 0\n", ""),
        ("", ""),
    ],
)
def test_features_of_x86_come_from_cpuinfo(fresh, tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    fresh.setattr(sys, "platform", "linux")
    fresh.setattr(targets, "machine", lambda: "x86_64")
    fresh.setattr(
        targets, "open", lambda path: open(tmp_path / pathlib.Path(path).name), raising=False
    )
    assert targets.cpu_features() == set(expected.split())


def test_without_cpuinfo_x86_has_no_features(fresh):
    def missing(path: str) -> None:
        raise FileNotFoundError(path)

    fresh.setattr(sys, "platform", "linux")
    fresh.setattr(targets, "machine", lambda: "x86_64")
    fresh.setattr(targets, "open", missing, raising=False)
    assert targets.cpu_features() == frozenset()


def test_other_systems_have_no_features(fresh):
    fresh.setattr(sys, "platform", "emscripten")
    assert targets.cpu_features() == frozenset() and targets.runnable() == []


# What the objects compute.


@pytest.mark.parametrize("arch", ["v4", "v5.0", "v5.2", "v6", "v7"])
def test_all_that_runs_here_computes_the_same_bits(tiny, arch):
    names = RUNNABLE + ["numba"] * backends.has_numba()
    if len(names) < 2:
        pytest.skip(f"only {names} can run here")
    results = {}
    for name in names:
        model = tinyrwkv.load(tiny(arch, "int8"), backend="numpy")
        for threads in (1, 2, 3):
            attach(model, name, FOLDER, threads)
            results[name, threads] = (
                digest(*read(model, chunked=True)),
                digest(*read(model, chunked=False)),
            )
    one = {value for pair in results.values() for value in pair}
    assert len(one) == 1, results


@pytest.mark.skipif(
    this_process.machine() == "arm", reason="ARMv7's vectors take subnormal numbers for zero"
)
@pytest.mark.parametrize("name", RUNNABLE)
def test_numbers_that_only_decay_stay_as_exact_as_they_can(tmp_path, name):
    """However small they become; a head without values adds nothing that would hide it."""
    make(tmp_path, [("v5.2", "int8", "dense")])
    model = tinyrwkv.load(tmp_path / "v5.2-int8.trwkv", backend="numpy")
    attach(model, name, FOLDER, 1)
    state = model.new_state()
    wkv = state.data.reshape(2, -1)[:, 2 * 128 :]
    wkv[:] = 2.0**-130
    after = (
        model.forward([3], state)[1].data.reshape(2, -1)[:, 2 * 128 :].reshape(2, 4, 32, 32)[:, 0]
    )
    decay = np.stack([model.file[f"blocks.{i}.att.time_decay"][:32] for i in range(2)])  # (L, keys)
    expected = (decay * np.float32(2.0**-130))[:, :, None]  # rounded once
    assert (
        (after == expected).all()
        and (0 < after).all()
        and (after < np.finfo(np.float32).tiny).all()
    )


def result(
    hashes: dict[str, str], chosen: str = "aarch64", name: str = "aarch64", tokens: Any = (1, 2)
) -> str:
    entry = {"hashes": hashes, "tokens": list(tokens), "seconds": 1.0}
    report = {"machine": "m", "features": [], "chosen": chosen, "objects": {name: entry}}
    return json.dumps(report)


SAME = {
    "v7-int8": "aa",
    "v7-int8, a subnormal state": "bb",
    "v7-f16": "cc",
    "generation of a": "dd",
}


@pytest.mark.parametrize(
    ("other", "status"),
    [
        (result(SAME), 0),
        (result(SAME | {"v7-int8": "ab"}), 1),
        (result(SAME | {"v7-int8, a subnormal state": "ba"}), 1),
        (result(SAME | {"v7-int8, a subnormal state": "ba"}, name="armv7"), 0),
        (result(SAME | {"v7-int8": "ab"}, name="armv7"), 1),
        (result(SAME | {"v7-f16": "other"}), 0),
        (result(SAME | {"v7-f16": "0.1 from the numpy backend"}), 1),
        (result(SAME | {"generation of a": "de"}), 1),
        (result({"v7-int8": "aa"}), 1),
        (result(SAME, tokens=(1, 3)), 1),
        (result(SAME, chosen="armv7"), 1),
    ],
)
def test_the_comparison_of_emulated_machines_sees_differences(tmp_path, capsys, other, status):
    first, second = tmp_path / "here.json", tmp_path / "board=aarch64.json"
    first.write_text(result(SAME))
    second.write_text(other)
    assert compare([first, second]) == status
    assert ("FAILED" in capsys.readouterr().out) == bool(status)


def test_the_comparison_needs_a_result(tmp_path):
    path = tmp_path / "here.json"
    path.write_text(json.dumps({"machine": "m", "features": [], "chosen": "", "objects": {}}))
    assert compare([path]) == 1


@pytest.mark.skipif(not RUNNABLE, reason="no object runs here")
def test_the_check_for_emulated_machines_runs_here(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tests.helpers.emulated_check.BUNDLED", tmp_path / "none")
    make(tmp_path, [("v5.2", "int8", "dense"), ("v7", "int8", "predicted"), ("v7", "f16", "dense")])
    for suffix in (".trwkv", ".npy"):  # v7-int8 is what generates where no model is bundled
        (tmp_path / f"v5.2-int8{suffix}").rename(tmp_path / f"v7-int8{suffix}")
    monkeypatch.setattr(
        sys, "argv", ["", "run", str(tmp_path), "--objects", str(FOLDER), "--only", *RUNNABLE]
    )
    assert main() == 0
    path = tmp_path / f"here={RUNNABLE[0]}.json"
    path.write_text(capsys.readouterr().out)
    assert compare([path]) == 0
    report = json.loads(path.read_text())
    assert (
        list(report["objects"]) == RUNNABLE and len(report["objects"][RUNNABLE[0]]["hashes"]) == 6
    )


def test_a_soft_float_copy_differs_in_the_flags_alone(tmp_path):
    soft("armv7", FOLDER, tmp_path)
    one, two = ((folder / "armv7.so").read_bytes() for folder in (FOLDER, tmp_path))
    assert Elf(two).flags == 0x05000200 and len(one) == len(two)
    assert [i for i in range(len(one)) if one[i] != two[i]] == [37]
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["objects"]["armv7"]["sha256"] == hashlib.sha256(two).hexdigest()


@pytest.mark.slow
def test_an_object_is_built_again_byte_for_byte():
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    pytest.importorskip("numba", reason="numba is not installed")
    from tinyrwkv.native import build as build_kernels

    name = "armv7"
    try:
        tools = build_kernels.tools()
    except UnsupportedError as reason:
        pytest.skip(str(reason))
    if tools != RECORDED["objects"][name]["tools"]:
        pytest.skip(f"built with {RECORDED['objects'][name]['tools']}, here are {tools}")
    assert build_kernels.build([name])[name] == (FOLDER / f"{name}.so").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif("x86-64-v3" not in RUNNABLE, reason="this processor has no AVX2")
def test_the_code_for_wide_registers_computes_the_same(tmp_path):
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    pytest.importorskip("numba", reason="numba is not installed")
    from tinyrwkv.native import build as build_kernels

    try:
        build_kernels.check_packages()
    except UnsupportedError as reason:
        pytest.skip(str(reason))
    wide = "x86-64-vnni"
    environment = {**os.environ, **build_kernels.NUMBA_SETTINGS}
    command = [sys.executable, "-m", "tests.helpers.wide_code", str(tmp_path / f"{wide}.so")]
    subprocess.run(command, env=environment, check=True)
    make(tmp_path)
    files = sorted(tmp_path.glob("*.trwkv"))
    assert files
    for file in files:
        model = tinyrwkv.load(file, backend="numpy")
        found = {}
        for name, folder in (("x86-64-v3", FOLDER), (wide, tmp_path)):
            attach(model, name, folder, 1)
            found[name] = [digest(*read(model, chunked)) for chunked in (True, False)]
        assert found[wide] == found["x86-64-v3"], file.name
