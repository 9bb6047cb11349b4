"""Compile the kernels ahead of time: ``tinyrwkv-build-kernels``.

Numba translates ``kernels/`` to plain LLVM code, without optimising for this machine; llvmlite optimises and compiles
that for each target; LLD links shared objects that need nothing but a C library's memset, memcpy and sched_yield.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from ..errors import TinyRWKVError, UnsupportedError
from .load import FOLDER, RECORD, SYMBOL, source_hash
from .targets import TARGETS, Target

ALLOWED = ("memset", "memcpy", "sched_yield")

EPILOG = """examples:
  tinyrwkv-build-kernels                     the objects that ship in the package
  tinyrwkv-build-kernels x86-64-vnni         one more, for this processor
  tinyrwkv-build-kernels --list              every target
  tinyrwkv-build-kernels --check             build again and compare byte for byte
"""


def emit_ir(pairs: bool) -> str:
    """Translate the kernels to LLVM code for no machine in particular.

    Must run in a process where NUMBA_OPT=0 was set before Numba was imported.

    Parameters
    ----------
    pairs : bool
        The form of integer dot products that LLVM compiles well for x86, see ``kernels/simd.py``.
    """
    from numba import njit, types

    from ..kernels import simd

    simd.PAIRS, simd.LOOKUP = pairs, ""
    from ..kernels.run import run

    plain = {
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
        "_nrt": False,
        "boundscheck": False,
    }
    signature = types.void(types.CPointer(types.int64))
    function = njit(signature, error_model="numpy", nogil=True, **plain)(run.py_func)
    compiled = next(iter(function.overloads.values()))
    name = compiled.fndesc.llvm_func_name
    code = compiled.library.get_llvm_str()
    code = re.sub(r"^target (datalayout|triple) = .*$", "", code, flags=re.MULTILINE)
    # What Numba keeps for Python: its environments and pickled exceptions.
    code = re.sub(
        r"^(@[^ ]+) = common global ptr null$",
        r"\1 = internal global ptr null",
        code,
        flags=re.MULTILINE,
    )
    entry = f"""
define void @{SYMBOL}(ptr %arguments) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @{name}(ptr %result, ptr %error, ptr %arguments)
  ret void
}}
"""
    return code + entry


def compile_object(ir: str, target: Target) -> bytes:
    """Optimise and compile LLVM code for a target; return an ELF object."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    options: dict[str, Any] = {"reloc": "pic", "codemodel": "default", "opt": 3}
    if target.machine == "riscv64":
        options["abiname"] = "lp64d"
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, **options
    )
    module = llvm.parse_assembly(with_lookups(ir, target.lookup))
    module.triple, module.data_layout = target.triple, str(machine.target_data)
    for function in module.functions:
        if not function.is_declaration:
            if function.name != SYMBOL:
                function.linkage = "internal"
            function.add_function_attribute("nounwind")
    module.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = tuning.slp_vectorization = True
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


def with_lookups(code: str, instruction: str) -> str:
    """Let LLVM code add up codes by an instruction that this machine need not have; "" for none."""
    from llvmlite import ir

    from . import lookup

    module = ir.Module()
    body = str(lookup.define_add_codes(module, instruction))
    declared = [str(other) for name, other in module.globals.items() if name != lookup.NAME]
    pattern = rf"^define internal [^\n]*@{lookup.NAME}\(.*?^}}$"
    return re.sub(
        pattern,
        lambda _: "\n".join([*declared, body]),
        code,
        count=1,
        flags=re.MULTILINE | re.DOTALL,
    )


def linker() -> list[str]:
    """Return the command of LLD: the one in the package ziglang, whose version pip can pin, or the system's."""
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "ld.lld"]
    if found := shutil.which("ld.lld"):
        return [found]
    fix = 'pip install "tinyrwkv[native]", or install lld'
    raise UnsupportedError("tinyrwkv-build-kernels", "linker", "no ld.lld", "LLD", fix)


