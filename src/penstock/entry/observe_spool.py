"""What can be seen of the spool and of the directories beside it, without holding anything up.

A scan of the spool takes 0.4 s a million files, so scans are spaced out to a tenth of the time.
"""

import asyncio
import contextlib
import math
import os
import re
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock import names
from penstock.errors import Again

_NAMES_A_CALL = 500
_SCAN_SHARE_MAX = 0.1
_LOOK_SECONDS_MAX = 2.0  # of one search for the oldest waiting file
_KEPT_SECONDS = 30.0  # between two counts of the rejects directory
_KEPT_MAX = 100_000
_OVER = frozenset({"processed", "archived", "rejected"})
_WAITING = frozenset({"waiting", "retry"})

States = Callable[[Sequence[str]], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Spool:
    """The spool at one moment.

    `entries` counts the files by name, whatever their state. `oldest_waiting` is the first file in
    the order of names that is neither claimed nor settled, and `oldest_waiting_seconds` the time
    since its last change. `rejects_kept` counts the files in the rejects directory, up to 100,000.
    """

    entries: int
    oldest_waiting: str = ""
    oldest_waiting_seconds: float = 0.0
    rejects_kept: int = 0
    disk_free_bytes: int = 0
    disk_bytes: int = 0
    inodes_free_share: float = 1.0


class SpoolWatch:
    """Looks at one spool, again and again; the names that are settled are not asked for twice."""

    def __init__(self, spool: Path, rejects_directory: Path, pattern: str) -> None:
        self._spool = spool
        self._rejects_directory = rejects_directory
        self._matches = re.compile(pattern).fullmatch
        self._names: list[str] = []
        self._scanned_at_seconds = -math.inf
        self._scan_seconds = 0.0
        self._over_up_to = ""  # in the order of names, all up to here are settled for ever
        self._kept = 0
        self._kept_at_seconds = -math.inf

    async def look(self, states: States | None) -> Spool:
        """Look once; `states` asks the ledger for the state of up to 500 names.

        Raises Again if the spool cannot be listed; what `states` raises passes through.
        """
        now = time.monotonic()
        if now - self._scanned_at_seconds >= self._scan_seconds / _SCAN_SHARE_MAX:
            self._names = await asyncio.to_thread(self._scan)
            self._scan_seconds = time.monotonic() - now
            self._scanned_at_seconds = time.monotonic()
        if now - self._kept_at_seconds >= _KEPT_SECONDS:
            self._kept = await asyncio.to_thread(self._count_kept)
            self._kept_at_seconds = now
        oldest = await self._oldest_waiting(states) if states else ""
        disk = os.statvfs(self._spool)
        return Spool(
            entries=len(self._names),
            oldest_waiting=oldest,
            oldest_waiting_seconds=self._age_seconds(oldest) if oldest else 0.0,
            rejects_kept=self._kept,
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
            disk_bytes=disk.f_blocks * disk.f_frsize,
            inodes_free_share=disk.f_favail / disk.f_files if disk.f_files else 1.0,
        )

    def forget_kept(self) -> None:
        """Count the rejects directory anew at the next look: something was put back from it."""
        self._kept_at_seconds = -math.inf

    def _scan(self) -> list[str]:
        try:
            with os.scandir(self._spool) as listing:
                return sorted(
                    entry.name
                    for entry in listing
                    if self._matches(entry.name)
                    and names.is_safe(entry.name)
                    and entry.is_file(follow_symlinks=False)
                )
        except OSError as error:
            raise Again(
                f"list {self._spool}: {error.strerror}; see source.url, and whether the directory"
                " is there and may be read"
            ) from None

    def _count_kept(self) -> int:
        count = 0
        with contextlib.suppress(OSError), os.scandir(self._rejects_directory) as listing:
            for entry in listing:
                count += entry.name.endswith(names.REASON_SUFFIX)
                if count == _KEPT_MAX:
                    break
        return count

    async def _oldest_waiting(self, states: States) -> str:
        """Return the first of the sorted names that nobody has claimed; empty if there is none."""
        all_over = True
        began = time.monotonic()
        start = bisect_right(self._names, self._over_up_to)
        for first in range(start, len(self._names), _NAMES_A_CALL):
            page = self._names[first : first + _NAMES_A_CALL]
            for name, state in zip(page, await states(page), strict=True):
                if state in _WAITING and (self._spool / name).exists():  # else it has just gone
                    return name
                all_over = all_over and state in _OVER
                if all_over:
                    self._over_up_to = name
            if time.monotonic() - began > _LOOK_SECONDS_MAX:
                break
        if self._names and all_over and self._over_up_to >= self._names[-1]:
            self._over_up_to = (
                ""  # names may come out of order: begin at the beginning now and then
            )
        return ""

    def _age_seconds(self, name: str) -> float:
        try:
            return max(0.0, time.time() - (self._spool / name).stat().st_ctime)
        except OSError:
            return 0.0
