"""The instruction sets that the kernels are compiled for, and which of them this processor has."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from collections.abc import Iterator
from typing import NamedTuple


class Target(NamedTuple):
    """One shared object: what LLVM and LLD are told, and what a processor must have to run it.

    Attributes
    ----------
    name : str
        Of the object, without ".so".
    triple, cpu, features : str
        The system, the processor and its extras, as LLVM names them.
    emulation : str
        The kind of object, as LLD names it.
    machine : str
        The architecture, as `machine` names it.
    needs : frozenset of str
        Of `cpu_features`.
    committed : bool
        Whether the object ships in the package.
    """

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
        """LLVM's name for the instruction that looks bytes up in a table of 16, "" for none."""
        return byte_lookup(self.machine, self.needs)


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


def _x86(name: str, cpu: str, needs: str = "") -> Target:
    triple, kind = "x86_64-unknown-linux-gnu", "elf_x86_64"
    return Target(name, triple, cpu, "", kind, "x86_64", frozenset(needs.split()))


def _aarch64(name: str, cpu: str, needs: str = "", ship: bool = True) -> Target:
    triple, kind = "aarch64-unknown-linux-gnu", "aarch64linux"
    return Target(name, triple, cpu, "", kind, "aarch64", frozenset(needs.split()), ship)


def _arm(name: str, cpu: str, needs: str, features: str = "", ship: bool = True) -> Target:
    # With the vendor, or LLVM takes the environment for the system: the object then says soft
    # float and is refused.
    triple, kind = f"{name}-unknown-linux-gnueabihf", "armelf_linux_eabi"
    return Target(name, triple, cpu, features, kind, "arm", frozenset(needs.split()), ship)


def _riscv64(name: str, needs: str, features: str) -> Target:
    triple, cpu, kind = "riscv64-unknown-linux-gnu", "generic-rv64", "elf64lriscv"
    return Target(name, triple, cpu, features, kind, "riscv64", frozenset(needs.split()), False)


V3 = "abm avx2 bmi1 bmi2 f16c fma movbe"
V4 = V3 + " avx512f avx512bw avx512cd avx512dq avx512vl"

NEVER = "never"
"""A feature that no processor has: the object must be asked for by name."""

# The best come first: the loader takes the first one that the processor can run.
_TARGETS = (
    _x86("x86-64-vnni", "cascadelake", V4 + " avx512_vnni"),
    _x86("x86-64-v3", "x86-64-v3", V3),
    _x86("x86-64", "x86-64"),
    _aarch64("aarch64-dotprod", "cortex-a76", "asimddp"),
    _aarch64("aarch64", "generic"),
    _aarch64("aarch64-a72", "cortex-a72", NEVER, ship=False),
    _aarch64("aarch64-a53", "cortex-a53", NEVER, ship=False),
    _arm("armv7", "generic", "neon v7", "+neon,+vfp3"),
    _arm("armv6", "arm1176jzf-s", "vfp v6", ship=False),
    _riscv64("riscv64-v", "v", "+m,+a,+f,+d,+c,+v"),
    _riscv64("riscv64", "", "+m,+a,+f,+d,+c"),
)
TARGETS = {target.name: target for target in _TARGETS}


@functools.cache
def machine() -> str:
    """Return the architecture of this process, which need not be that of the system's kernel.

    x86_64, aarch64, arm, riscv64, or what the system says of another one.
    """
    found = platform.machine().lower()
    bits = ctypes.sizeof(ctypes.c_void_p) * 8
    if bits == 64:
        return {"amd64": "x86_64", "arm64": "aarch64"}.get(found, found)
    if found.startswith(("arm", "aarch64")):
        return "arm"
    return found + "-32"


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return what this processor can do, as far as targets need it.

    Flags of /proc/cpuinfo on x86, bits of getauxval on ARM and RISC-V; nothing where the system is
    not Linux.
    """
    if not sys.platform.startswith("linux"):
        return frozenset()
    if machine() == "x86_64":
        return _cpuinfo_flags()
    return frozenset(_auxiliary_features())


def _cpuinfo_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo") as info:
            line = next((line for line in info if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(line.split(":")[-1].split())


_AT_PLATFORM, _AT_HWCAP = 15, 16  # of getauxval
_HWCAP_BITS = {
    "aarch64": {"asimddp": 20},
    "arm": {"vfp": 6, "neon": 12},
    "riscv64": {"v": ord("v") - ord("a")},
}


def _auxiliary_features() -> Iterator[str]:
    """Yield the features that the kernel tells a process on ARM or RISC-V."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    capabilities = getauxval(_AT_HWCAP)
    for name, bit in _HWCAP_BITS.get(machine(), {}).items():
        if capabilities >> bit & 1:
            yield name
    if machine() == "arm":
        getauxval.restype = ctypes.c_char_p
        version = (getauxval(_AT_PLATFORM) or b"")[:2]  # "v7" of "v7l"
        if version not in (b"v4", b"v5"):
            yield "v6"
            if version != b"v6":
                yield "v7"


def runnable() -> list[Target]:
    """Return the targets that this process can run, the best first."""
    if not sys.platform.startswith("linux"):
        return []
    here, features = machine(), cpu_features()
    targets = TARGETS.values()
    return [target for target in targets if target.machine == here and target.needs <= features]
