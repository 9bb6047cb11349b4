"""Find the members of a zip archive of uncompressed files, as torch.save writes it."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from tinyrwkv.errors import FormatError, UnsupportedError, show

from .source import FETCH, InputFile

# A real checkpoint has some 70 bytes for a tensor here; a hostile directory becomes many objects.
MAX_DIRECTORY = 2 << 20

# The records of a zip archive; x stands for bytes that do not matter here.
_END = struct.Struct("<4s8xLL2x")  # signature, size of the directory, its offset
_END64_PLACE = struct.Struct("<4s4xQ4x")  # signature, offset of the record below
_END64 = struct.Struct("<4s36xQQ")  # signature, size of the directory, its offset
# signature, flags, method, CRC-32, stored size, size, lengths of name, extra field and comment,
# offset of the member's own header
_ENTRY = struct.Struct("<4s4x2H4x3L3H8xL")
_LOCAL = struct.Struct("<4s22x2H")  # signature, lengths of name and extra field

_FULL = 0xFFFFFFFF  # stands for a number that is kept, with 64 bits, in the extra field
_CHUNK = 1 << 20
_RESAVE = "load it with PyTorch and save it again with torch.save"


class Member(NamedTuple):
    """What the directory says of a member: `header` is the offset of the member's own header.

    Its bytes lie before `end`, where the next member or the directory begins.
    """

    method: int
    flags: int
    crc: int
    stored: int
    size: int
    header: int
    end: int


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
            found, expected = f"{size} bytes", f"at most {MAX_DIRECTORY}"
            sentence = f"{file.path}: the zip directory has {found}; {expected} can be read"
            raise FormatError(file.path, "zip directory", found, expected, _RESAVE, sentence)
        try:
            members = _entries(file.read(offset, size, "zip directory").tobytes())
            self.members = _apart(members, offset)
        except (struct.error, ValueError) as error:
            found = show(str(error))
            sentence = f"{file.path}: the zip directory is damaged: {found}"
            what, expected = "zip directory", "a whole one"
            raise FormatError(file.path, what, found, expected, FETCH, sentence) from error

    def _directory(self) -> tuple[int, int]:
        """Return (offset, size) of the directory from the record at the end of the file."""
        path = self.file.path
        nbytes = min(self.file.size, _END.size + 0xFFFF)  # the longest comment is behind the record
        suffix = self.file.read(self.file.size - nbytes, nbytes, "zip archive").tobytes()
        at = suffix.rfind(b"PK\5\6")
        if at < 0 or at + _END.size > len(suffix):
            found = "no directory at its end"
            sentence = f"{path}: the zip archive has {found}"
            raise FormatError(path, "zip archive", found, "one", FETCH, sentence)
        _, size, offset = _END.unpack_from(suffix, at)
        before = at - _END64_PLACE.size
        if before >= 0 and suffix.startswith(b"PK\6\7", before):
            _, place = _END64_PLACE.unpack_from(suffix, before)
            record = self.file.read(place, _END64.size, "zip directory").tobytes()
            signature, size, offset = _END64.unpack(record)
            if signature != b"PK\6\6":
                found = f"the signature {signature!r}"
                sentence = f"{path}: the zip directory begins with {found}, not PK 6 6"
                raise FormatError(path, "zip directory", found, "PK 6 6", FETCH, sentence)
        return offset, size

    def place(self, name: str) -> tuple[int, int]:
        """Return (offset, size) of the bytes of a member, their checksum verified the first time.

        Raises
        ------
        FormatError
            There is no such member, or it is damaged.
        UnsupportedError
            It is compressed or encrypted.
        """
        path, what = self.file.path, f"member {show(name)}"
        member = self.members.get(name)
        if member is None:
            sentence = f"{path}: the zip archive has no {what}"
            raise FormatError(path, what, "nothing", "it in the archive", FETCH, sentence)
        if member.method or member.flags & 1:
            is_encrypted = member.flags & 1
            found = "encrypted" if is_encrypted else f"compressed by method {member.method}"
            sentence = f"{path}: {what} is {found}"
            raise UnsupportedError(path, what, found, "stored as it is", _RESAVE, sentence)
        header = self.file.read(member.header, _LOCAL.size, what).tobytes()
        signature, name_bytes, extra_bytes = _LOCAL.unpack(header)
        offset = member.header + _LOCAL.size + name_bytes + extra_bytes
        is_apart = offset + member.size <= member.end
        if signature != b"PK\3\4" or member.stored != member.size or not is_apart:
            found, expected = "a damaged header", "one that agrees with the directory"
            sentence = f"{path}: {what} has {found}"
            raise FormatError(path, what, found, expected, FETCH, sentence)
        if name not in self._checked:
            self._check(what, offset, member)
            self._checked.add(name)
        return offset, member.size

    def _check(self, what: str, offset: int, member: Member) -> None:
        crc = 0
        end = offset + member.size
        for start in range(offset, end, _CHUNK):
            chunk = self.file.read(start, min(_CHUNK, end - start), what)
            crc = zlib.crc32(chunk.data, crc)
        # PyTorch writes zeros if it was told not to compute checksums.
        if member.crc not in (0, crc):
            found, expected = f"CRC-32 {crc:08x}", f"{member.crc:08x}"
            sentence = f"{self.file.path}: {what} has {found}, not {expected}"
            raise FormatError(self.file.path, what, found, expected, FETCH, sentence)

    def read(self, name: str, limit: int) -> bytes:
        """Return the bytes of a member of at most `limit` bytes."""
        member = self.members.get(name)
        if member is not None and member.size > limit:
            found, expected = f"{member.size} bytes", f"at most {limit}"
            sentence = f"{self.file.path}: member {show(name)} has {found}; {expected} can be read"
            raise UnsupportedError(self.file.path, name, found, expected, _RESAVE, sentence)
        offset, size = self.place(name)
        return self.file.read(offset, size, f"member {show(name)}").tobytes()


def _entries(data: bytes) -> dict[str, Member]:
    """Return the members in the bytes of a directory; ValueError or struct.error if damaged."""
    members: dict[str, Member] = {}
    at = 0
    while at < len(data):
        signature, flags, method, crc, stored, size, *lengths, header = _ENTRY.unpack_from(data, at)
        name_bytes, extra_bytes, comment_bytes = lengths
        name_end = at + _ENTRY.size + name_bytes
        extra_end = name_end + extra_bytes
        name = data[at + _ENTRY.size : name_end].decode("utf-8")
        if signature != b"PK\1\2" or extra_end + comment_bytes > len(data):
            raise ValueError(f"a damaged entry at byte {at}")
        size, stored, header = _widen(data[name_end:extra_end], size, stored, header)
        if name in members:
            raise ValueError(f"two members {name}")
        members[name] = Member(method, flags, crc, stored, size, header, 0)
        at = extra_end + comment_bytes
    return members


def _apart(members: dict[str, Member], directory: int) -> dict[str, Member]:
    """Return members with their ends; ValueError if two overlap each other or the directory.

    Overlapping members would let a small file stand for any number of large ones.
    """
    ends: dict[str, int] = {}
    end = directory
    for name, member in sorted(members.items(), key=lambda item: item[1].header, reverse=True):
        if member.header + _LOCAL.size + member.stored > end:
            raise ValueError(f"the member {name} overlaps what follows it")
        ends[name] = end
        end = member.header
    return {name: member._replace(end=ends[name]) for name, member in members.items()}


def _widen(extra: bytes, *numbers: int) -> list[int]:
    """Replace the numbers that did not fit 32 bits by those of the extra field with id 1."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            count = min(length, len(extra) - at - 4) // 8
            wide = iter(struct.unpack_from(f"<{count}Q", extra, at + 4))
            return [next(wide, _FULL) if n == _FULL else n for n in numbers]
        at += 4 + length
    return list(numbers)
