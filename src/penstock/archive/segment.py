"""Read and write a segment: many files in a `.tar.zst`, each readable alone. Pure.

    ① frame │ ① frame │ … │ ② end of tar │ ③ names │ ④ seek table

① a zstd frame with checksum: whole members of a POSIX tar, about a megabyte of them ② a frame with
the two empty blocks that end a tar ③ a skippable frame: `penstock`, then in zstd one line per
frame: `/NAME/NAME/…/`, in order ④ a skippable frame in zstd's seekable format: for each frame
before it, its bytes packed and raw

Other programs skip ③ and ④: `zstd -t` checks a segment, `tar --zstd -xf` unpacks it. Each member is
a ustar header behind a pax header, which holds its time to the nanosecond and whatever does not fit
into ustar: names over 100 characters, ids over 2,097,151.
"""

import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from penstock.errors import Halt

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdCompressor, ZstdError, decompress
else:
    from backports.zstd import CompressionParameter, ZstdCompressor, ZstdError, decompress

FRAME_BYTES = 1 << 20
_LEVEL = 3  # 0.18 of real tweets, 6.5 us a file; level 9: 0.15, 36 us
_TAIL_BYTES = 4 << 20  # one read brings the names of most segments: 9 bytes a file
_BLOCK = 512
_OCTAL_MAX = 0o7777777
_NAME_MAX = 100
_SIZE_MAX = 0o77777777777
_MOST = (_SIZE_MAX, _OCTAL_MAX, _OCTAL_MAX)
_TITLE = b"penstock"
_SKIPPABLE = struct.Struct("<II")  # magic, length
_NAMES_MAGIC, _TABLE_MAGIC = 0x184D2A50, 0x184D2A5E
_ENTRY, _FOOTER = struct.Struct("<II"), struct.Struct("<IBI")
_FOOTER_MAGIC = 0x8F92EAB1
_NANO = 1_000_000_000
_TEN_DIGITS = 10**9 * _NANO


class Member(NamedTuple):
    """One file of a segment, with its last modification in nanoseconds since 1970."""

    name: str
    mode: int
    modified_ns: int
    data: bytes


Owned = tuple[int, int, int]
"""Mode, owner and group of a file."""


class Writer:
    """Makes one segment, in parts: `add` files in the order of their names, then `end`."""

    def __init__(self) -> None:
        options: dict[int, int] = {
            CompressionParameter.compression_level: _LEVEL,
            CompressionParameter.checksum_flag: 1,
        }
        self._zstd = ZstdCompressor(options=options)
        self._parts: list[bytes] = []
        self._part_bytes = 0
        self._names: list[str] = []
        self._lines: list[str] = []
        self._table: list[bytes] = []
        self.raw_bytes = 0  # of the members, before compression

    def add(self, name: str, owned: Owned, modified_ns: int, data: bytes) -> bytes:
        """Add one file; return the next bytes of the segment, or none yet."""
        part = _header(name, owned, modified_ns, len(data))
        self._parts += (part, data, bytes(-len(data) % _BLOCK))
        self._part_bytes += len(part) + len(data)
        self.raw_bytes += len(part) + len(data)
        self._names.append(name)
        return self._end_frame() if self._part_bytes >= FRAME_BYTES else b""

    def _end_frame(self) -> bytes:
        if not self._names:
            return b""
        raw = b"".join(self._parts)
        self._lines.append(f"/{'/'.join(self._names)}/")
        self._parts, self._part_bytes, self._names = [], 0, []
        return self._frame(raw)

    def _frame(self, raw: bytes) -> bytes:
        packed = self._zstd.compress(raw, ZstdCompressor.FLUSH_FRAME)
        self._table.append(_ENTRY.pack(len(packed), len(raw)))
        return packed

    def end(self) -> bytes:
        """Return the rest: the last files, the end of the tar, the names and the seek table."""
        frames = self._end_frame() + self._frame(bytes(2 * _BLOCK))
        text = "\n".join(self._lines).encode()
        named = _TITLE + self._zstd.compress(text, ZstdCompressor.FLUSH_FRAME)
        names = _SKIPPABLE.pack(_NAMES_MAGIC, len(named)) + named
        self._table.append(_ENTRY.pack(len(names), 0))
        footer = _FOOTER.pack(len(self._table), 0, _FOOTER_MAGIC)
        table = b"".join(self._table) + footer
        return frames + names + _SKIPPABLE.pack(_TABLE_MAGIC, len(table)) + table


