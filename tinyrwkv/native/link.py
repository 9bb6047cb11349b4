"""Link the compiled kernels to a shared object of a system, without a C library or a debug record.

LLD links for Linux and Windows. Zig links for macOS, and signs the object as a linker does. Both
are in the package ziglang, whose version pip can pin. An object for a firmware is linked there.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

from ..errors import UnsupportedError
from .load import SYMBOL
from .processor import LINUX, MACOS, WINDOWS
from .recipes import Recipe
from .runtime import NEEDED
from .targets import FIRMWARE

COMMAND = "tinyrwkv-build-kernels"

OBJECT, RESULT, SYSTEM_NAMES = "kernels.o", "kernels", "kernel32.def"
"""Files in the folder where the linkers run."""

KERNEL32 = """LIBRARY kernel32.dll
EXPORTS
SwitchToThread
"""
"""What objects for Windows may need of the system."""


def linker(name: str = "ld.lld") -> list[str]:
    """Return the command line of a linker of the package ziglang, or of the system's LLD."""
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", name]
    if found := shutil.which(name):
        return [found]
    fix = 'pip install "tinyrwkv[native]", or install lld'
    sentence = "linking kernels needs the package ziglang, which is not installed"
    raise UnsupportedError(COMMAND, "linker", f"no {name}", "LLD", fix, sentence)


def link(code: bytes, recipe: Recipe) -> bytes:
    """Link an object to a shared object; one for a firmware is only checked.

    Raises
    ------
    UnsupportedError
        The object needs more than `NEEDED` from outside, or the linker is not installed.
    """
    by_system = {
        LINUX: _for_linux,
        WINDOWS: _for_windows,
        MACOS: _for_macos,
        FIRMWARE: _for_firmware,
    }
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, OBJECT).write_bytes(code)
        pathlib.Path(folder, SYSTEM_NAMES).write_text(KERNEL32)
        for command in by_system[recipe.target.system](recipe):
            _run(command, folder, recipe)
        if recipe.bare_metal:
            return code
        data = pathlib.Path(folder, RESULT).read_bytes()
    if recipe.target.system == MACOS:  # whose library has much more than objects may need
        allowed = {*NEEDED[MACOS], "dyld_stub_binder"}  # the second is what the linker adds
        missing = [name for name in undefined(data) if name.removeprefix("_") not in allowed]
        if missing:
            raise _refusal(recipe, f"a need for {', '.join(missing)}")
    return data


def undefined(data: bytes) -> list[str]:
    """Return the names that a Mach-O file needs from outside, as it writes them."""
    (count,) = struct.unpack_from("<I", data, 16)
    at, found = 32, []
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, at)
        if command == _LC_SYMTAB:
            start, symbols, names, _ = struct.unpack_from("<4I", data, at + 8)
            for i in range(symbols):
                name, kind, section = struct.unpack_from("<IBB", data, start + 16 * i)
                if kind & _N_EXT and section == 0:
                    begin = names + name
                    found.append(data[begin : data.index(b"\0", begin)].decode())
        at += size
    return found


_LC_SYMTAB, _N_EXT = 2, 1  # as Apple's <mach-o/loader.h> and <mach-o/nlist.h> name them


def _for_linux(recipe: Recipe) -> list[list[str]]:
    command = [*_lld(recipe), "-shared"]
    return [_told(command, recipe), command]


def _for_firmware(recipe: Recipe) -> list[list[str]]:
    return [_told([*_lld(recipe), "-e", SYMBOL], recipe)]


def _lld(recipe: Recipe) -> list[str]:
    command = [*linker(), "-m", recipe.emulation, "-s", "-z", "noexecstack"]
    command += ["--hash-style=gnu", "--build-id=none", "--no-rosegment", "--gc-sections"]
    return [*command, OBJECT, "-o", RESULT]


def _told(command: list[str], recipe: Recipe) -> list[str]:
    """Return the command that fails with every need beyond `NEEDED`."""
    provided = [f"--defsym={name}=0" for name in NEEDED[recipe.target.system]]
    return [*command, "-z", "defs", *provided]


def _for_windows(recipe: Recipe) -> list[list[str]]:
    command, machine = linker("lld-link"), f"/machine:{recipe.emulation}"
    imports = [*command, "/lib", machine, f"/def:{SYSTEM_NAMES}", "/out:system.lib"]
    command += ["/dll", "/noentry", "/nodefaultlib", "/timestamp:0", machine, f"/export:{SYMBOL}"]
    return [imports, [*command, f"/out:{RESULT}", OBJECT, "system.lib"]]


def _for_macos(recipe: Recipe) -> list[list[str]]:
    command = [*linker("build-lib"), "-dynamic", "-target", recipe.emulation]
    command += ["-OReleaseSmall", "-fstrip", "-fno-compiler-rt"]
    command += ["-dead_strip", "-headerpad", "0", "-install_name", RESULT]
    return [[*command, f"-femit-bin={RESULT}", OBJECT]]


def _run(command: list[str], folder: str, recipe: Recipe) -> None:
    """Run a linker in the folder of its files; what it cannot find is a need of the kernels."""
    caches = {f"ZIG_{kind}_CACHE_DIR": os.path.join(folder, kind) for kind in ("LOCAL", "GLOBAL")}
    environment = {**os.environ, **caches}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        missing = sorted(set(re.findall(r"undefined symbol: (\S+)", done.stderr)))
        raise _refusal(
            recipe, f"a need for {', '.join(missing)}" if missing else done.stderr[-500:]
        )


def _refusal(recipe: Recipe, found: str) -> UnsupportedError:
    expected = f"only {', '.join(NEEDED[recipe.target.system])}"
    return UnsupportedError(COMMAND, recipe.name, found, expected, "write the kernel without it")
