"""What the file server and its clients send each other (docs/file-api.md).

Many files travel in one body, a frame:

    00000065[{"name":"a.json","length_bytes":7,…},{"name":"b.json",…}]{"a":1}{"b":2}
    ─── ①───────────────────────── ② ───────────────────────────────── ③ ── ③ ──

① eight hexadecimal digits: the length of ② in bytes. ② the index, in JSON: one entry per name, in
the requested order. ③ the files' bytes, `length_bytes` each, with nothing between them.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from penstock.errors import Again
from penstock.model import FileRead, Unread, Unsettled
from penstock.ports import Moved

FRAME_TYPE = "application/vnd.penstock.files"
PAGE_FILES_MAX = 10_000
CALL_NAMES_MAX = 1_000
"""Names that one call to read, archive or reject may hold."""

ENTRY_BYTES_MAX = 1_024
"""An upper limit for one entry of a listing, an index or a result; a name has up to 240 bytes."""

SPOOL_HEADER = "Penstock-Spool"
"""In an answer, its spool. In a request, the spool it is meant for: any other answers 409."""

_DIGITS = 8
_CURSOR_CHARACTERS_MAX = 200
_HEXADECIMAL = re.compile(rb"[0-9a-f]{8}")

Count = Annotated[int, msgspec.Meta(ge=0)]
Cursor = Annotated[str, msgspec.Meta(max_length=_CURSOR_CHARACTERS_MAX)]


class ListedFile(msgspec.Struct, frozen=True, gc=False):
    """One file of a listing: its name (its identity), its size, its last modification.

    `modified_at_seconds` is by the clock of the directory's machine.
    """

    name: str
    size_bytes: Count
    modified_at_seconds: float


class Listing(msgspec.Struct):
    """The answer to GET /v1/files."""

    files: list[ListedFile]
    cursor: Cursor
    ignored: Count
    unsettled: Unsettled = Unsettled()


class ReadRequest(msgspec.Struct):
    """The body of POST /v1/files:read: files from the front of `names` until `bytes_max` is passed.

    The answer has at least one file. A file larger than `max_file_bytes`, or too large for the
    server itself, has no bytes in it.
    """

    names: list[str]
    bytes_max: Annotated[int, msgspec.Meta(ge=1)]
    max_file_bytes: Count = sys.maxsize


class ReadEntry(msgspec.Struct, omit_defaults=True):
    """One file of a frame's index; `unread` is why it has no bytes: 'vanished' or 'denied'."""

    name: str
    length_bytes: Count
    size_bytes: Count = 0
    age_seconds: float = 0.0
    unread: str = ""
    detail: str = ""


class ArchiveRequest(msgspec.Struct):
    """The body of POST /v1/files:archive."""

    names: list[str]


class RejectRequest(msgspec.Struct):
    """The body of POST /v1/files:reject: each name, and the text of its NAME.reason.json."""

    reasons: dict[str, str]


class MovedFiles(msgspec.Struct):
    """The answer to files:archive and files:reject: one result a name, in order."""

    results: list[Moved]


class Deleted(msgspec.Struct):
    """The answer to DELETE /v1/archive."""

    files_deleted: int


_index_decoder = msgspec.json.Decoder(list[ReadEntry])


def framed(files: Sequence[FileRead]) -> list[bytes]:
    """Return a frame of files that were read, as parts to be written one after another."""
    index = msgspec.json.encode([_entry(file) for file in files])
    parts = [b"%08x" % len(index), index]
    parts += [file.data for file in files if isinstance(file.data, bytes)]
    return parts


def _entry(file: FileRead) -> ReadEntry:
    if isinstance(file.data, bytes):
        return ReadEntry(file.name, len(file.data), file.size_bytes, file.age_seconds or 0.0)
    return ReadEntry(file.name, 0, 0, 0.0, file.data.value, file.detail)


def unframed(frame: bytes, wanted: Sequence[str]) -> list[FileRead]:
    """Return a frame's files. Raises Again if they are not the front of `wanted`."""
    files: list[FileRead] = []
    end = 0
    try:
        digits = _HEXADECIMAL.fullmatch(frame[:_DIGITS])
        end = _DIGITS + int(digits[0], 16) if digits else len(frame)
        for entry in _index_decoder.decode(frame[_DIGITS:end]):
            begin, end = end, end + entry.length_bytes
            files.append(_file(entry, frame[begin:end]))
    except (ValueError, msgspec.DecodeError, RecursionError):
        files = []
    asked = [file.name for file in files] == list(wanted[: len(files)])
    if not (files and asked and end == len(frame)):
        raise Again("read: the server's answer is not a frame of the requested files")
    return files


def _file(entry: ReadEntry, data: bytes) -> FileRead:
    """Return a file with all of its bytes, or none if it is too large; otherwise ValueError."""
    if entry.unread:
        if data:
            raise ValueError
        return FileRead(entry.name, Unread(entry.unread), 0, 0.0, entry.detail)
    if data and entry.length_bytes != entry.size_bytes:
        raise ValueError
    return FileRead(entry.name, data, entry.size_bytes, entry.age_seconds)


def moved(answer: bytes, wanted: Iterable[str]) -> list[Moved]:
    """Return the results in an answer, one for each of `wanted`, or raise Again."""
    try:
        results = msgspec.json.decode(answer, type=MovedFiles).results
    except (msgspec.DecodeError, RecursionError):
        results = []
    if [result.name for result in results] != list(wanted):
        raise Again("the server's answer is not one result for each file")
    return results
