"""Forecast how long the archive's disk lasts, from the size of archived files."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from penstock import file_names
from penstock.archive.store import Store

PACK_FROM_PER_SECOND = 100
"""From this rate on, packing is better: 100 files a second are 260 million in 30 days."""

_DAY_SECONDS = 86_400
_ENOUGH_SECONDS = 100 * 365 * _DAY_SECONDS
_SAMPLES = 50
_UNKNOWN_BYTES = {"move": 4096.0, "pack": 1024.0}  # of a file, before one is archived
_KNOWN_FROM_FILES = 1_000
_KNOWN_FROM_MINUTES = 10  # of work in the last hour: fewer give no reliable rate


class ArchiveSpace(NamedTuple):
    """The free space on the archive's disk, what a file takes there, and the age of the oldest.

    `free_inodes` is None if the file system makes as many as it needs. `is_uploaded`: files here
    only wait for their upload to a bucket.
    """

    free_bytes: int
    free_inodes: int | None
    file_bytes: float
    file_inodes: float
    oldest_days: float
    is_uploaded: bool = False
    disk_bytes: int = 0


class Forecast(NamedTuple):
    """How long space or inodes last, and how long they must: until retention begins to delete."""

    files_per_second: float
    scarce: str
    lasts_days: float
    needed_days: float

    @property
    def fits(self) -> bool:
        """Whether nothing needs to be done."""
        return self.lasts_days >= self.needed_days


def archive_space(
    archive: Path, action: str, now: float, *, is_uploaded: bool = False
) -> ArchiveSpace | None:
    """Inspect the archive; None if nothing is kept, or the disk cannot be queried."""
    with contextlib.suppress(OSError):
        if action != "delete":
            there = next(path for path in (archive, *archive.parents) if path.is_dir())
            disk = os.statvfs(there)
            inodes = disk.f_favail if disk.f_files else None
            hours = Store(archive).hours()
            taken = _taken(archive, hours, action)
            oldest = _archived_at(archive / hours[0]) if hours else now
            age_days = max(0.0, now - oldest) / _DAY_SECONDS
            free = disk.f_bavail * disk.f_frsize
            size = disk.f_blocks * disk.f_frsize
            return ArchiveSpace(free, inodes, *taken, age_days, is_uploaded, size)
    return None


def _taken(archive: Path, hours: Sequence[str], action: str) -> tuple[float, float]:
    if action == "pack":
        segments = [one for hour in hours[-2:] for one in Store(archive).segments(hour)]
        files = sum(one.files for one in segments)
        sizes = [(archive / one.path).lstat().st_size for one in segments]
        return (sum(sizes) / files, len(segments) / files) if files else (_UNKNOWN_BYTES[action], 0)
    with os.scandir(archive / hours[-1]) if hours else contextlib.nullcontext(()) as listing:
        sizes = [
            entry.stat(follow_symlinks=False).st_blocks * 512 for entry in islice(listing, _SAMPLES)
        ]
    return sum(sizes) / len(sizes) if sizes else _UNKNOWN_BYTES[action], 1.0


def _archived_at(folder: Path) -> float:
    with os.scandir(folder) as listing:
        entry = next(listing, None)
    return (entry.stat(follow_symlinks=False) if entry else folder.stat()).st_ctime


def forecast(
    space: ArchiveSpace | None, files_per_second: float | None, retention_days: float
) -> Forecast | None:
    """Return how long the disk lasts, and must last until retention begins; None if unknown."""
    if space is None or space.is_uploaded or not files_per_second:
        return None
    lasts = {"space": space.free_bytes / max(1.0, space.file_bytes) / files_per_second}
    if space.free_inodes is not None and space.file_inodes:
        lasts["inodes"] = space.free_inodes / space.file_inodes / files_per_second
    scarce = min(lasts, key=lambda what: lasts[what])
    needed = max(0.0, retention_days - space.oldest_days) if retention_days else 1.0
    days = min(lasts[scarce], _ENOUGH_SECONDS) / _DAY_SECONDS
    return Forecast(files_per_second, scarce, days, needed)


def rate_of(minutes: Sequence[Mapping[str, int]]) -> float | None:
    """Return files processed a second, since the first of the minutes that had any."""
    counts = [minute["files_processed"] for minute in minutes]
    first = next((at for at, count in enumerate(counts) if count), len(counts))
    worked = counts[first:]
    if len(worked) < _KNOWN_FROM_MINUTES:
        return None
    return sum(worked) / (60 * len(worked))


def arrival_rate(names: Sequence[str]) -> float:
    """Return how many files came a second, by the times in their names; 0 if unknown."""
    times = sorted(at for name in names if (at := file_names.time_of(name)) is not None)
    span = times[-1] - times[0] if len(times) >= _KNOWN_FROM_FILES else 0.0
    return (len(times) - 1) / span if span > 0 else 0.0
