"""Objects for Windows and macOS: their files, their choice, and the proof that each must give."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinyrwkv
from tests.helpers import mach_o
from tinyrwkv import notes
from tinyrwkv.engine.reasons import reasons
from tinyrwkv.errors import UnsupportedError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.native import load, processor, proof, targets, trial
from tinyrwkv.native.load import RECORD, SYMBOL, choose
from tinyrwkv.native.targets import TARGETS
from tinyrwkv.program.program import Program

FOLDER = pathlib.Path(load.FOLDER)
RECORDED = json.loads((FOLDER / RECORD).read_text())
ANSWER = RECORDED["answer"]
HERE = [target for target in targets.runnable() if target.name in RECORDED["objects"]]
needs_object = pytest.mark.skipif(not HERE, reason="no object runs here")


def of_system(system: str) -> list[str]:
    return [name for name in RECORDED["objects"] if TARGETS[name].system == system]


def test_there_are_objects_for_both_systems():
    assert of_system(targets.WINDOWS) == ["windows-x86-64-v3"]
    assert of_system(targets.MACOS) == ["macos-arm64", "macos-x86-64-v3"]


# Windows: what its loader reads of a DLL.


class Section(NamedTuple):
    name: bytes
    size: int
    address: int
    stored: int
    offset: int
    flags: int


class Dll:
    """The little of a DLL that Windows looks at."""

    def __init__(self, data: bytes) -> None:
        (header,) = struct.unpack_from("<I", data, 0x3C)
        assert data[:2] == b"MZ" and data[header : header + 4] == b"PE\0\0"
        self.data = data
        fields = struct.unpack_from("<HHIIIHH", data, header + 4)
        self.machine, count, self.time, _, _, size, self.characteristics = fields
        optional = header + 24
        self.entry = struct.unpack_from("<I", data, optional + 16)[0]
        self.flags = struct.unpack_from("<H", data, optional + 70)[0]
        pairs = struct.iter_unpack("<II", data[optional + 112 : optional + size])
        self.directories = list(pairs)
        self.sections = []
        for i in range(count):
            at = optional + size + 40 * i
            name, *numbers = struct.unpack_from("<8sIIII", data, at)
            flags = struct.unpack_from("<I", data, at + 36)[0]
            self.sections.append(Section(name.rstrip(b"\0"), *numbers, flags))

    def at(self, address: int) -> int:
        """Return where the bytes of an address lie in the file."""
        for section in self.sections:
            if section.address <= address < section.address + section.stored:
                return address - section.address + section.offset
        raise AssertionError(f"no section holds {address:#x}")

    def text(self, address: int) -> str:
        start = self.at(address)
        return self.data[start : self.data.index(b"\0", start)].decode()

    def exports(self) -> list[str]:
        table = struct.unpack_from("<10I", self.data, self.at(self.directories[0][0]))
        count, names = table[6], self.at(table[8])
        return [
            self.text(address) for address in struct.unpack_from(f"<{count}I", self.data, names)
        ]

    def imports(self) -> dict[str, list[str]]:
        found, at = {}, self.at(self.directories[1][0])
        while struct.unpack_from("<5I", self.data, at) != (0,) * 5:
            lookups, _, _, library, _ = struct.unpack_from("<5I", self.data, at)
            names, place = [], self.at(lookups)
            while address := struct.unpack_from("<Q", self.data, place)[0]:
                names.append(self.text(address + 2))
                place += 8
            found[self.text(library)] = names
            at += 20
        return found


EXECUTABLE, WRITABLE = 0x20000000, 0x80000000
RELOCATIONS, TLS = 5, 9


@pytest.fixture(params=of_system(targets.WINDOWS))
def dll(request: Any) -> Dll:
    return Dll((FOLDER / TARGETS[request.param].file).read_bytes())


def test_a_dll_is_for_its_machine_and_has_no_time_in_it(dll):
    assert dll.machine == 0x8664 and dll.characteristics & 0x2000
    assert dll.time == 0 and dll.entry == 0
    anywhere, no_execution = 0x40, 0x100
    assert dll.flags & anywhere and dll.flags & no_execution


def test_a_dll_exports_one_function_and_needs_one_of_the_system(dll):
    assert dll.exports() == [SYMBOL]
    assert dll.imports() == {"kernel32.dll": ["SwitchToThread"]}


def test_a_dll_has_no_memory_of_its_own_to_write(dll):
    assert not any(section.flags & WRITABLE for section in dll.sections)
    assert [section.name for section in dll.sections if section.flags & EXECUTABLE] == [b".text"]
    assert dll.directories[TLS] == (0, 0) and dll.directories[RELOCATIONS] == (0, 0)


# macOS: what its loader reads of a dylib.

SEGMENT, SYMTAB, LOAD_DYLIB, CODE_SIGNATURE, BUILD_VERSION = 0x19, 0x2, 0xC, 0x1D, 0x32
DYLIB, ARM64, X86_64 = 6, 0x100000C, 0x1000007


class Dylib:
    """The little of a Mach-O file that macOS looks at."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        fields = struct.unpack_from("<8I", data)
        magic, self.machine, _, self.kind, count, _, self.flags, _ = fields
        assert magic == 0xFEEDFACF
        self.commands: list[tuple[int, int]] = []
        at = 32
        for _ in range(count):
            command, size = struct.unpack_from("<II", data, at)
            self.commands.append((command, at))
            at += size

    def places(self, command: int) -> list[int]:
        return [at for found, at in self.commands if found == command]

    def segments(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield name, offset, bytes and rights."""
        for at in self.places(SEGMENT):
            name = self.data[at + 8 : at + 24].rstrip(b"\0").decode()
            offset, size, _, rights = struct.unpack_from("<QQII", self.data, at + 40)
            yield name, offset, size, rights

    def libraries(self) -> list[str]:
        texts = []
        for at in self.places(LOAD_DYLIB):
            start = at + struct.unpack_from("<I", self.data, at + 8)[0]
            texts.append(self.data[start : self.data.index(b"\0", start)].decode())
        return texts

    def symbols(self) -> tuple[set[str], set[str]]:
        """Return the names that the object defines for others, and those that it needs."""
        (at,) = self.places(SYMTAB)
        start, count, names, _ = struct.unpack_from("<4I", self.data, at + 8)
        exported, needed = set(), set()
        for i in range(count):
            entry = struct.unpack_from("<IBBHQ", self.data, start + 16 * i)
            name = self.data[names + entry[0] : self.data.index(b"\0", names + entry[0])].decode()
            is_external, is_defined = entry[1] & 1, entry[1] & 0xE
            if is_external:
                (exported if is_defined else needed).add(name)
        return exported, needed

    def signed_pages(self) -> list[tuple[bytes, bytes]]:
        """Return for each page of the code the hash in the signature and that of its bytes."""
        (at,) = self.places(CODE_SIGNATURE)
        blob = struct.unpack_from("<I", self.data, at + 8)[0]
        magic, _, count = struct.unpack_from(">3I", self.data, blob)
        assert magic == 0xFADE0CC0
        kinds = dict(struct.unpack_from(">II", self.data, blob + 12 + 8 * i) for i in range(count))
        directory = blob + kinds[0]
        header = struct.unpack_from(">9I4B", self.data, directory)
        magic, _, _, flags, hashes, _, _, slots, limit, size, kind, _, bits = header
        ad_hoc, sha256 = 0x2, 2
        assert magic == 0xFADE0C02 and flags & ad_hoc and (size, kind) == (32, sha256)
        page, pairs = 1 << bits, []
        for i in range(slots):
            start = directory + hashes + 32 * i
            code = self.data[i * page : min((i + 1) * page, limit)]
            pairs.append((self.data[start : start + 32], hashlib.sha256(code).digest()))
        assert limit == blob and slots == -(-limit // page)
        return pairs


@pytest.fixture(params=of_system(targets.MACOS))
def dylib(request: Any) -> tuple[str, Dylib]:
    return request.param, Dylib((FOLDER / TARGETS[request.param].file).read_bytes())


def test_a_dylib_is_for_its_machine(dylib):
    name, found = dylib
    assert found.machine == {"aarch64": ARM64, "x86_64": X86_64}[TARGETS[name].machine]
    assert found.kind == DYLIB
    (at,) = found.places(BUILD_VERSION)
    macos, oldest = 1, 11 << 16
    assert struct.unpack_from("<II", found.data, at + 8) == (macos, oldest)


def test_a_dylib_exports_one_function_and_needs_little(dylib):
    exported, needed = dylib[1].symbols()
    of_the_linker = {"__mh_dylib_header", "___dso_handle", "dyld_stub_binder"}
    assert exported - of_the_linker == {f"_{SYMBOL}"}
    assert needed - of_the_linker <= {"_memset", "_memcpy", "_sched_yield", "_bzero", "___bzero"}
    assert dylib[1].libraries() == ["/usr/lib/libSystem.B.dylib"]


def test_segments_of_a_dylib_begin_at_pages_and_are_not_written_and_run(dylib):
    name, found = dylib
    page = 16384 if TARGETS[name].machine == "aarch64" else 4096
    end = 0
    for segment, offset, size, rights in found.segments():
        assert offset % page == 0 and offset >= end and rights & 6 != 6, segment
        end = offset + size
    assert end == len(found.data)


def test_a_dylib_for_arm_is_signed(dylib):
    name, found = dylib
    if TARGETS[name].machine == "aarch64":  # whose system runs nothing that is not
        pairs = found.signed_pages()
        assert pairs and all(signed == computed for signed, computed in pairs)


# The choice.


def write_objects(folder: pathlib.Path, *names: str) -> pathlib.Path:
    objects = {}
    for name in names:
        data = name.encode()
        (folder / TARGETS[name].file).write_bytes(data)
        objects[name] = {"sha256": hashlib.sha256(data).hexdigest()}
    record = {"sources": load.source_hash(), "answer": "the answer", "objects": objects}
    (folder / RECORD).write_text(json.dumps(record))
    return folder


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Any:
    def become(system: str, machine: str, features: str = "") -> None:
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(targets, "machine", lambda: machine)
        monkeypatch.setattr(targets, "cpu_features", lambda: frozenset(features.split()))

    return become


@pytest.mark.parametrize(
    ("system", "machine", "features", "expected"),
    [
        ("win32", "x86_64", "avx2", "windows-x86-64-v3"),
        ("win32", "x86_64", "", ""),
        ("win32", "aarch64", "", ""),
        ("win32", "x86_64-32", "avx2", ""),
        ("darwin", "aarch64", "", "macos-arm64"),
        ("darwin", "x86_64", "avx2", "macos-x86-64-v3"),
        ("darwin", "x86_64", "", ""),
        ("emscripten", "x86_64", "avx2", ""),
    ],
)
def test_targets_fit_the_system(become, system, machine, features, expected):
    become(system, machine, features)
    assert [target.name for target in targets.runnable()] == expected.split()


@pytest.mark.parametrize("says", [0, 1])
@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_the_system_tells_of_avx2(monkeypatch, system, says):
    class Library:
        def IsProcessorFeaturePresent(self, feature: int) -> int:  # as Windows names it
            return says if feature == 40 else 1 - says

        def sysctlbyname(self, name: bytes, value: Any, size: Any, *new: Any) -> int:
            assert name == b"hw.optional.avx2_0" and new == (None, None)
            ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = says
            return 0

    targets.cpu_features.cache_clear()
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(targets, "machine", lambda: "x86_64")
    monkeypatch.setattr(targets.ctypes, "CDLL", lambda name: Library())
    assert targets.cpu_features() == ({"avx2"} if says else set())
    targets.cpu_features.cache_clear()


def test_an_x86_process_on_windows_for_arm_is_one_of_x86(monkeypatch):
    processor.machine.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "version", "3.13.2 (tags/v3.13.2) [MSC v.1942 64 bit (AMD64)]")
    monkeypatch.setattr(processor.platform, "machine", lambda: "ARM64")
    monkeypatch.setattr(processor.ctypes, "sizeof", lambda _: 8)
    assert processor.machine() == "x86_64"
    processor.machine.cache_clear()


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("win32", "x86_64", "windows-x86-64-v3"),
        ("darwin", "aarch64", "macos-arm64"),
        ("darwin", "x86_64", "macos-x86-64-v3"),
    ],
)
def test_an_object_counts_once_it_has_proved_itself(
    become, monkeypatch, tmp_path, system, machine, name
):
    become(system, machine, "avx2")
    asked = []
    for doubt in ("", "it failed its check"):
        monkeypatch.setattr(
            proof, "doubt", lambda *about, doubt=doubt: asked.append(about) or doubt
        )
        chosen = choose(write_objects(tmp_path, name))
        path = str(tmp_path / TARGETS[name].file)
        assert asked[-1] == (path, hashlib.sha256(name.encode()).hexdigest(), "the answer")
        assert chosen.path == (None if doubt else path)
        assert doubt in chosen.reason


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_an_altered_object_is_not_even_tried(become, monkeypatch, tmp_path, system):
    become(system, "x86_64", "avx2")
    monkeypatch.setattr(proof, "doubt", lambda *about: pytest.fail("it was tried"))
    name = {"win32": "windows-x86-64-v3", "darwin": "macos-x86-64-v3"}[system]
    write_objects(tmp_path, name)
    (tmp_path / TARGETS[name].file).write_bytes(b"other")
    assert "differs from its record" in choose(tmp_path).reason


def test_the_reason_is_told(become, monkeypatch):
    become("darwin", "aarch64")
    monkeypatch.setattr(proof, "doubt", lambda *about: "macos-arm64.dylib failed its check")
    assert reasons()["native"] == "macos-arm64.dylib failed its check"


# The proof, with the objects of this machine.


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty cache folder of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    proof.doubt.cache_clear()
    notes.note.cache_clear()
    yield tmp_path / "cache" / "tinyrwkv"
    proof.doubt.cache_clear()


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
def test_every_object_gives_the_known_answer(target):
    assert trial.answer(load.run_of(str(FOLDER / target.file))) == ANSWER


@pytest.mark.skipif(TARGETS["x86-64-v3"] not in HERE, reason="this processor cannot run the code")
def test_the_code_for_macos_gives_the_known_answer():
    """Linux runs it, with the functions of its own C library; the loader of macOS is not tested."""
    image = mach_o.Image(FOLDER / TARGETS["macos-x86-64-v3"].file)
    assert trial.answer(image.run()) == ANSWER


@needs_object
@pytest.mark.parametrize(("arch", "dtype", "form"), trial.MODELS)
def test_the_answer_is_of_numbers_that_differ(tmp_path, arch, dtype, form):
    path = str(tmp_path / "model.trwkv")
    trial.write_model(path, arch, dtype, form)
    function = load.run_of(str(FOLDER / HERE[0].file))
    with open_file(path) as file:
        *logits, state = trial.outputs(function, Program(file))
    expected = tinyrwkv.load(path, backend="numpy").forward(0)[0]
    for row in (*logits, state[None]):
        assert np.isfinite(row).all() and (np.std(row, axis=1) > 1e-3).all()
    assert np.abs(logits[0][0] - expected).max() < 0.05 * expected.std()


@needs_object
def test_a_proof_is_given_once(cache, monkeypatch):
    path = FOLDER / HERE[0].file
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    told: list[str] = []
    notes.tell_with(told.append)
    try:
        assert proof.doubt(str(path), digest, ANSWER) == ""
    finally:
        notes.tell_with(None)
    assert told == ["checking the compiled kernels on this machine, once"]
    (kept,) = cache.iterdir()
    assert kept.read_text() == ANSWER
    monkeypatch.setattr(proof.subprocess, "run", lambda *_, **__: pytest.fail("it ran again"))
    proof.doubt.cache_clear()
    assert proof.doubt(str(path), digest, ANSWER) == ""
    proof.doubt.cache_clear()
    doubt = proof.doubt(str(path), digest, "other")
    failed = f"{path.name} failed its check on this machine: {ANSWER}"
    assert doubt == f"{failed}; to check it again, remove {kept}"


@needs_object
def test_an_object_that_computes_something_else_is_refused(cache, tmp_path):
    data = (FOLDER / HERE[-1].file).read_bytes()
    coefficient = struct.pack("<f", 1.6666665459e-1)  # of the exponential function
    assert coefficient in data
    altered = tmp_path / "altered.so"
    altered.write_bytes(data.replace(coefficient, struct.pack("<f", 0.17)))
    doubt = proof.doubt(str(altered), "0" * 64, ANSWER)
    assert doubt.startswith("altered.so failed its check on this machine: ") and len(doubt) > 100


@needs_object
def test_an_object_that_ends_its_process_is_refused(cache, tmp_path):
    name = HERE[-1].file
    data = bytearray((FOLDER / name).read_bytes())
    trap = {"x86_64": b"\xcc"}.get(HERE[-1].machine, b"\0")
    begin = len(data) // 4
    data[begin : 3 * begin] = trap * (2 * begin)
    altered = tmp_path / "altered.so"
    altered.write_bytes(data)
    doubt = proof.doubt(str(altered), "1" * 64, ANSWER)
    assert "the process that ran it ended with status" in doubt
    assert [file.name for file in cache.iterdir()] == [f"kernels-{'1' * 32}.txt"]


def test_what_may_pass_is_not_remembered(cache, monkeypatch):
    monkeypatch.setattr(proof, "PATIENCE", 0.01)
    assert "no answer within 0.01 s" in proof.doubt("kernels.so", "2" * 64, ANSWER)
    assert not cache.exists()


def test_without_a_python_nothing_is_started(cache, monkeypatch):
    monkeypatch.setattr(proof.subprocess, "run", lambda *_, **__: pytest.fail("it was started"))
    for executable in ("", None, "/usr/bin/robot"):
        proof.doubt.cache_clear()
        monkeypatch.setattr(sys, "executable", executable)
        assert "there is no Python to run it with" in proof.doubt("kernels.so", "3" * 64, ANSWER)


@needs_object
def test_a_copy_in_another_package_proves_itself_without_that_package(tmp_path):
    """What begins a robot's package may do anything, and must not be done twice."""
    package = tmp_path / "brain"
    left_out = shutil.ignore_patterns("models", "__pycache__", "cli", "serve", "robot", "chat")
    shutil.copytree(pathlib.Path(tinyrwkv.__file__).parent, package / "llm", ignore=left_out)
    began = tmp_path / "began"
    (package / "__init__.py").write_text(f"open({str(began)!r}, 'a').write('x')")
    code = "import sys; from brain.llm.native.proof import doubt; print(doubt(*sys.argv[1:]))"
    path = str(package / "llm" / "native" / HERE[0].file)
    settings = {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code, path, "4" * 64, ANSWER],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("\n", "") and began.read_text() == "x"


# What an object may need.

NEEDS = """
declare float @sinf(float)
declare i32 @sched_yield()
define void @tinyrwkv_run(ptr %arguments) {
  %x = load float, ptr %arguments
  %y = call float @FUNCTION(float %x)
  store float %y, ptr %arguments
  %z = call i32 @sched_yield()
  ret void
}
define internal float @nothing(float %x) {
  ret float %x
}
define internal <64 x i16> @tinyrwkv_add_codes(<64 x i16> %a, i64 %b, i64 %c) {
  ret <64 x i16> %a
}
"""


@pytest.mark.parametrize("name", ["x86-64", *of_system(targets.WINDOWS), *of_system(targets.MACOS)])
def test_an_object_that_needs_more_is_refused(name):
    for package in ("numba", "llvmlite", "ziglang"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from tinyrwkv.native import build, link
    from tinyrwkv.native.recipes import RECIPES

    def made(function: str) -> bytes:
        code = build.compile_object(NEEDS.replace("FUNCTION", function), RECIPES[name])
        return link.link(code, RECIPES[name])

    assert made("nothing") == made("nothing")
    with pytest.raises(UnsupportedError, match=r"a need for _?sinf"):
        made("sinf")
