"""Find files in the directories of a spool on this machine.

Over HTTP nobody lists the archive and the rejects.
"""

import contextlib
import heapq
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec

from penstock import beneath, file_names
from penstock.errors import Halt
from penstock.model import RecordReject
from penstock.settings.schema import Settings
from penstock.settings.spool_place import Directory, spool_directory, spool_place

DISCARDED = "discarded"
"""The subdirectory of the rejects directory for copies of discarded files."""

_REASON_BYTES_MAX = 16 << 20  # as over HTTP; Penstock writes no longer one
_RECORDS_MAX = 10_000  # Redis gets the index of each to send


class _Reason(msgspec.Struct):
    reason: str = ""
    records: tuple[RecordReject, ...] = ()
    records_rejected: int = 0
    rejected_at: str = ""


_reason = msgspec.json.Decoder(_Reason)


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file in the rejects directory, or (`moved` false) rejected and still in the spool.

    `reason` is why the file, or how many of its records, cannot be sent. `records` are the indexes
    of its rejected records that are listed. `records_rejected` is how many there are, None if the
    reason is missing.
    """

    name: str
    reason: str
    records: tuple[int, ...]
    records_rejected: int | None
    rejected_at: str
    moved: bool
    story: Mapping[str, Any]

    @property
    def at_seconds(self) -> float:
        """When it was rejected, in seconds since 1970; 0 if the reason does not say."""
        try:
            return datetime.fromisoformat(self.rejected_at).timestamp()
        except ValueError:
            return 0.0


@dataclass(frozen=True, slots=True)
class SpoolFiles:
    """The directories of one spool; paths as in the settings."""

    spool: Path
    archive: Path
    rejects: Path
    deletes: bool
    bucket: str = ""

    def archived(self, name: str) -> Path | None:
        """Return a file's archived path, or None; if its name has no time, searches all folders."""
        hour = file_names.hour_of(name)
        folders = [self.archive / hour] if hour else list(self.hours())
        return next((f / name for f in folders if self.has(f, name)), None)

    def opened(self, folder: Path) -> AbstractContextManager[int]:
        """Open archive, rejects, spool or a folder below, following no links. Raises OSError."""
        roots = (self.archive, self.rejects, self.spool)
        root = next(root for root in roots if folder.is_relative_to(root))
        return beneath.folder(root, str(folder.relative_to(root)))

    def has(self, folder: Path, name: str) -> bool:
        """Tell whether a folder holds a file of that name; a linked folder holds none."""
        with contextlib.suppress(OSError), self.opened(folder) as fd:
            return beneath.is_regular(fd, name)
        return False

    def listed(self, folder: Path) -> list[tuple[str, os.stat_result]]:
        """Return the safely named files of a folder, sorted; [] if missing. Raises OSError."""
        with (
            contextlib.suppress(FileNotFoundError),
            self.opened(folder) as fd,
            beneath.entries(fd) as listing,
        ):
            return sorted(
                (entry.name, entry.stat(follow_symlinks=False))
                for entry in listing
                if file_names.is_safe(entry.name) and entry.is_file(follow_symlinks=False)
            )
        return []

    def hours(self) -> Iterator[Path]:
        """Yield the YYYY/MM/DD/HH folders of the archive, oldest first."""
        with contextlib.suppress(FileNotFoundError), beneath.folder(self.archive) as fd:
            for hour, _ in beneath.folders_by_number(fd, file_names.HOUR_DIGITS):
                yield self.archive / hour

    def rejected(self) -> Iterator[RejectedFile]:
        """Yield the files of the rejects directory, by name."""
        for name, _ in self.listed(self.rejects):
            yield self.rejected_one(name)

    def latest_rejected(self, count: int) -> tuple[list[RejectedFile], int]:
        """Return the `count` files rejected last, and how many there are. Opens only these."""
        came = [(status.st_ctime, name) for name, status in self.listed(self.rejects)]
        return [self.rejected_one(name) for _, name in heapq.nlargest(count, came)], len(came)

    def has_rejected(self, name: str) -> bool:
        """Tell whether the rejects directory holds a file of that name; any text is safe."""
        return file_names.is_safe(name) and self.has(self.rejects, name)

    def rejected_one(self, name: str) -> RejectedFile:
        """Return a file of the rejects directory; if its reason is missing, it says so."""
        data = b""
        with contextlib.suppress(OSError), self.opened(self.rejects) as fd:
            data = beneath.read(fd, f"{name}{file_names.REASON_SUFFIX}", _REASON_BYTES_MAX)
        return rejected_file(name, data.decode(errors="replace"), moved=True)


def rejected_file(name: str, text: str, *, moved: bool) -> RejectedFile:
    """Return a rejected file from the text of its reason."""
    try:
        known = _reason.decode(text)
        story: dict[str, Any] = json.loads(text)
    except (ValueError, msgspec.MsgspecError):  # not Penstock's, or incomplete
        known = None
        story = {"reason": "its reason is missing or cannot be read"}
    if known is None:
        return RejectedFile(name, story["reason"], (), None, "", moved, story)
    listed = chain.from_iterable(reject.indexes for reject in known.records)
    records = tuple(sorted(islice(listed, _RECORDS_MAX)))
    return RejectedFile(
        name, known.reason, records, known.records_rejected, known.rejected_at, moved, story
    )


def spool_files(settings: Settings, what: str) -> SpoolFiles:
    """Return the directories of a spool on this machine. Raises Halt: `what` needs them."""
    return _places(settings, spool_directory(settings.source.url, what))


def local_places(settings: Settings) -> SpoolFiles | None:
    """Return the directories of a spool on this machine, None if it is elsewhere. Raises Halt."""
    spool = spool_place(settings.source.url)
    return _places(settings, spool) if isinstance(spool, Directory) else None


def _places(settings: Settings, spool: Directory) -> SpoolFiles:
    if not spool.path.is_dir():
        raise Halt(f"source.url: {spool.path} is not a directory")
    return SpoolFiles(
        spool.path,
        spool.archive_directory(settings.archive),
        spool.rejects_directory(settings.archive),
        deletes=settings.archive.action == "delete",
        bucket=settings.archive.bucket,
    )


def iso_time(seconds: float) -> str:
    """Return a time since 1970 as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
