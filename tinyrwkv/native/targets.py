"""The instruction sets that the kernels are compiled for, and which of them this processor has."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from typing import NamedTuple

from .processor import LINUX, MACOS, WINDOWS, machine, system


class Target(NamedTuple):
    """One shared object, and what a system and its processor must have to run it.

    Attributes
    ----------
    name : str
        Of the object, without the ending of its file.
    system : str
        The operating system, as `system` names it.
    machine : str
        The architecture, as `machine` names it.
    needs : frozenset of str
        Of `cpu_features`.
    """

    name: str
    system: str
    machine: str
    needs: frozenset[str]

    @property
    def file(self) -> str:
        """The name of the object's file."""
        return self.name + ENDINGS[self.system]


FIRMWARE = "firmware"
"""Instead of a system: no process runs the object, which becomes part of a firmware."""

ENDINGS = {LINUX: ".so", WINDOWS: ".dll", MACOS: ".dylib", FIRMWARE: ".o"}
"""How the files of objects end for each system."""

V3 = "abm avx2 bmi1 bmi2 f16c fma movbe"
V4 = V3 + " avx512f avx512bw avx512cd avx512dq avx512vl"

NEVER = "never"
"""A feature that no processor has: the object must be asked for by name."""

# The best come first: the loader takes the first one that the processor can run.
_NEEDS = (
    ("x86-64-vnni", LINUX, "x86_64", V4 + " avx512_vnni"),
    ("x86-64-v3", LINUX, "x86_64", V3),
    ("x86-64", LINUX, "x86_64", ""),
    ("aarch64-dotprod", LINUX, "aarch64", "asimddp"),
    ("aarch64", LINUX, "aarch64", ""),
    ("aarch64-a72", LINUX, "aarch64", NEVER),
    ("aarch64-a53", LINUX, "aarch64", NEVER),
    ("armv7", LINUX, "arm", "neon v7"),
    ("armv6", LINUX, "arm", "vfp v6"),
    ("riscv64-v", LINUX, "riscv64", "v"),
    ("riscv64", LINUX, "riscv64", ""),
    # These systems tell of AVX2 only; the other extensions of V3 came before it or with it.
    ("windows-x86-64-v3", WINDOWS, "x86_64", "avx2"),
    ("macos-arm64", MACOS, "aarch64", ""),
    ("macos-x86-64-v3", MACOS, "x86_64", "avx2"),
    ("cortex-m7", FIRMWARE, "arm", ""),
    ("cortex-m33", FIRMWARE, "arm", ""),
    ("riscv32", FIRMWARE, "riscv32", ""),
)
TARGETS = {
    name: Target(name, system, machine, frozenset(needs.split()))
    for name, system, machine, needs in _NEEDS
}


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return what this processor can do, as far as targets need it.

    Flags of /proc/cpuinfo on x86, bits of getauxval on ARM and RISC-V; AVX2 alone on Windows and
    macOS; nothing on other systems.
    """
    if system() == LINUX and machine() == "x86_64":
        return _cpuinfo_flags()
    if system() == LINUX:
        return frozenset(_auxiliary_features())
    has_avx2 = machine() == "x86_64" and _has_avx2()
    return frozenset({"avx2"} if has_avx2 else ())


_PF_AVX2_INSTRUCTIONS_AVAILABLE = 40  # of IsProcessorFeaturePresent


def _has_avx2() -> bool:
    """Tell whether Windows or macOS lets a process use AVX2."""
    if system() == WINDOWS:
        kernel32 = ctypes.CDLL("kernel32")
        return bool(kernel32.IsProcessorFeaturePresent(_PF_AVX2_INSTRUCTIONS_AVAILABLE))
    if system() == MACOS:
        found = ctypes.c_int(0)
        size = ctypes.c_size_t(ctypes.sizeof(found))
        name = b"hw.optional.avx2_0"
        ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(found), ctypes.byref(size), None, None)
        return bool(found.value)
    return False


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
    here, features = (system(), machine()), cpu_features()
    targets = [target for target in TARGETS.values() if (target.system, target.machine) == here]
    return [target for target in targets if target.needs <= features]


def is_known() -> bool:
    """Tell whether any target is for this system, on whatever processor."""
    return any(target.system == system() for target in TARGETS.values())