def _header(name: str, owned: Owned, modified_ns: int, size: int) -> bytes:
    """Return the two headers of a file, from templates because most of each never changes."""
    seconds, nanoseconds = divmod(abs(modified_ns), _NANO)
    sign = "-" if modified_ns < 0 else ""
    if _TEN_DIGITS <= modified_ns < 10 * _TEN_DIGITS:  # of seconds: any time since 2001
        pax = b"30 mtime=%d.%09d\n" % (seconds, nanoseconds)
    else:
        pax = _record("mtime", f"{sign}{seconds}.{nanoseconds:09d}")
    if len(name) > _NAME_MAX:
        pax += _record("path", name)
    for key, number, most in zip(("size", "uid", "gid"), (size, *owned[1:]), _MOST, strict=True):
        if number > most:
            pax += _record(key, str(number))
    whole_seconds = 0 if sign else min(seconds, _SIZE_MAX)
    octal = b"%011o\0%011o\0" % (min(size, _SIZE_MAX), whole_seconds)
    begin = name[:_NAME_MAX].encode().ljust(_NAME_MAX, b"\0") + _owner(owned) + octal
    return _pax_header(len(pax)) + pax + bytes(-len(pax) % _BLOCK) + _summed(begin, b"0")


def _record(key: str, value: str) -> bytes:
    """Return a pax record. It begins with its own length, which counts its own digits."""
    length = len(key) + len(value) + 3
    digits = len(str(length + len(str(length))))
    return f"{length + digits} {key}={value}\n".encode()


@lru_cache(maxsize=1024)
def _pax_header(size: int) -> bytes:
    begin = b"././@PaxHeader".ljust(_NAME_MAX, b"\0") + _owner((0o644, 0, 0))
    return _summed(begin + b"%011o\0%011o\0" % (size, 0), b"x")


@lru_cache(maxsize=1024)
def _owner(owned: Owned) -> bytes:
    mode, uid, gid = owned
    return b"%07o\0%07o\0%07o\0" % (mode & 0o7777, min(uid, _OCTAL_MAX), min(gid, _OCTAL_MAX))


_AFTER_TYPE = bytes(100) + b"ustar\x0000" + bytes(247)
_AFTER_SUM = 8 * ord(" ") + sum(_AFTER_TYPE)  # the sum itself counts as spaces


def _summed(begin: bytes, kind: bytes) -> bytes:
    """Add a header's checksum; for ASCII, the low half of Adler-32 is the sum plus one."""
    total = (zlib.adler32(begin) & 0xFFFF) - 1 + _AFTER_SUM + kind[0]
    return begin + b"%06o\0 " % total + kind + _AFTER_TYPE


