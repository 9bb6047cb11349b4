"""Compile the kernels ahead of time: ``tinyrwkv-build-kernels``.

Numba translates ``kernels/`` to plain LLVM code, without optimising for this machine. llvmlite
optimises and compiles that for each target. ``link`` makes shared objects of that. For
microcontrollers there are objects to link into a firmware.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Container
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import TinyRWKVError, UnsupportedError
from .bare_metal import for_one_core, with_identity, without
from .link import COMMAND, link, linker
from .load import FOLDER, RECORD, SYMBOL, run_of, source_hash
from .processor import PRODUCT_BYTES
from .recipes import FAST, RECIPES, SMALL, TINY, Recipe
from .runtime import NEEDED, SYSTEM_CODE
from .targets import TARGETS, runnable
from .trial import answer

NUMBA_SETTINGS = {"NUMBA_OPT": "0", "NUMBA_LOOP_VECTORIZE": "0", "NUMBA_SLP_VECTORIZE": "0"}
"""What makes Numba leave its code as it is."""

EPILOG = """examples:
  tinyrwkv-build-kernels                     the objects that ship in the package
  tinyrwkv-build-kernels x86-64-vnni         one more, for this processor
  tinyrwkv-build-kernels cortex-m7           one to link into a firmware of a microcontroller
  tinyrwkv-build-kernels --list              every target
  tinyrwkv-build-kernels --check             build again and compare byte for byte
"""


def emit_ir(pairs: bool, wide: bool = False, product_bytes: int = 0, scalar: bool = False) -> str:
    """Translate the kernels to LLVM code for no machine in particular.

    Must run in a process where the environment had `NUMBA_SETTINGS` before Numba was imported.

    Parameters
    ----------
    pairs : bool
        The form of integer dot products that LLVM compiles well for x86, see ``kernels/simd.py``.
    wide : bool, optional
        Whether there are 32 vector registers of 64 bytes.
    product_bytes : int, optional
        How many bytes an instruction multiplies, if there is one: see ``kernels/byte_products.py``.
    scalar : bool, optional
        The form of loops for processors without vectors.
    """
    from llvmlite import binding
    from numba import njit, types

    from ..kernels import simd

    # Before any kernel is compiled.
    simd.PAIRS, simd.WIDE, simd.BYTES, simd.SCALAR = pairs, wide, product_bytes, scalar
    simd.LOOKUP = ""
    from ..kernels.byte_products import NAME
    from ..kernels.run import run

    binding.add_symbol(NAME, 1)  # or the code is refused here, where nobody calls it
    function = njit(
        types.void(types.CPointer(types.int64)),
        error_model="numpy",
        nogil=True,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        _nrt=False,
        boundscheck=False,
    )(run.py_func)
    compiled = next(iter(function.overloads.values()))
    code = _freestanding(compiled.library.get_llvm_str())
    return code + _entry(compiled.fndesc.llvm_func_name)


def _freestanding(code: str) -> str:
    """Return LLVM code without the machine that it was made on, and without needs of Python."""
    code = re.sub(r"^target (datalayout|triple) = .*$", "", code, flags=re.MULTILINE)
    # What Numba keeps for Python: its environments and pickled exceptions.
    common = r"^(@[^ ]+) = common global ptr null$"
    return re.sub(common, r"\1 = internal global ptr null", code, flags=re.MULTILINE)


def _entry(name: str) -> str:
    """Return the one function that an object exports; it calls the compiled ``run``."""
    return f"""
