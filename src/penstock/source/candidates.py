"""Which names a worker's lanes try to claim next, and how far the spool has been dealt with.

page: portion portion portion │ page: portion …          a portion a claim
tried   tried   in flight                                frontier: before the first page with
                                                         a portion that has not been tried
"""

import asyncio
import itertools
import math
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from penstock import telemetry
from penstock.model import LISTING_SECONDS_MAX, Page
from penstock.ports import Source

_EMPTY_SECONDS = 0.05  # an empty listing answers all lanes that ask within this time, or longer


@dataclass(slots=True)
class _Listed:
    """One page while some of its portions have not been tried."""

    cursor: str
    untried: int
    listed_at_seconds: float


@dataclass(frozen=True, slots=True)
class Portion:
    """Names to try to claim. `after_loss`: they lay in the spool when Redis had forgotten.

    So they do, too, if it is in another epoch when they are claimed than when they were listed.
    """

    names: Sequence[str]
    after_loss: bool = False
    epoch: str = ""
    page: _Listed = field(default_factory=lambda: _Listed("", 0, -math.inf))


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
        self._pages: list[_Listed] = []  # in the order of the listing, from the frontier on
        self._cursor = ""  # given to the next listing
        self._files_listed = 0  # on the last page
        self._empty_until_seconds = -math.inf
        self._epoch = ""
        self._after_loss = False
        self._ignored = 0  # entries of the spool, up to which there is no warning
        self.frontier = ""
        """The cursor up to which every file has been tried: claimed, by us or by somebody else."""

    def resume(self, frontier: str, epoch: str) -> None:
        """Begin where the fleet is; a source that does not know the cursor lists everything.

        `epoch` is the last one known, perhaps from a process before this one.
        """
        self._epoch = self._epoch or epoch
        if not self._cursor:
            self._cursor = self.frontier = frontier

    async def next(self) -> Portion:
        """Return at most `files_max` names of at most `bytes_max`; none if nothing is new.

        Raises Again if the source cannot be listed.
        """
        async with self._lock:
            while self._portions:
                portion = self._portions.pop()
                age_seconds = self._monotonic() - portion.page.listed_at_seconds
                if age_seconds <= LISTING_SECONDS_MAX:
                    return portion
                self._start_over(self.frontier)
            if self._monotonic() > self._empty_until_seconds:
                await self._list()
            return self._portions.pop() if self._portions else Portion(())

    async def _list(self) -> None:
        epoch, page = self._epoch, await self._source.list(self._cursor)
        while epoch and epoch != self._epoch:  # Redis forgot meanwhile: begin at the beginning
            epoch, page = self._epoch, await self._source.list(self._cursor)
        self._cursor = page.cursor
        portions = _portions(page, self._files_max, self._bytes_max)
        listed = _Listed(page.cursor, len(portions), page.listed_at_seconds)
        self._pages.append(listed)
        # Added, not set: another lane may have put a portion back while we were listing.
        self._portions += [Portion(names, self._after_loss, epoch, listed) for names in portions]
        # A page shorter than the one before it is the last of what lay there when we began.
        self._after_loss = self._after_loss and len(page.files) >= self._files_listed
        self._files_listed = len(page.files)
        self._shuffle(self._portions)
        self._advance()
        if not self._portions:
            # Where another listing has to wait, a pass shall not end later for it.
            pause_seconds = max(_EMPTY_SECONDS, page.pause_seconds)
            self._empty_until_seconds = self._monotonic() + pause_seconds
        if page.ignored > self._ignored:
            telemetry.warn("entries.ignored", entries=page.ignored, remedy="see source.pattern")
            self._ignored = 2 * page.ignored  # should they grow more, that is another warning

    def tried(self, portion: Portion) -> None:
        """Note that all names of a portion have an owner now, us or somebody else."""
        portion.page.untried -= 1
        self._advance()

    def put_back(self, portion: Portion) -> None:
        """Take back names that were not tried."""
        if any(page is portion.page for page in self._pages):
            self._portions.append(portion)

    def in_epoch(self, epoch: str) -> bool:
        """Start over from everything in the spool if Redis has forgotten something; tell whether.

        Epochs differ only by that; `epoch` is what `Ledger.claim` answers.
        """
        forgotten = bool(self._epoch) and epoch != self._epoch
        self._epoch = epoch
        if forgotten:
            self._start_over("")
            self._empty_until_seconds = -math.inf
            self._after_loss = True
            self._files_listed = 0
        return forgotten

    def _start_over(self, cursor: str) -> None:
        self._portions = []
        self._pages = []
        self._cursor = self.frontier = cursor

    def _advance(self) -> None:
        while self._pages and not self._pages[0].untried:
            self.frontier = self._pages.pop(0).cursor


def _portions(page: Page, files_max: int, bytes_max: int) -> list[Sequence[str]]:
    portions: list[Sequence[str]] = []
    at = 0
    while at < len(page.files):
        some = page.files[at : at + files_max]
        sizes_bytes = [file.size_bytes for file in some]
        if sum(sizes_bytes) > bytes_max:
            fitting = bisect_right([*itertools.accumulate(sizes_bytes)], bytes_max)
            some = some[: max(1, fitting)]
        portions.append([file.name for file in some])
        at += len(some)
    return portions
