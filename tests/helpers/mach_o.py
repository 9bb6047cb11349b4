"""Run the machine code of a Mach-O dylib on Linux: what it computes needs nothing of macOS.

    python tests/helpers/mach_o.py tinyrwkv/native/macos-arm64.dylib    print what its trial answers

Copies the segments into memory and writes the addresses of the C library's functions where the code
looks for them. macOS passes the one argument of the kernels as Linux does, on both processors.
"""

from __future__ import annotations

import ctypes
import mmap
import pathlib
import struct
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tinyrwkv.native import trial
from tinyrwkv.native.load import SYMBOL

SEGMENT, SYMTAB, DYSYMTAB = 0x19, 0x2, 0xB
ADDRESSES = {6, 7}  # kinds of sections: addresses of functions, known at once or when called
PLAIN = {"bzero": "bzero", "__bzero": "bzero"}  # macOS's names: Linux's


class Segment(NamedTuple):
    place: int
    offset: int
    size: int
    sections: list[tuple[int, int, int, int]]  # address, bytes, kind, first indirect symbol


class Image:
    """A dylib in memory, ready to run."""

    def __init__(self, path: pathlib.Path) -> None:
        self.data = path.read_bytes()
        (count,) = struct.unpack_from("<I", self.data, 16)
        self.commands, at = [], 32
        for _ in range(count):
            command, size = struct.unpack_from("<II", self.data, at)
            self.commands.append((command, at))
            at += size
        segments = [self._segment(at) for command, at in self.commands if command == SEGMENT]
        rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        end = max(segment.place + segment.size for segment in segments)
        self.memory = mmap.mmap(-1, end, prot=rights)
        self.begin = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for segment in segments:
            code = self.data[segment.offset : segment.offset + segment.size]
            self.memory[segment.place : segment.place + len(code)] = code
        for segment in segments:
            self._bind(segment)

    def _segment(self, at: int) -> Segment:
        place, _, offset, size, _, _, count, _ = struct.unpack_from("<4Q4I", self.data, at + 24)
        sections = []
        for i in range(count):
            about = at + 72 + 80 * i
            address, length = struct.unpack_from("<2Q", self.data, about + 32)
            flags, first = struct.unpack_from("<2I", self.data, about + 64)
            sections.append((address, length, flags & 0xFF, first))
        return Segment(place, offset, size, sections)

    def _place(self, command: int) -> int:
        return next(at for found, at in self.commands if found == command)

    def symbols(self) -> Iterator[tuple[str, int]]:
        """Yield name and address of each symbol; the address is 0 if it is needed from outside."""
        start, count, names, _ = struct.unpack_from("<4I", self.data, self._place(SYMTAB) + 8)
        for i in range(count):
            name, _, _, _, address = struct.unpack_from("<IBBHQ", self.data, start + 16 * i)
            begin = names + name
            yield self.data[begin : self.data.index(b"\0", begin)].decode()[1:], address

    def _bind(self, segment: Segment) -> None:
        """Write the addresses of the functions that the code needs."""
        library, symbols = ctypes.CDLL(None), list(self.symbols())
        (indirect,) = struct.unpack_from("<I", self.data, self._place(DYSYMTAB) + 56)
        for place, length, kind, first in segment.sections:
            for i in range(length // 8 if kind in ADDRESSES else 0):
                (symbol,) = struct.unpack_from("<I", self.data, indirect + 4 * (first + i))
                name = symbols[symbol][0]
                if name != "yld_stub_binder":  # what would bind those that are not bound here
                    function = getattr(library, PLAIN.get(name, name))
                    address = ctypes.cast(function, ctypes.c_void_p).value or 0
                    self.memory[place + 8 * i : place + 8 * i + 8] = address.to_bytes(8, "little")

    def run(self) -> Any:
        """Return the kernels' ``run``."""
        address = self.begin + dict(self.symbols())[SYMBOL]
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


if __name__ == "__main__":
    image = Image(pathlib.Path(sys.argv[1]))
    print(trial.answer(image.run()))