define void @{SYMBOL}(ptr %arguments) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @{name}(ptr %result, ptr %error, ptr %arguments)
  ret void
}}
"""


def compile_object(ir: str, recipe: Recipe) -> bytes:
    """Optimise and compile LLVM code for a target; return what the linker reads."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    options: dict[str, Any] = {"reloc": "pic", "codemodel": "default", "opt": 3}
    if recipe.triple.startswith("riscv"):
        options["abiname"] = "ilp32f" if recipe.bare_metal else "lp64d"
    if recipe.bare_metal:
        options["reloc"] = "static"
        ir = for_one_core(ir)
    machine = llvm.Target.from_triple(recipe.triple).create_target_machine(
        cpu=recipe.cpu, features=recipe.features, **options
    )
    module = llvm.parse_assembly(with_products(with_lookups(ir, recipe.lookup), recipe.products))
    module.link_in(llvm.parse_assembly(SYSTEM_CODE[recipe.target.system]))
    module.triple, module.data_layout = recipe.triple, str(machine.target_data)
    for function in module.functions:
        if function.is_declaration:
            continue
        if function.name not in (SYMBOL, *NEEDED[recipe.target.system]):
            function.linkage = "internal"
        function.add_function_attribute("nounwind")
        if recipe.tuning in (SMALL, TINY):
            function.add_function_attribute("optsize")
    module.verify()
    speed = 2 if recipe.tuning == TINY else 3
    tuning = llvm.create_pipeline_tuning_options(speed_level=speed)
    tuning.loop_vectorization = tuning.slp_vectorization = recipe.tuning != TINY
    tuning.loop_unrolling = tuning.loop_interleaving = recipe.tuning == FAST
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


def with_lookups(code: str, instruction: str) -> str:
    """Return LLVM code whose sums of codes are looked up by an instruction of the target.

    The target need not be this machine. The instruction is "" where there is none.
    """
    from llvmlite import ir

    from . import lookup

    module = ir.Module()
    body = str(lookup.define_add_codes(module, instruction))
    needed = [str(other) for name, other in module.globals.items() if name != lookup.NAME]
    definition = "\n".join([*needed, body])
    pattern = re.compile(
        rf"^define internal [^\n]*@{lookup.NAME}\(.*?^}}$", re.MULTILINE | re.DOTALL
    )
    return pattern.sub(lambda _: definition, code, count=1)


def with_products(code: str, instruction: str) -> str:
    """Return LLVM code whose products of bytes are added up by an instruction of the target.

    Without one, they are not called for.
    """
    from llvmlite import ir

    from ..kernels.byte_products import NAME
    from . import products

    if not instruction:
        return code
    module = ir.Module()
    products.define_totals(module, NAME, instruction)
    definition = "\n".join(str(each) for each in module.globals.values())
    pattern = re.compile(rf"^declare [^\n]*@{NAME}\(.*$", re.MULTILINE)
    return pattern.sub(lambda _: definition, code, count=1)


@functools.cache
def _ir_in_child(form: tuple[int, ...]) -> str:
    """Emit in a fresh process, because Numba reads its settings once."""
    code = f"import {__package__}.build as b; print(b.emit_ir(*{form}))"
    command = [sys.executable, "-c", code]
    depth = len(__package__.split("."))
    roots = [str(pathlib.Path(__file__).resolve().parents[depth]), *sys.path]
    path = os.pathsep.join(filter(None, roots))
    environment = {**os.environ, **NUMBA_SETTINGS, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        fix = 'pip install "tinyrwkv[native]"; if it is installed, report this'
        raise TinyRWKVError(COMMAND, "Numba", last[0], "LLVM code", fix)
    return done.stdout


def _form(recipe: Recipe) -> tuple[int, ...]:
    """Return the arguments of `emit_ir` for a target."""
    product_bytes = PRODUCT_BYTES[recipe.products]
    return not recipe.has_reduction, recipe.is_wide, product_bytes, recipe.bare_metal


def build(
    names: list[str],
    progress: Callable[[str], None] | None = None,
    unused: Collection[str] = (),
) -> dict[str, bytes]:
    """Return shared objects by target name, or objects for a firmware.

    Parameters
    ----------
    names : list of str
        Of targets.
    progress : callable, optional
        Called with a line about each object.
    unused : collection of str, optional
        Kernels to leave out, such as "wkv.wkv4": no program that is run has their operations.

    Raises
    ------
    UnsupportedError
        Numba, llvmlite or a linker is not installed.
    """
    check_packages()
    forms = {name: _form(RECIPES[name]) for name in names}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        different = list(set(forms.values()))
        codes = dict(zip(different, pool.map(_ir_in_child, different), strict=True))
    objects = {}
    for name, form in forms.items():
        recipe = RECIPES[name]
        code = without(codes[form], unused)
        if recipe.bare_metal:
            code = with_identity(code, name, unused)
        objects[name] = link(compile_object(code, recipe), recipe)
        if progress:
            progress(f"{name}: {len(objects[name]):,} bytes")
    return objects


def check_packages() -> None:
    """Refuse to compile without the packages that do it.

    Raises
    ------
    UnsupportedError
        One of them is not installed.
    """
    for name in ("numba", "llvmlite"):
        if importlib.util.find_spec(name) is None:
            sentence = f"compiling kernels needs the package {name}, which is not installed"
            fix = 'pip install "tinyrwkv[native]"'
            raise UnsupportedError(COMMAND, "package", "none", name, fix, sentence)
    linker()


def tools() -> dict[str, str]:
    """Return the versions that decide the bytes of an object."""
    import llvmlite
    import numba

    told = subprocess.run([*linker(), "--version"], capture_output=True, text=True).stdout
    version = told.split(" (")[0].strip()
    return {"numba": numba.__version__, "llvmlite": llvmlite.__version__, "linker": version}


def main(argv: list[str] | None = None) -> int:
    """Run ``tinyrwkv-build-kernels``; return its exit status."""
    args = _parser().parse_args(argv)
    try:
        if args.list:
            return _list_targets()
        return _build_or_check(args)
    except TinyRWKVError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        COMMAND,
        description="Compile the kernels ahead of time: a board then needs no Numba or compiler.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="names from --list; without, those that ship"
    )
    parser.add_argument("--list", action="store_true", help="print every target and end")
    parser.add_argument(
        "--check", action="store_true", help="build in memory and compare with what is there"
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(FOLDER),
        help="folder of the objects and their record",
    )
    return parser


