"""The system and the architecture of this process; registers and instructions of a processor."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

LINUX, WINDOWS, MACOS = "linux", "windows", "macos"


def system() -> str:
    """Return the operating system: linux, windows, macos, or what Python says of another one."""
    return {"win32": WINDOWS, "darwin": MACOS}.get(sys.platform, sys.platform)


@functools.cache
def machine() -> str:
    """Return the architecture of this process, which need not be that of the system's kernel.

    x86_64, aarch64, arm, riscv64, or what the system says of another one.
    """
    found = platform.machine().lower()
    if system() == WINDOWS and "AMD64" in sys.version:  # the system may be ARM's, and emulate x86
        found = "amd64"
    bits = ctypes.sizeof(ctypes.c_void_p) * 8
    if bits == 64:
        return {"amd64": "x86_64", "arm64": "aarch64"}.get(found, found)
    if found.startswith(("arm", "aarch64")):
        return "arm"
    return found + "-32"


def byte_lookup(machine: str, features: frozenset[str]) -> str:
    """Return LLVM's name for the instruction that looks bytes up in a table of 16, "" for none.

    Of several, it is the one that looks up the most bytes at once.
    """
    if machine == "aarch64":
        return "llvm.aarch64.neon.tbl1.v16i8"
    if machine == "arm" and "neon" in features:
        return "llvm.arm.neon.vtbl2"
    if machine == "x86_64" and "avx512bw" in features:
        return "llvm.x86.avx512.pshuf.b.512"
    if machine == "x86_64" and "avx2" in features:
        return "llvm.x86.avx2.pshuf.b"
    return ""


PRODUCT_BYTES = {
    "llvm.x86.avx512.vpdpbusd.512": 64,
    "llvm.x86.avx2.pmadd.ub.sw": 32,
    "llvm.aarch64.neon.sdot.v4i32.v16i8": 16,
    "": 0,
}
"""How many products of bytes an instruction adds up, by its name in LLVM.

The bytes of its first operand have no sign, or are below 128.
"""


def byte_products(machine: str, features: frozenset[str]) -> str:
    """Return LLVM's name for the instruction that adds up products of bytes, "" for none.

    Of several, it is the one that takes the most bytes.
    """
    if machine == "aarch64" and "asimddp" in features:
        return "llvm.aarch64.neon.sdot.v4i32.v16i8"
    if machine == "x86_64" and "avx512_vnni" in features:
        return "llvm.x86.avx512.vpdpbusd.512"
    if machine == "x86_64" and "avx2" in features:
        return "llvm.x86.avx2.pmadd.ub.sw"
    return ""


def has_wide_registers(machine: str, features: frozenset[str]) -> bool:
    """Tell whether there are 32 vector registers of 64 bytes."""
    return machine == "x86_64" and "avx512bw" in features
