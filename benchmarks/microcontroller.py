"""Measure firmwares in QEMU, and estimate from that how fast real chips are.

    python benchmarks/microcontroller.py                        the bundled model
    python benchmarks/microcontroller.py --model a.trwkv b.trwkv

Measured: bytes of code, constants and RAM (from the map file of the linker), the deepest stack
(from the paint on it), and instructions for a token (QEMU's clock, which ``-icount shift=0`` lets
advance by one nanosecond with each instruction). The seconds on chips are an estimate:

    seconds = instructions / (instructions per second) + bytes read / (bytes per second of the bus)

with one instruction per cycle, and with the bus at its highest speed. Needs what
examples/microcontroller/build.py needs, and qemu-system-arm and qemu-system-riscv32.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tests.helpers.firmware import Answer, build, run, sizes_of
from tinyrwkv import load
from tinyrwkv.kernels.abi import MAX_TOKENS
from tinyrwkv.loading import BUNDLED

PROMPT = "please go forward two meters and then turn left"
NANOSECONDS = {"mps2-an500": 40, "virt-riscv32": 1}
"""Nanoseconds of a tick of each board's clock, which are its instructions."""


class Chip(NamedTuple):
    """A chip, and the memory that the model and the states lie in.

    Attributes
    ----------
    name : str
    board : str
        The emulated board whose instructions count for it.
    megahertz : float
    bus : float
        Megabytes per second.
    told : str
        What the speed of the bus follows from.
    """

    name: str
    board: str
    megahertz: float
    bus: float
    told: str


CHIPS = (
    Chip("STM32H735", "mps2-an500", 550, 200, "octal DDR at 100 MHz"),
    Chip("i.MX RT1170", "mps2-an500", 1000, 332, "octal DDR at 166 MHz"),
    Chip("RP2350", "mps2-an500", 150, 37.5, "quad SDR at 75 MHz"),
    Chip("ESP32-P4", "virt-riscv32", 400, 185, "PSRAM to SRAM, as users measured"),
)


class Measured(NamedTuple):
    """What one firmware needs; bytes, instructions for a token, tokens of prompt and answer."""

    board: str
    code: int
    constants: int
    ram: int
    stack: int
    prompt: float
    token: float
    read: int
    tokens: tuple[int, int]


def measure(board: str, model_path: str, folder: pathlib.Path) -> Measured:
    """Build a firmware, and let it answer a line."""
    command = build(board, model_path, folder)
    _, said = run(command, [PROMPT.encode()], "-icount", "shift=0")
    answer = next(one for one in said if isinstance(one, Answer))
    sizes, unit = sizes_of(folder), NANOSECONDS[board]
    with load(model_path, backend="native") as model:
        prompt = 1 + len(model.tokenizer.encode(f"User: {PROMPT}\n\nAssistant:"))
        plan = model.plan()
        model.forward(answer.ids[:-1])  # in one call of the kernels
        chosen = sum(one.touched for one in model.reader.workspaces) / (len(answer.ids) - 1)
    states = 3 * plan["state_bytes"]  # read twice, written once
    return Measured(
        *(board, sizes[".text"], sizes[".rodata"], sizes[".bss"], answer.stack),
        *(answer.prompt * unit / prompt, answer.token * unit),
        plan["touched_bytes_per_token"] + round(chosen) + states,
        (prompt, len(answer.ids) - 1),  # the last one is not read
    )


def main() -> int:
    """Print two tables for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=[BUNDLED], metavar="FILE")
    for path in parser.parse_args().model:
        found = {}
        for board in NANOSECONDS:
            with tempfile.TemporaryDirectory() as folder:
                found[board] = measure(board, path, pathlib.Path(folder))
        _print(pathlib.Path(path).name, found)
    return 0


def _print(name: str, found: dict[str, Measured]) -> None:
    print(f"\n{name}: measured")
    print(
        "| board | code | constants | RAM | stack | prompt, instr./token | answer, instr./token |"
    )
    print("|---|---|---|---|---|---|---|")
    for one in found.values():
        sizes = f"{one.code:,} | {one.constants:,} | {one.ram:,} | {one.stack:,}"
        print(f"| {one.board} | {sizes} | {one.prompt / 1e6:.1f} M | {one.token / 1e6:.1f} M |")
    print(f"\n{name}: estimated")
    print(
        "| chip | MHz | bus | bytes read | instructions, s | bus, s | a token, s | the order, s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for chip in CHIPS:
        one = found[chip.board]
        compute, bus = one.token / chip.megahertz / 1e6, one.read / chip.bus / 1e6
        prompt, answer = one.tokens
        order = prompt * one.prompt / chip.megahertz / 1e6 + answer * (compute + bus)
        order += -(-prompt // MAX_TOKENS) * bus
        about = f"{chip.megahertz:g} | {chip.bus:g} MB/s ({chip.told}) | {one.read / 1e6:.1f} MB"
        seconds = f"{compute:.3f} | {bus:.3f} | {compute + bus:.2f} | {order:.1f}"
        print(f"| {chip.name} | {about} | {seconds} |")


if __name__ == "__main__":
    sys.exit(main())