def _list_targets() -> int:
    for recipe in RECIPES.values():
        print(f"{recipe.name:<18} {recipe.cpu:<14} {'ships' if recipe.committed else ''}")
    return 0


def _build_or_check(args: argparse.Namespace) -> int:
    """Build the targets asked for; write them, or compare them with what is there."""
    unknown = [name for name in args.targets if name not in RECIPES]
    if unknown:
        known = ", ".join(RECIPES)
        raise UnsupportedError(COMMAND, "target", unknown[0], known, "choose one of them")
    names = args.targets or [recipe.name for recipe in RECIPES.values() if recipe.committed]
    objects = build(names, lambda line: print(line, file=sys.stderr))
    if args.check:
        return _compare(objects, args.output)
    _write(objects, args.output)
    return 0


def _compare(objects: dict[str, bytes], folder: pathlib.Path) -> int:
    """Print which objects are the same as in a folder; return the exit status."""
    status = 0
    for name, data in objects.items():
        path = folder / TARGETS[name].file
        same = path.exists() and path.read_bytes() == data
        print(f"{name}: {'the same bytes' if same else 'differs'}")
        if not same:
            status = 1
    return status


def _write(objects: dict[str, bytes], folder: pathlib.Path) -> None:
    """Write objects and their record; other objects of the same sources stay in it."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / RECORD
    old = json.loads(record.read_text()) if record.exists() else {}
    entries = old.get("objects", {}) if old.get("sources") == source_hash() else {}
    for name, data in objects.items():
        path = folder / TARGETS[name].file
        path.with_suffix(".tmp").write_bytes(data)
        os.replace(path.with_suffix(".tmp"), path)
        digest = hashlib.sha256(data).hexdigest()
        entries[name] = {"sha256": digest, "bytes": len(data), "tools": tools()}
    new = {
        "sources": source_hash(),
        "answer": _answer(folder, entries) or old.get("answer", ""),
        "objects": dict(sorted(entries.items())),
    }
    record.write_text(json.dumps(new, indent=2) + "\n")


def _answer(folder: pathlib.Path, entries: Container[str]) -> str:
    """Return what the trial of any object must answer, "" if none of them can run here."""
    here = [target.file for target in runnable() if target.name in entries]
    return answer(run_of(str(folder / here[0]))) if here else ""


if __name__ == "__main__":
    sys.exit(main())