def link(code: bytes, target: Target) -> bytes:
    """Link an object to a shared object; refuse one that needs more than ``ALLOWED`` from outside."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = pathlib.Path(folder, "kernels.o"), pathlib.Path(folder, "kernels.so")
        source.write_bytes(code)
        command = [
            *linker(),
            "-m",
            target.emulation,
            "-shared",
            "-s",
            "-z",
            "noexecstack",
            "--hash-style=gnu",
        ]
        command += ["--build-id=none", "--no-rosegment", "--gc-sections", str(source), "-o"]
        provided = [f"--defsym={name}=0" for name in ALLOWED]
        check = subprocess.run(
            [*command, str(result), "-z", "defs", *provided], capture_output=True, text=True
        )
        if check.returncode:
            found = (
                ", ".join(sorted(set(re.findall(r"undefined symbol: (\S+)", check.stderr))))
                or check.stderr[-500:]
            )
            fix = "write the kernel without it"
            raise UnsupportedError(
                "tinyrwkv-build-kernels", target.name, f"a need for {found}", f"only {ALLOWED}", fix
            )
        subprocess.run([*command, str(result)], check=True, capture_output=True)
        return result.read_bytes()


def _ir_in_child(pairs: bool) -> str:
    """Emit in a fresh process, because Numba reads its settings once."""
    settings = {"NUMBA_OPT": "0", "NUMBA_LOOP_VECTORIZE": "0", "NUMBA_SLP_VECTORIZE": "0"}
    command = [sys.executable, "-c", f"import {__package__}.build as b; print(b.emit_ir({pairs}))"]
    roots = [str(pathlib.Path(__file__).resolve().parents[len(__package__.split("."))]), *sys.path]
    environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(filter(None, roots))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        fix = 'pip install "tinyrwkv[native]"; if it is installed, report this'
        raise TinyRWKVError("tinyrwkv-build-kernels", "Numba", last[0], "LLVM code", fix)
    return done.stdout


def build(names: list[str], progress: Any = None) -> dict[str, bytes]:
    """Return shared objects by target name."""
    codes: dict[bool, str] = {}
    objects = {}
    for name in names:
        target = TARGETS[name]
        pairs = not target.has_reduction
        if pairs not in codes:
            codes[pairs] = _ir_in_child(pairs)
        objects[name] = link(compile_object(codes[pairs], target), target)
        if progress:
            progress(f"{name}: {len(objects[name]):,} bytes")
    return objects


def tools() -> dict[str, str]:
    """Return the versions that decide the bytes of an object."""
    import llvmlite
    import numba

    version = (
        subprocess.run([*linker(), "--version"], capture_output=True, text=True)
        .stdout.split(" (")[0]
        .strip()
    )
    return {"numba": numba.__version__, "llvmlite": llvmlite.__version__, "linker": version}


def main(argv: list[str] | None = None) -> int:
    """Run ``tinyrwkv-build-kernels``; return its exit status."""
    parser = argparse.ArgumentParser(
        "tinyrwkv-build-kernels",
        description="Compile the kernels ahead of time, so that a board needs neither Numba nor a compiler.",
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
    args = parser.parse_args(argv)
    try:
        return _main(args)
    except TinyRWKVError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _main(args: argparse.Namespace) -> int:
    if args.list:
        for target in TARGETS.values():
            print(f"{target.name:<16} {target.cpu:<14} {'ships' if target.committed else ''}")
        return 0
    if unknown := [name for name in args.targets if name not in TARGETS]:
        raise UnsupportedError(
            "tinyrwkv-build-kernels", "target", unknown[0], ", ".join(TARGETS), "choose one of them"
        )
    names = args.targets or [target.name for target in TARGETS.values() if target.committed]
    objects = build(names, lambda line: print(line, file=sys.stderr))
    if args.check:
        differ = [
            name for name, data in objects.items() if not _same(args.output / f"{name}.so", data)
        ]
        print(
            "\n".join(
                f"{name}: {'differs' if name in differ else 'the same bytes'}" for name in names
            )
        )
        return 1 if differ else 0
    args.output.mkdir(parents=True, exist_ok=True)
    record = args.output / RECORD
    old = json.loads(record.read_text()) if record.exists() else {}
    kept = old.get("objects", {}) if old.get("sources") == source_hash() else {}
    for name, data in objects.items():
        path = args.output / f"{name}.so"
        path.with_suffix(".tmp").write_bytes(data)
        os.replace(path.with_suffix(".tmp"), path)
        kept[name] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "tools": tools(),
        }
    text = json.dumps({"sources": source_hash(), "objects": dict(sorted(kept.items()))}, indent=2)
    record.write_text(text + "\n")
    return 0


def _same(path: pathlib.Path, data: bytes) -> bool:
    return path.exists() and path.read_bytes() == data


if __name__ == "__main__":
    sys.exit(main())
