"""Find the members of a zip archive of uncompressed files, as torch.save writes it."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file.table import show

from .source import FETCH, InputFile

# The directory of a real checkpoint has some 70 bytes per tensor; a hostile one becomes many objects.
MAX_DIRECTORY = 2 << 20

_END = struct.Struct(
    "<4s4H2LH"
)  # signature, 2 disks, 2 counts, directory size, its offset, comment length
_END64_PLACE = struct.Struct("<4sLQL")  # signature, disk, offset of the record below, disks
_END64 = struct.Struct("<4sQ2H2L4Q")  # signature, ..., 2 counts, directory size, its offset
_ENTRY = struct.Struct("<4s6H3L5H2L")  # signature, ..., offset of the member's own header
_LOCAL = struct.Struct("<4s5H3L2H")  # signature, ..., name length, extra length
_FULL = 0xFFFFFFFF  # stands for a number that is kept, with 64 bits, in the extra field
_RESAVE = "load it with PyTorch and save it again with torch.save"


class Member(NamedTuple):
    """What the directory says of a member: `header` is the offset of the member's own header."""

    method: int
    flags: int
    crc: int
    stored: int
    size: int
    header: int


class Zip:
    """The members of an archive, checked when they are first used.

    Parameters
    ----------
    file : InputFile

    Raises
    ------
    FormatError
        The directory at the end of the file is cut or damaged.
    """

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self._checked: set[str] = set()
        offset, size = self._directory()
        if size > MAX_DIRECTORY:
            raise FormatError(
                file.path, "zip directory", f"{size} bytes", f"at most {MAX_DIRECTORY}", _RESAVE
            )
        try:
            self.members = self._entries(file.read(offset, size, "zip directory").tobytes())
        except (struct.error, ValueError) as error:
            raise FormatError(
                file.path, "zip directory", show(str(error)), "a whole one", FETCH
            ) from error

    def _directory(self) -> tuple[int, int]:
        """Return (offset, size) of the directory from the record at the end of the file."""
        tail_bytes = min(self.file.size, _END.size + 0xFFFF)
        tail = self.file.read(self.file.size - tail_bytes, tail_bytes, "zip archive").tobytes()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or at + _END.size > len(tail):
            raise FormatError(
                self.file.path, "zip archive", "no directory at its end", "one", FETCH
            )
        *_, size, offset, _ = _END.unpack_from(tail, at)
        if at >= _END64_PLACE.size and tail.startswith(b"PK\6\7", at - _END64_PLACE.size):
            _, _, place, _ = _END64_PLACE.unpack_from(tail, at - _END64_PLACE.size)
            record = self.file.read(place, _END64.size, "zip directory").tobytes()
            signature, *_, size, offset = _END64.unpack(record)
            if signature != b"PK\6\6":
                raise FormatError(
                    self.file.path, "zip directory", f"the signature {signature!r}", "PK 6 6", FETCH
                )
        return offset, size

    def _entries(self, data: bytes) -> dict[str, Member]:
        members: dict[str, Member] = {}
        at = 0
        while at < len(data):
            (
                signature,
                _,
                _,
                flags,
                method,
                _,
                _,
                crc,
                stored,
                size,
                names,
                extras,
                comments,
                *_,
                header,
            ) = _ENTRY.unpack_from(data, at)
            end = at + _ENTRY.size + names
            name = data[at + _ENTRY.size : end].decode("utf-8")
            if signature != b"PK\1\2" or end + extras + comments > len(data):
                raise ValueError(f"a damaged entry at byte {at}")
            size, stored, header = _widen(data[end : end + extras], size, stored, header)
            if name in members:
                raise ValueError(f"two members {name}")
            members[name] = Member(method, flags, crc, stored, size, header)
            at = end + extras + comments
        return members

    def place(self, name: str) -> tuple[int, int]:
        """Return (offset, size) of the bytes of a member, their checksum verified the first time.

        Raises
        ------
        FormatError
            There is no such member, or it is damaged.
        UnsupportedError
            It is compressed or encrypted.
        """
        what, path, member = f"member {show(name)}", self.file.path, self.members.get(name)
        if member is None:
            raise FormatError(path, what, "nothing", "it in the archive", FETCH)
        if member.method or member.flags & 1:
            found = (
                "encrypted bytes"
                if member.flags & 1
                else f"bytes compressed by method {member.method}"
            )
            raise UnsupportedError(path, what, found, "bytes stored as they are", _RESAVE)
        signature, *_, names, extras = _LOCAL.unpack(
            self.file.read(member.header, _LOCAL.size, what).tobytes()
        )
        offset = member.header + _LOCAL.size + names + extras
        if signature != b"PK\3\4" or member.stored != member.size:
            raise FormatError(
                path, what, "a damaged header", "one that agrees with the directory", FETCH
            )
        if name not in self._checked:
            self._check(what, offset, member)
            self._checked.add(name)
        return offset, member.size

    def _check(self, what: str, offset: int, member: Member) -> None:
        crc, end = 0, offset + member.size
        for start in range(offset, end, 1 << 20):
            crc = zlib.crc32(self.file.read(start, min(1 << 20, end - start), what).data, crc)
        # PyTorch writes zeros where it was told not to compute checksums.
        if member.crc not in (0, crc):
            raise FormatError(self.file.path, what, f"CRC-32 {crc:08x}", f"{member.crc:08x}", FETCH)

    def read(self, name: str, limit: int) -> bytes:
        """Return the bytes of a member of at most `limit` bytes."""
        if (member := self.members.get(name)) is not None and member.size > limit:
            raise UnsupportedError(
                self.file.path, name, f"{member.size} bytes", f"at most {limit}", _RESAVE
            )
        return self.file.read(*self.place(name), f"member {show(name)}").tobytes()


def _widen(extra: bytes, *numbers: int) -> list[int]:
    """Replace the numbers that did not fit 32 bits by those of the extra field with id 1."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(
                struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4)
            )
            return [next(wide, _FULL) if n == _FULL else n for n in numbers]
        at += 4 + length
    return list(numbers)
