"""Which names a worker's lanes try to claim next."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from penstock.edges import Source
from penstock.model import LISTING_SECONDS_MAX, Page

_EMPTY_SECONDS = 0.05  # an empty listing answers for all lanes that ask within this time


class Portion(NamedTuple):
    """Names to try to claim, and the page they are from."""

    names: Sequence[str]
    cursor_before: str = ""
    listed_at_seconds: float = 0.0


class Candidates:
    """Cuts the pages of a source into portions for claims; shared by the lanes of one worker.

    The portions of a page come in random order: workers that were given the same page then seldom
    ask for the same names at the same time.
    """

    def __init__(
        self,
        source: Source,
        *,
        files_max: int,
        bytes_max: int,
        monotonic: Callable[[], float] = time.monotonic,
        shuffle: Callable[[list[Portion]], None] = random.shuffle,
    ) -> None:
        self._source = source
        self._files_max = files_max
        self._bytes_max = bytes_max
        self._monotonic = monotonic
        self._shuffle = shuffle
        self._lock = asyncio.Lock()
        self._portions: list[Portion] = []
        self._cursor = ""  # given to the next listing
        self._cursor_before = ""  # was given to the last one
        self._empty_at_seconds = -math.inf
        self._epoch = ""

    async def next(self) -> Portion:
        """Return at most `files_max` names of at most `bytes_max`; none if nothing is new.

        Raises Again if the source cannot be listed.
        """
        async with self._lock:
            while self._portions:
                portion = self._portions.pop()
                if self._monotonic() - portion.listed_at_seconds <= LISTING_SECONDS_MAX:
                    return portion
                self._list_again(portion)
            if self._monotonic() - self._empty_at_seconds > _EMPTY_SECONDS:
                await self._list()
            return self._portions.pop() if self._portions else Portion(())

    async def _list(self) -> None:
        page = await self._source.list(self._cursor)
        self._cursor_before, self._cursor = self._cursor, page.cursor
        self._portions = [
            Portion(names, self._cursor_before, page.listed_at_seconds)
            for names in _portions(page, self._files_max, self._bytes_max)
        ]
        self._shuffle(self._portions)
        if not self._portions:
            self._empty_at_seconds = self._monotonic()

    def _list_again(self, portion: Portion) -> None:
        """Have the page of a portion that is too old to be claimed from listed afresh.

        If the page was given up for dealt with in the meantime, everything is listed afresh.
        """
        self._portions = []
        self._cursor = self._cursor_before if portion.cursor_before == self._cursor_before else ""

    def put_back(self, portion: Portion) -> None:
        """Take back names that were not tried."""
        if portion.names:
            self._portions.append(portion)

    def in_epoch(self, epoch: str) -> None:
        """Start over from everything in the spool if this Redis has forgotten what it knew."""
        if self._epoch and epoch != self._epoch:
            self._portions = []
            self._cursor = ""
            self._empty_at_seconds = -math.inf
        self._epoch = epoch


def _portions(page: Page, files_max: int, bytes_max: int) -> list[Sequence[str]]:
    portions: list[Sequence[str]] = []
    portion: list[str] = []
    portion_bytes = 0
    for file in page.files:
        if portion and (len(portion) == files_max or portion_bytes + file.size_bytes > bytes_max):
            portions.append(portion)
            portion, portion_bytes = [], 0
        portion.append(file.name)
        portion_bytes += file.size_bytes
    if portion:
        portions.append(portion)
    return portions
