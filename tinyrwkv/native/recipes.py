"""How the object of each target is compiled: what LLVM and LLD are told."""

from __future__ import annotations

from typing import NamedTuple

from .processor import MACOS, byte_lookup, byte_products, has_wide_registers
from .targets import FIRMWARE, TARGETS, Target

FAST, LEAN, SMALL, TINY = "fast", "lean", "small", "tiny"
"""What LLVM may spend bytes on.

FAST is all that it does by itself. LEAN does not repeat the bodies of loops: a quarter fewer bytes
at the same speed on x86, because the loops that matter are unrolled in ``kernels/simd.py``. SMALL
is half the bytes, and a token takes 1.3 times as long. TINY is for chips without vectors.
"""


class Recipe(NamedTuple):
    """How one target is compiled.

    Attributes
    ----------
    target : Target
    triple, cpu, features : str
        The system, the processor and its extras, as LLVM names them.
    emulation : str
        The kind of object, as the linker names it.
    committed : bool
        Whether the object ships in the package.
    tuning : str
        FAST, LEAN, SMALL or TINY.
    """

    target: Target
    triple: str
    cpu: str
    features: str
    emulation: str
    committed: bool
    tuning: str = FAST

    @property
    def name(self) -> str:
        """The name of the target."""
        return self.target.name

    @property
    def bare_metal(self) -> bool:
        """Whether it is for a chip of one core without a system: a firmware links the object."""
        return self.target.system == FIRMWARE

    @property
    def has_reduction(self) -> bool:
        """Whether LLVM compiles its reduction intrinsic well: with vectors, except on x86."""
        return self.target.machine == "aarch64" or not self.target.needs.isdisjoint(("neon", "v"))

    @property
    def is_wide(self) -> bool:
        """Whether the target has 32 vector registers of 64 bytes."""
        return has_wide_registers(self.target.machine, self.target.needs)

    @property
    def products(self) -> str:
        """LLVM's name for the instruction that adds up products of bytes, "" for none."""
        # macOS tells of no features, and its target needs none: every Mac for ARM has these.
        every_mac = {"asimddp"} if self.target.system == MACOS else set()
        return byte_products(self.target.machine, self.target.needs | every_mac)

    @property
    def lookup(self) -> str:
        """LLVM's name for the instruction that looks bytes up in a table of 16, "" for none."""
        return byte_lookup(self.target.machine, self.target.needs)


def _x86(name: str, cpu: str) -> Recipe:
    triple, kind = "x86_64-unknown-linux-gnu", "elf_x86_64"
    return Recipe(TARGETS[name], triple, cpu, "", kind, True, LEAN)


def _aarch64(name: str, cpu: str, committed: bool = True) -> Recipe:
    return Recipe(TARGETS[name], "aarch64-unknown-linux-gnu", cpu, "", "aarch64linux", committed)


def _arm(name: str, cpu: str, features: str = "", committed: bool = True) -> Recipe:
    # With the vendor, or LLVM takes the environment for the system: the object then says soft
    # float and is refused.
    triple = f"{name}-unknown-linux-gnueabihf"
    return Recipe(TARGETS[name], triple, cpu, features, "armelf_linux_eabi", committed)


def _riscv64(name: str, features: str) -> Recipe:
    triple, cpu, kind = "riscv64-unknown-linux-gnu", "generic-rv64", "elf64lriscv"
    return Recipe(TARGETS[name], triple, cpu, features, kind, False)


def _windows(name: str, cpu: str) -> Recipe:
    return Recipe(TARGETS[name], "x86_64-pc-windows-gnu", cpu, "", "x64", True, LEAN)


def _macos(name: str, machine: str, cpu: str, tuning: str) -> Recipe:
    # macOS 11 is the first for ARM.
    triple, kind = f"{machine}-apple-macosx11.0.0", f"{machine}-macos.11.0"
    return Recipe(TARGETS[name], triple, cpu, "", kind, True, tuning)


def _cortex_m(name: str, architecture: str, features: str) -> Recipe:
    # gnueabihf, or LLVM calls memset by the name that ARM has for it.
    triple, kind = f"{architecture}-unknown-none-gnueabihf", "armelf_linux_eabi"
    return Recipe(TARGETS[name], triple, name, features, kind, False, TINY)


def _riscv32(name: str, features: str) -> Recipe:
    triple, cpu, kind = "riscv32-unknown-none-elf", "generic-rv32", "elf32lriscv"
    return Recipe(TARGETS[name], triple, cpu, features, kind, False, TINY)


_RECIPES = (
    _x86("x86-64-vnni", "cascadelake"),
    _x86("x86-64-v3", "x86-64-v3"),
    _x86("x86-64", "x86-64"),
    _aarch64("aarch64-dotprod", "cortex-a76"),
    _aarch64("aarch64", "generic"),
    _aarch64("aarch64-a72", "cortex-a72", committed=False),
    _aarch64("aarch64-a53", "cortex-a53", committed=False),
    _arm("armv7", "generic", "+neon,+vfp3"),
    _arm("armv6", "arm1176jzf-s", committed=False),
    _riscv64("riscv64-v", "+m,+a,+f,+d,+c,+v"),
    _riscv64("riscv64", "+m,+a,+f,+d,+c"),
    _windows("windows-x86-64-v3", "x86-64-v3"),
    _macos("macos-arm64", "aarch64", "apple-m1", LEAN),
    _macos("macos-x86-64-v3", "x86_64", "x86-64-v3", SMALL),
    # Kernels use no double precision. Without its registers, one object fits both kinds of M7.
    _cortex_m("cortex-m7", "thumbv7em", "-fp64"),
    _cortex_m("cortex-m33", "thumbv8m.main", ""),
    _riscv32("riscv32", "+m,+f,+c"),
)
RECIPES = {recipe.name: recipe for recipe in _RECIPES}
