"""Make a firmware that answers lines on a serial port, for a board that QEMU emulates.

    python examples/microcontroller/build.py                     a Cortex-M7, the bundled model
    python examples/microcontroller/build.py virt-riscv32        a RISC-V of 32 bits

This needs ``pip install "tinyrwkv[native]"`` (Numba, llvmlite, and ziglang, which has a C compiler
and a linker). It exports the model as ``tinyrwkv-convert model.trwkv firmware/ --mcu TARGET``
does, compiles the C files beside it, links them, and prints the command that starts QEMU.
docs/microcontroller.md tells how to write the three files of another board.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import subprocess
import sys
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from converters.export.mcu.export import export_mcu  # noqa: E402
from tinyrwkv.errors import TinyRWKVError, UnsupportedError, os_errors  # noqa: E402
from tinyrwkv.loading import BUNDLED  # noqa: E402

FLAGS = (
    *(
        "-std=c99",
        "-Os",
        "-ffreestanding",
        "-fno-builtin",
        "-ffunction-sections",
        "-fdata-sections",
    ),
    *("-fno-stack-protector", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror"),
)
"""Of the compiler: plain C for a chip, and no warnings."""


class Board(NamedTuple):
    """One board: its C file and linker script have its name.

    Attributes
    ----------
    target : str
        Of ``tinyrwkv-convert --mcu``.
    compiler : tuple of str
        What clang is told about the processor.
    emulation : str
        The kind of firmware, as LLD names it.
    qemu : str
        What starts it, with ``{}`` in the place of the firmware.
    model : int
        Where the model file lies.
    """

    target: str
    compiler: tuple[str, ...]
    emulation: str
    qemu: str
    model: int


BOARDS = {
    "mps2-an500": Board(
        "cortex-m7",
        ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m7-fp64+fp_armv8d16sp"),
        "armelf",
        "qemu-system-arm -M mps2-an500 -nographic -semihosting",
        0x60000000,
    ),
    "virt-riscv32": Board(
        "riscv32",
        ("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+f+c"),
        "elf32lriscv",
        "qemu-system-riscv32 -M virt -m 16M -bios none -nographic",
        0x22000000,
    ),
}


def build(board: str, model: str, folder: pathlib.Path, trace: bool = False) -> list[str]:
    """Make a firmware; return the command that starts it.

    Parameters
    ----------
    board : str
        One of `BOARDS`.
    model : str
        A .trwkv file.
    folder : pathlib.Path
        Where everything is written.
    trace : bool, optional
        Whether the firmware tells its tokens, a checksum of all logits, and its stack.

    Raises
    ------
    TinyRWKVError
        The model cannot be exported, or the C files cannot be compiled.
    """
    about, name = BOARDS[board], board.replace("-", "_")
    with os_errors(str(folder), "write"):
        folder.mkdir(parents=True, exist_ok=True)
    export_mcu(model, folder, about.target)
    objects = [folder / "rwkv_kernels.o"]
    for source in ("rwkv", "main", name):
        objects.append(folder / f"{source}.o")
        options = [*about.compiler, *FLAGS, f"-DTRACE={int(trace)}", f"-I{folder}"]
        _zig("cc", *options, "-c", HERE / f"{source}.c", "-o", objects[-1])
    firmware = folder / "firmware.elf"
    script = ("-T", HERE / f"{name}.ld", "-L", HERE, "-Map", folder / "firmware.map")
    _zig("ld.lld", "-m", about.emulation, "--gc-sections", *script, *objects, "-o", firmware)
    loader = f"loader,file={folder / 'model.trwkv'},addr={about.model:#x},force-raw=on"
    return [*about.qemu.split(), "-kernel", str(firmware), "-device", loader]


def _zig(*arguments: object) -> None:
    """Run a tool of the package ziglang."""
    command = [sys.executable, "-m", "ziglang", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        found = done.stderr.strip()
        fix = 'pip install "tinyrwkv[native]"; if it is installed, report this'
        sentence = f"ziglang {arguments[0]} failed: {found}"
        raise UnsupportedError("build.py", "compiler", found, "an object", fix, sentence)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("board", nargs="?", choices=BOARDS, default="mps2-an500")
    parser.add_argument("--model", default=BUNDLED, metavar="FILE", help="a .trwkv file")
    parser.add_argument("--output", type=pathlib.Path, metavar="FOLDER", help="build/BOARD")
    parser.add_argument("--trace", action="store_true", help="tell tokens, logits and the stack")
    arguments = parser.parse_args()
    folder = arguments.output or pathlib.Path("build") / arguments.board
    try:
        print(shlex.join(build(arguments.board, arguments.model, folder, arguments.trace)))
    except TinyRWKVError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
