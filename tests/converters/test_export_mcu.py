"""What --mcu writes, and the C loader compiled for this machine: it reads models as the engine."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.cli import main
from converters.export.mcu.export import FILES, check, export_mcu
from converters.export.mcu.header import MARK, header_text
from converters.export.mcu.kernels import unused_kernels
from converters.export.mcu.scripts_table import scripts_table
from tests.helpers.emulated_check import FORMS
from tests.helpers.firmware import FOLDER, why_not
from tests.helpers.tiny_models import pack_int4, rewrite, shape_of, write_model
from tinyrwkv import ArgumentError, UnsupportedError, load
from tinyrwkv.chat.profile import Profile
from tinyrwkv.chat.templates import TEMPLATES
from tinyrwkv.kernels import abi as op
from tinyrwkv.loading import BUNDLED
from tinyrwkv.model import Model
from tinyrwkv.native.bare_metal import for_one_core, without
from tinyrwkv.native.load import SYMBOL, choose
from tinyrwkv.robot.scripts import Scripts

NO_COMPILER = why_not()
MODELS = [
    ("v4", "int8", "dense"),
    ("v5.2", "f16", "dense"),
    ("v6", "int8", "predicted"),
    ("v7", "int4", "previewed"),
    ("v7", "int8", "compressed"),
]


def without_tokenizer(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    for name in ("bytes", "starts", "ids"):
        del tensors[f"tokenizer.{name}"]


def tiny(folder: pathlib.Path, arch: str, dtype: str, form: str) -> str:
    """Write a tiny model."""
    path = str(folder / f"{arch}-{dtype}-{form}.trwkv")
    shape = shape_of(arch, width=128, head_size=32)
    write_model(path, shape, "int8" if dtype == "int4" else dtype)
    changes = [FORMS[form], *[pack_int4] * (dtype == "int4")]
    for change in changes:
        rewrite(path, path, change)
    return path


def defined(header: str) -> dict[str, str]:
    return dict(re.findall(r"^#define RWKV_(\w+) (.*)$", header, re.MULTILINE))


def header_of(model: Model, template: str = "robot") -> str:
    return header_text(model, Profile(), TEMPLATES[template], "0123456789abcdef")


def test_the_header_has_the_program_without_what_waits() -> None:
    with load(BUNDLED, backend="numpy") as model:
        text, table = header_of(model), model.program.table
        rows = re.search(r"rwkv_program\[.*?\{\n(.*?)\n\};", text, re.DOTALL)
        assert rows
        found = [[int(n) for n in row.strip("{},").split(",")] for row in rows[1].splitlines()]
        assert found == [row.tolist() for row in table if row[0] != op.SYNC]
        told = defined(text)
        assert found[int(told["SELECT"])][0] == op.SELECT
        assert int(told["OPERATIONS"]) == len(found)
        assert {name: int(told[name]) for name in ("WEIGHTS", "OUT", "ARGUMENTS")} == {
            "WEIGHTS": op.WEIGHTS,
            "OUT": op.OUT,
            "ARGUMENTS": op.ARGUMENTS,
        }


@pytest.mark.parametrize("name", ["chat", "robot", "raven", "none"])
def test_the_header_has_the_texts_around_a_line(name: str) -> None:
    with load(BUNDLED, backend="numpy") as model:
        told = defined(header_of(model, name))
    before, after, stop = (
        told[key][1:-1].encode().decode("unicode_escape") for key in ("BEFORE", "AFTER", "STOP")
    )
    assert before + "turn left" + after == TEMPLATES[name].prompt("turn left")
    assert (stop,) == (TEMPLATES[name].stop or ("",))


def test_a_model_that_thinks_is_refused() -> None:
    with load(BUNDLED, backend="numpy") as model:
        with pytest.raises(UnsupportedError, match="knows no thoughts"):
            header_of(model, "think")


SAID = st.sampled_from(["move(2)", "turn(-90.5)", 'goto("kitchen")', "stop()", "; ", " ", "\n\n"])
TABLE, SCRIPTS = scripts_table(), Scripts().with_any_number()


@given(st.one_of(st.text(max_size=30), st.lists(SAID, max_size=7).map(lambda x: "".join(x))))
def test_the_table_of_scripts_matches_what_the_grammar_matches(text: str) -> None:
    for said in (text, f" {text}\n\n"):
        state = 1
        for byte in said.encode():
            state = int(TABLE.following[state, TABLE.classes[byte]])
        assert bool(TABLE.accepts[state]) == SCRIPTS.matches(said)


def test_kernels_are_left_out_that_no_operation_calls(tmp_path: pathlib.Path) -> None:
    with load(tiny(tmp_path, "v7", "int4", "previewed"), backend="numpy") as model:
        unused = unused_kernels(model.program.operations)
    assert {"wkv.wkv4", "wkv.wkv5", "sparse.sparse"} <= set(unused)
    assert not {"wkv.wkv7", "head.level", "head.exact", "int4.one_row"} & set(unused)


@pytest.mark.parametrize("kernel", unused_kernels([]))
def test_a_kernel_that_is_left_out_exists(kernel: str) -> None:
    module, name = kernel.split(".")
    source = pathlib.Path(op.__file__).with_name(f"{module}.py").read_text("utf-8")
    assert f"\n@kernel\ndef {name}(" in source


def test_code_for_one_core_has_no_atomics() -> None:
    code = """define i32 @f(ptr %a, ptr %b) {
  %old = load atomic i32, ptr %a seq_cst, align 4
  %before = atomicrmw add ptr %b, i32 %old seq_cst, align 4
  store atomic i32 %before, ptr %a seq_cst, align 4
  ret i32 %before
}
declare i32 @sched_yield()
"""
    plain = for_one_core(code)
    assert "atomic" not in plain and "seq_cst" not in plain
    assert "define internal i32 @sched_yield()" in plain
    assert plain.count("load i32, ptr") == 2 and plain.count("store i32") == 2


def test_code_without_a_kernel_has_its_name_alone() -> None:
    code = "define i32 @_ZN4kernels3wkv4wkv4B2v1(ptr %x) {\n  call void @g()\n  ret i32 1\n}\n"
    assert without(code, ["wkv.wkv4"]) == code.replace(
        "  call void @g()\n  ret i32 1", "  ret i32 0"
    )


# What is refused, before anything is compiled.


def test_a_model_without_a_vocabulary_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.trwkv"
    write_model(path, shape_of("v7"), "int8")
    rewrite(path, path, without_tokenizer)
    with pytest.raises(UnsupportedError, match="has no vocabulary"):
        export_mcu(path, tmp_path / "out", "cortex-m7")
    assert not (tmp_path / "out").exists()


def test_a_chip_that_nobody_knows_is_refused(tmp_path: pathlib.Path, capsys: Any) -> None:
    arguments = [BUNDLED, str(tmp_path / "out"), "--mcu", "z80", "--quiet"]
    assert main(arguments) == 1
    assert "only cortex-m7, cortex-m33, riscv32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_others_is_never_replaced(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text("of somebody else")
    with pytest.raises(ArgumentError, match="exists, and it is not"):
        export_mcu(BUNDLED, tmp_path, "cortex-m7")
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert (tmp_path / name).read_text() == "of somebody else"


def test_the_model_itself_is_never_replaced(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.trwkv"
    write_model(path, shape_of("v7"), "int8")
    with pytest.raises(ArgumentError, match="would replace the input"):
        export_mcu(path, tmp_path, "cortex-m7")


def test_options_that_change_the_model_are_refused(tmp_path: pathlib.Path, capsys: Any) -> None:
    arguments = [BUNDLED, str(tmp_path / "out"), "--mcu", "cortex-m7", "--dtype", "int4"]
    assert main(arguments) == 1
    assert "--dtype changes the model, but --mcu takes it as it is" in capsys.readouterr().err


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "firmware").write_text("of somebody else")
    with pytest.raises(ArgumentError, match="firmware: it is no folder; choose another name"):
        export_mcu(BUNDLED, tmp_path / "firmware", "cortex-m7")


@pytest.mark.parametrize("name", ["numba", "llvmlite", "ziglang"])
def test_a_missing_compiler_is_named_before_anything_is_written(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("numba", "llvmlite", "ziglang"):
        spec = importlib.machinery.ModuleSpec(package, None) if package != name else None
        there = None if spec is None else importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, package, there)
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(UnsupportedError, match=f"needs the package {name}, which is not installed"):
        export_mcu(BUNDLED, tmp_path / "out", "cortex-m7")
    assert not (tmp_path / "out").exists()


# The loader in C, compiled for this machine, with the kernels of this machine.


class Loader:
    """The C loader as a library of this process."""

    def __init__(
        self, model: Model, folder: pathlib.Path, kernels: str = "0123456789abcdef"
    ) -> None:
        (folder / "rwkv_model.h").write_text(header_of(model))
        stub = folder / "stub.c"
        stub.write_text(f'const char tinyrwkv_kernels[] = "{kernels}";\n')
        library = folder / "loader.so"
        command = [sys.executable, "-m", "ziglang", "cc", "-std=c99", "-O1", "-shared", "-fPIC"]
        command += ["-fno-builtin", "-Wall", "-Wextra", "-Werror", "-Wl,-z,undefs"]
        command += [f"-I{folder}", str(FOLDER / "rwkv.c"), str(stub), "-o", str(library)]
        subprocess.run(command, check=True, capture_output=True)
        path = choose().path
        assert path is not None
        kernels = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        assert hasattr(kernels, SYMBOL)
        self.code = ctypes.CDLL(str(library))
        self.code.rwkv_begin.restype = ctypes.c_char_p
        self.code.rwkv_read.restype = ctypes.POINTER(ctypes.c_float)
        self.file = np.array(model.file.bytes)
        self.vocabulary = model.config["vocab_size"]

    def begin(self) -> bytes | None:
        return self.code.rwkv_begin(self.file.ctypes.data_as(ctypes.c_void_p))

    def read(self, ids: list[int]) -> np.ndarray:
        array = np.array(ids, np.int32)
        place = array.ctypes.data_as(ctypes.c_void_p)
        found = self.code.rwkv_read(place, len(ids))
        return np.ctypeslib.as_array(found, (self.vocabulary,)).copy()

    def encode(self, text: bytes, most: int = 4096) -> list[int] | None:
        ids = np.zeros(most, np.int32)
        place = ids.ctypes.data_as(ctypes.c_void_p)
        count = self.code.rwkv_encode(text, len(text), place, most)
        return None if count < 0 else ids[:count].tolist()


needs_compiler = pytest.mark.skipif(
    bool(NO_COMPILER) or choose().path is None, reason=NO_COMPILER or "no native kernels"
)


@needs_compiler
@pytest.mark.parametrize(("arch", "dtype", "form"), MODELS)
def test_the_loader_computes_what_the_engine_computes(
    arch: str, dtype: str, form: str, tmp_path: pathlib.Path
) -> None:
    with load(tiny(tmp_path, arch, dtype, form), backend="native") as model:
        check(model)
        loader = Loader(model, tmp_path)
        assert loader.begin() is None
        state = model.new_state()
        for count in (1, 37, 16):
            ids = [(37 * i + 11) % 256 for i in range(count)]
            logits, state = model.forward(ids, state)
            assert loader.read(ids).tobytes() == logits.tobytes()
        loader.code.rwkv_forget()
        logits, _ = model.forward([7], model.new_state())
        assert loader.read([7]).tobytes() == logits.tobytes()


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: Any) -> tuple[Loader, Model]:
    model = load(BUNDLED, backend="native")
    loader = Loader(model, tmp_path_factory.mktemp("bundled"))
    assert loader.begin() is None
    return loader, model


WORD = st.sampled_from(["turn left", " the", "please", "\n\n", "User:", "é", "日本"])
TEXT = st.one_of(st.binary(max_size=60), st.lists(WORD).map(lambda x: "".join(x).encode()))


@needs_compiler
@given(text=TEXT)
def test_the_loader_cuts_texts_as_the_tokenizer_does(
    bundled: tuple[Loader, Model], text: bytes
) -> None:
    loader, model = bundled
    assert loader.encode(text) == model.tokenizer.encode(text)


@needs_compiler
def test_the_loader_takes_no_more_tokens_than_there_is_room_for(
    bundled: tuple[Loader, Model],
) -> None:
    loader, _ = bundled
    assert loader.encode(b"\xff" * 8, most=8) is not None
    assert loader.encode(b"\xff" * 9, most=8) is None


@needs_compiler
@given(seed=st.integers(0, 2**32 - 1), said=st.lists(SAID, max_size=3))
def test_the_loader_chooses_as_the_constraint_does(
    bundled: tuple[Loader, Model], seed: int, said: list[str]
) -> None:
    loader, model = bundled
    logits = np.random.default_rng(seed).standard_normal(4096).astype(np.float32)
    place = logits.ctypes.data_as(ctypes.c_void_p)
    assert loader.code.rwkv_choose(place, 0) == int(np.argmax(logits))
    walk, state = SCRIPTS.start(model), 1
    for token in model.tokenizer.encode(" " + "".join(said)):
        state = loader.code.rwkv_follow(state, token)
        assert (state != 0) == walk.read(model.tokenizer.token_bytes(token))
        if not state:
            return
    allowed = logits.copy()
    walk.mask(allowed)
    assert loader.code.rwkv_choose(place, state) == int(np.argmax(allowed))


@needs_compiler
@pytest.mark.parametrize(("place", "word"), [(3, "flash model"), (16, "another"), (-9, "damaged")])
def test_the_loader_refuses_another_file(
    bundled: tuple[Loader, Model], place: int, word: str
) -> None:
    loader, _ = bundled
    loader.file[place] ^= 1
    said = loader.begin()
    loader.file[place] ^= 1
    assert said is not None and word in said.decode()
    assert loader.begin() is None


@needs_compiler
def test_the_loader_refuses_kernels_of_another_export(tmp_path: pathlib.Path) -> None:
    with load(BUNDLED) as model:
        said = Loader(model, tmp_path, kernels="0123456789abcdee").begin()
    assert said is not None and "were not made together" in said.decode()


def test_the_loader_is_short() -> None:
    files = ("rwkv.c", "rwkv.h", "main.c", "board.h")
    assert sum(len((FOLDER / name).read_text().splitlines()) for name in files) <= 400
    assert MARK not in "".join((FOLDER / name).read_text() for name in files)