class Segment:
    """Reads one segment, and only the parts that are needed.

    `read_at` returns exactly the bytes asked for; its errors pass through. `title` names the
    segment in errors. Raises Halt, here and later, if the segment is damaged.
    """

    def __init__(self, title: str, size_bytes: int, read_at: Callable[[int, int], bytes]) -> None:
        self.title = title
        self._read_at = read_at
        tail = self._read(max(0, size_bytes - _TAIL_BYTES), min(size_bytes, _TAIL_BYTES))
        table = self._table(tail)
        ends = [*accumulate(packed for packed, _ in table)]
        table_bytes = _SKIPPABLE.size + _ENTRY.size * len(table) + _FOOTER.size
        if len(ends) < 2 or ends[-1] + table_bytes != size_bytes:  # noqa: PLR2004  ② and ③
            raise self._damaged("its length does not match its seek table")
        self._frames = [*pairwise([0, *ends[:-2]])]
        begin = ends[-2] - (size_bytes - len(tail))
        packed = tail[begin : ends[-1] - (size_bytes - len(tail))] if begin >= 0 else b""
        packed = packed or self._read(ends[-2], ends[-1] - ends[-2])
        title_end = _SKIPPABLE.size + len(_TITLE)
        if packed[_SKIPPABLE.size : title_end] != _TITLE:
            raise self._damaged("it has no list of names")
        self._names = self._unpacked(packed[title_end:])

    def _table(self, tail: bytes) -> list[tuple[int, int]]:
        if len(tail) < _FOOTER.size:
            raise self._damaged("it is too short")
        frames, _, magic = _FOOTER.unpack(tail[-_FOOTER.size :])
        begin = len(tail) - _FOOTER.size - frames * _ENTRY.size
        if magic != _FOOTER_MAGIC or begin < 0:
            raise self._damaged("it has no seek table")
        return [*_ENTRY.iter_unpack(tail[begin : -_FOOTER.size])]

    def _read(self, at: int, size: int) -> bytes:
        data = self._read_at(at, size)
        if len(data) != size:
            raise self._damaged("it ends too early")
        return data

    def _unpacked(self, packed: bytes) -> bytes:
        try:
            return decompress(packed)
        except ZstdError as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> Halt:
        return Halt(
            f"read segment {self.title}: damaged: {why}; restore it from a copy, or move it away:"
            " `zstd -t` checks it, `tar --zstd -xf` saves what is readable"
        )

    def names(self) -> Iterator[str]:
        """Yield the names of all files, in order."""
        for line in self._names.decode().split("\n"):
            yield from filter(None, line.split("/"))

    def get(self, name: str) -> Member | None:
        """Return one file, or None if it is not in here; unpacks one frame."""
        at = self._names.find(f"/{name}/".encode())
        if at < 0:
            return None
        number = self._names.count(b"\n", 0, at)
        found = (member for member in self._members(number) if member.name == name)
        if (member := next(found, None)) is None:
            raise self._damaged(f"frame {number} has no {name}")
        return member

    def members(self, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[Member]:
        """Yield the files with wanted names, in order; unpacks only their frames."""
        for number, line in enumerate(self._names.decode().split("\n")):
            names = {name for name in line.split("/") if name and wanted(name)}
            if names:
                yield from (one for one in self._members(number) if one.name in names)

    def _members(self, number: int) -> Iterator[Member]:
        if number >= len(self._frames):
            raise self._damaged(f"it has no frame {number}")
        begin, end = self._frames[number]
        raw = self._unpacked(self._read(begin, end - begin))
        try:
            yield from _unpacked_tar(raw)
        except (ValueError, IndexError) as error:
            raise self._damaged(f"frame {number} is not a tar: {error}") from None


def _unpacked_tar(raw: bytes) -> Iterator[Member]:
    """Yield the members of a tar that `Writer` made. Raises ValueError for any other."""
    at, pax = 0, dict[str, str]()
    while at + _BLOCK <= len(raw):
        header = raw[at : at + _BLOCK]
        size = int(pax.get("size") or header[124:135].decode(), 10 if "size" in pax else 8)
        data = raw[at + _BLOCK : at + _BLOCK + size]
        if len(data) < size or _summed(header[:148], header[156:157]) != header:
            raise ValueError("a header or a file is incomplete")
        at += _BLOCK + size + -size % _BLOCK
        if header[156:157] == b"x":
            records = (record.partition(" ")[2] for record in data.decode().splitlines())
            pax = dict(record.split("=", 1) for record in records)
            continue
        name = pax.get("path") or header[:_NAME_MAX].rstrip(b"\0").decode()
        if header[156:157] != b"0" or not name or "/" in name or name.startswith("."):
            raise ValueError("it has something other than a file")
        seconds, _, nanoseconds = pax["mtime"].lstrip("-").partition(".")
        modified = int(seconds) * _NANO + int(nanoseconds)
        sign = -1 if pax["mtime"].startswith("-") else 1
        yield Member(name, int(header[100:107], 8), sign * modified, data)
        pax = {}
