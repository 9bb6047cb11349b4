"""The instruction sets that the kernels are compiled for, and which of them this processor has."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from collections.abc import Iterator
from typing import NamedTuple


class Target(NamedTuple):
    """One shared object: what LLVM and LLD are told, and what a processor must have to run it."""

    name: str
    triple: str
    cpu: str
    features: str
    emulation: str
    machine: str
    needs: frozenset[str]
    committed: bool = True

    @property
    def has_reduction(self) -> bool:
        """Whether LLVM compiles its reduction intrinsic well: with vectors, except on x86."""
        return self.machine == "aarch64" or "neon" in self.needs or "v" in self.needs

    @property
    def lookup(self) -> str:
        """LLVM's name for the instruction that takes bytes from a table of 16; "" where there is none."""
        return byte_lookup(self.machine, self.needs)


def byte_lookup(machine: str, features: frozenset[str]) -> str:
    """Return LLVM's name for the instruction that takes the most bytes from a table of 16 at once, "" for none."""
    if machine == "aarch64":
        return "llvm.aarch64.neon.tbl1.v16i8"
    if machine == "arm":
        return "llvm.arm.neon.vtbl2" if "neon" in features else ""
    x86 = {"avx512bw": "llvm.x86.avx512.pshuf.b.512", "avx2": "llvm.x86.avx2.pshuf.b"}
    return next(
        (name for feature, name in x86.items() if machine == "x86_64" and feature in features), ""
    )


def _target(
    name: str,
    triple: str,
    cpu: str,
    emulation: str,
    machine: str,
    needs: str = "",
    features: str = "",
    ship: bool = False,
) -> Target:
    return Target(name, triple, cpu, features, emulation, machine, frozenset(needs.split()), ship)


# With the vendor, or LLVM takes the environment for the system: an object for ARM then says soft float and is refused.
X86, ARM64 = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
ARM32, RISCV = "arm-unknown-linux-gnueabihf", "riscv64-unknown-linux-gnu"
V3 = "abm avx2 bmi1 bmi2 f16c fma movbe"
V4 = V3 + " avx512f avx512bw avx512cd avx512dq avx512vl"

# The best first: the loader takes the first that the processor can run.
TARGETS = {
    target.name: target
    for target in (
        _target(
            "x86-64-vnni",
            X86,
            "cascadelake",
            "elf_x86_64",
            "x86_64",
            V4 + " avx512_vnni",
            ship=True,
        ),
        _target("x86-64-v3", X86, "x86-64-v3", "elf_x86_64", "x86_64", V3, ship=True),
        _target("x86-64", X86, "x86-64", "elf_x86_64", "x86_64", ship=True),
        _target(
            "aarch64-dotprod", ARM64, "cortex-a76", "aarch64linux", "aarch64", "asimddp", ship=True
        ),
        _target("aarch64", ARM64, "generic", "aarch64linux", "aarch64", ship=True),
        _target("aarch64-a72", ARM64, "cortex-a72", "aarch64linux", "aarch64", "never"),
        _target("aarch64-a53", ARM64, "cortex-a53", "aarch64linux", "aarch64", "never"),
        _target(
            "armv7",
            ARM32.replace("arm-", "armv7-"),
            "generic",
            "armelf_linux_eabi",
            "arm",
            "neon v7",
            "+neon,+vfp3",
            True,
        ),
        _target(
            "armv6",
            ARM32.replace("arm-", "armv6-"),
            "arm1176jzf-s",
            "armelf_linux_eabi",
            "arm",
            "vfp v6",
        ),
        _target(
            "riscv64-v", RISCV, "generic-rv64", "elf64lriscv", "riscv64", "v", "+m,+a,+f,+d,+c,+v"
        ),
        _target("riscv64", RISCV, "generic-rv64", "elf64lriscv", "riscv64", "", "+m,+a,+f,+d,+c"),
    )
}


@functools.cache
def machine() -> str:
    """Return the architecture of this process (not of the kernel): x86_64, aarch64, arm, riscv64; others as told."""
    found = platform.machine().lower()
    bits = ctypes.sizeof(ctypes.c_void_p) * 8
    if bits == 32 and found.startswith(("arm", "aarch64")):
        return "arm"
    return (
        {"amd64": "x86_64", "arm64": "aarch64"}.get(found, found) if bits == 64 else found + "-32"
    )


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return what this processor can do: flags of /proc/cpuinfo on x86, bits of getauxval on ARM and RISC-V."""
    if not sys.platform.startswith("linux"):
        return frozenset()
    if machine() == "x86_64":
        try:
            with open("/proc/cpuinfo") as info:
                line = next((line for line in info if line.startswith("flags")), "")
        except OSError:
            line = ""
        return frozenset(line.split(":")[-1].split())
    return frozenset(_auxiliary_features())


def _auxiliary_features() -> Iterator[str]:
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    capabilities = getauxval(16)  # AT_HWCAP
    bits = {
        "aarch64": {"asimddp": 20},
        "arm": {"vfp": 6, "neon": 12},
        "riscv64": {"v": ord("v") - ord("a")},
    }
    for name, bit in bits.get(machine(), {}).items():
        if capabilities >> bit & 1:
            yield name
    if machine() == "arm":
        getauxval.restype = ctypes.c_char_p
        version = (getauxval(15) or b"")[:2]  # AT_PLATFORM, such as v7l
        yield from (
            () if version in (b"v4", b"v5") else ("v6",) if version == b"v6" else ("v6", "v7")
        )


def runnable() -> list[Target]:
    """Return the targets that this process can run, the best first."""
    if not sys.platform.startswith("linux"):
        return []
    return [t for t in TARGETS.values() if t.machine == machine() and t.needs <= cpu_features()]
