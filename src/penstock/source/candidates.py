"""Which names a worker's lanes try to claim next, and how much of the spool is dealt with.

page: run run run │ page: run …        a claim is made from a portion: some runs of names
tried  tried  in flight                frontier: before the first page with an untried name
"""

import asyncio
import itertools
import math
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock import telemetry
from penstock.aio import sleep_unless
from penstock.model import LISTING_SECONDS_MAX, Page, Unsettled
from penstock.ports import Source

_EMPTY_SECONDS = 0.05  # an empty listing answers all lanes for at least this time
_LOOK_SECONDS = 0.25  # how often the source is listed while names wait for more
_RUN_FILES = 500  # names kept together: two workers with one page rarely try the same ones
_SHARE_MIN = 0.25  # lower limit of `share`: a portion has at most four times the wanted names
_TURN = 0.3  # weight of the latest claim in `share`


@dataclass(slots=True, eq=False)  # two listings are never one page
class _Listed:
    """One page, kept while some of its names are untried."""

    cursor: str
    listed_at_seconds: float
    came_at_seconds: float
    epoch: str
    spool_note: str
    after_loss: bool
    untried: int
    number: int = field(default_factory=itertools.count().__next__)


class _Run(NamedTuple):
    """Neighbouring names on a page; `at` is the position of the first one."""

    page: _Listed
    at: int
    names: Sequence[str]


class Portion:
    """Names to try to claim, the oldest first.

    `is_final`: there is nothing more to wait for, so even a small claim is right. `spool_note` is
    the note of the spool in which they were listed.
    """

    def __init__(self, runs: Sequence[_Run], *, is_final: bool) -> None:
        self.runs = sorted(runs, key=lambda run: (run.page.number, run.at))
        self.names = [name for run in self.runs for name in run.names]
        self.is_final = is_final
        self.spool_note = self.runs[0].page.spool_note if self.runs else ""

    def is_after_loss(self, epoch: str) -> bool:
        """Tell whether some of the names were in the spool when Redis lost data.

        They also were if Redis now has another `epoch` than when they were listed.
        """
        return any(run.page.after_loss or run.page.epoch not in {"", epoch} for run in self.runs)


class Candidates:
    """Cuts the pages of a source into portions for claims; shared by the lanes of one worker.

    Names wait until there are enough for a claim, or until the first of them was listed
    `linger_seconds` ago. The runs of a page come in random order, so workers with the same page
    rarely try the same names at the same time.
    """

    def __init__(
        self,
        source: Source,
        *,
        linger_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        shuffle: Callable[[list[_Run]], None] = random.shuffle,
    ) -> None:
        self._source = source
        self.linger_seconds = linger_seconds
        self.linger_seconds_max = max(1.0, 3 * linger_seconds)
        """How long files wait for others at most, if the source is slow to list."""
        self._monotonic = monotonic
        self._shuffle = shuffle
        self._lock = asyncio.Lock()
        self._runs: list[_Run] = []
        self._pages: list[_Listed] = []  # in the order of the listing, from the frontier on
        self._cursor = ""  # given to the next listing
        self._files_listed = 0  # on the last page
        self._empty_until_seconds = self._looked_at_seconds = -math.inf
        self._epoch = ""
        self._after_loss = False
        self._losses: int = 0  # as the ledger last said
        self._starts = 0  # how often we started over
        self._ignored = 0  # warn if more entries than this are ignored
        self._ahead = 0  # warn if more files than this have a change time in the future
        self.share = 1.0
        """The share of listed names that no other worker had, as a moving average."""
        self.unsettled = Unsettled()
        """The files that were not complete when the source was last listed."""
        self.frontier = ""
        """The cursor up to which every file was tried: we or another worker claimed it."""

    def resume(self, frontier: str, epoch: str) -> None:
        """Begin at the fleet's frontier; a source that does not know the cursor lists everything.

        `epoch` is the last known one, perhaps from an earlier process.
        """
        self._epoch = self._epoch or epoch
        if not self._cursor:
            self._cursor = self.frontier = frontier

    async def next(self, files: int, stop: asyncio.Event) -> Portion:
        """Return `files` names, or all there are if there is nothing to wait for.

        Returns more if other workers have some of the listed names, and none if nothing is new.
        Does not wait after `stop`. Raises Again if the source cannot be listed.
        """
        async with self._lock:
            while True:
                self._drop_old()
                listed = sum(len(run.names) for run in self._runs)
                if listed >= files:
                    return self._take(min(listed, math.ceil(files / self.share)))
                listed = await self._list()
                if listed >= _RUN_FILES or (listed and not self.linger_seconds):
                    continue  # there may be more at once
                due_seconds = self._due_seconds()
                if due_seconds <= 0 or stop.is_set():
                    runs, self._runs = self._runs, []
                    return Portion(_each_once(runs), is_final=True)
                await sleep_unless(stop, min(due_seconds, _LOOK_SECONDS))

    def _due_seconds(self) -> float:
        """Return how long the waiting names may still wait for more; 0 if none wait.

        If the source has to wait before it looks again, they wait for that: messages are fuller
        then.
        """
        if not self._runs:
            return 0.0
        came_at = min(run.page.came_at_seconds for run in self._runs)
        due, looks_at = came_at + self.linger_seconds, self._empty_until_seconds
        latest = came_at + self.linger_seconds_max if self.linger_seconds else due
        if self._looked_at_seconds < due < looks_at <= latest:
            due = looks_at
        return due - self._monotonic()

    def _take(self, files: int) -> Portion:
        """Take `files` of the waiting names."""
        runs: list[_Run] = []
        while files > 0:
            page, at, names = self._runs.pop()
            if len(names) > files:
                self._runs.append(_Run(page, at + files, names[files:]))
            runs.append(_Run(page, at, names[:files]))
            files -= len(names)
        return Portion(_each_once(runs), is_final=False)

    def _drop_old(self) -> None:
        """List again from the frontier if a listing has become too old to claim from."""
        for run in self._runs:
            if self._monotonic() - run.page.listed_at_seconds > LISTING_SECONDS_MAX:
                self.start_over(self.frontier)
                return

    async def _list(self) -> int:
        """List the next page; return how many names it has: for a while after an empty one, 0."""
        if self._monotonic() <= self._empty_until_seconds:
            return 0
        while True:
            began_seconds = self._monotonic()
            epoch, starts = self._epoch, self._starts
            page = await self._source.list(self._cursor)
            if starts != self._starts:
                continue  # another lane started over meanwhile
            if not self._pages or page.spool_note == self._pages[-1].spool_note:
                break
            self.start_over()  # the pages so far list another spool
        names, self._cursor = page.names, page.cursor
        listed = _Listed(
            cursor=page.cursor,
            listed_at_seconds=page.listed_at_seconds,
            came_at_seconds=self._monotonic(),
            epoch=epoch,
            spool_note=page.spool_note,
            after_loss=self._after_loss,
            untried=len(names),
        )
        self._pages.append(listed)
        runs = [
            _Run(listed, at, names[at : at + _RUN_FILES]) for at in range(0, len(names), _RUN_FILES)
        ]
        self._shuffle(runs)
        # Another lane may have put names back: they were listed first, so they go first.
        self._runs = runs + self._runs
        # A page shorter than the previous one ends what was there when we began.
        self._after_loss = self._after_loss and len(names) >= self._files_listed
        self._files_listed = len(names)
        self._advance()
        if not page.pause_seconds:
            self._looked_at_seconds = began_seconds
        if not names:
            # Answer "none" until the source may list again: a pass must not wait for that.
            pause_seconds = max(_EMPTY_SECONDS, page.pause_seconds)
            self._empty_until_seconds = self._monotonic() + pause_seconds
        if page.ignored > self._ignored:
            remedy = page.example or "see source.pattern"
            telemetry.warn("entries.ignored", entries=page.ignored, remedy=remedy)
            self._ignored = 2 * page.ignored
        self._tell_unsettled(page)
        return len(names)

    def _tell_unsettled(self, page: Page) -> None:
        self.unsettled = page.unsettled
        if page.unsettled.ahead > self._ahead:
            telemetry.warn(
                "files.ahead", files=page.unsettled.ahead,
                ahead_seconds=round(page.unsettled.ahead_seconds),
                cause="change times in the future: a clock was set back, or two clocks differ",
                remedy="each is sent once it is unchanged for source.settle_seconds; set the clock",
            )  # fmt: skip
            self._ahead = 2 * page.unsettled.ahead

    def tried(
        self,
        portion: Portion,
        looked_up: int,
        waiting: Sequence[int] = (),
        free: float | None = None,
    ) -> None:
        """Note that the first `looked_up` names of a portion have an owner now: we or another.

        Names at the positions `waiting`, in order, have none: they are tried again, as are those
        not looked up. `free` is the share of the names looked up that nobody else had; None if none
        was.
        """
        if free is not None:
            self.share = max(_SHARE_MIN, self.share + _TURN * (free - self.share))
        at = 0
        for page, first, names in portion.runs:
            end = at + len(names)
            kept = names[max(0, looked_up - at) :]
            if at < looked_up:
                some = waiting[bisect_left(waiting, at) : bisect_left(waiting, end)]
                kept = [*[names[place - at] for place in some], *kept]
            at = end
            page.untried -= len(names) - len(kept)
            if kept and page in self._pages:
                self._runs.append(_Run(page, first, kept))
        self._advance()

    def put_back(self, portion: Portion) -> None:
        """Take back names that were not tried."""
        self.tried(portion, 0)

    def in_epoch(self, epoch: str, losses: int = 0) -> bool:
        """Start over from everything in the spool if Redis has lost data; tell whether it has.

        `epoch` and `losses` are what `Ledger.claim` returned; they change only then. Of another
        epoch nobody knows which files were sent: the names listed next are marked `after_loss`.
        """
        is_new_epoch = bool(self._epoch) and epoch != self._epoch
        has_lost: bool = is_new_epoch or losses != self._losses
        self._epoch, self._losses = epoch, losses
        if has_lost:
            self.start_over()
        if is_new_epoch:
            self._after_loss = True
            self._files_listed = 0
        return has_lost

    def start_over(self, cursor: str = "") -> None:
        """Forget what was listed, except what is before `cursor`."""
        self._starts += 1
        self._empty_until_seconds = -math.inf
        self._runs = []
        self._pages = []
        self._cursor = self.frontier = cursor

    def _advance(self) -> None:
        while self._pages and not self._pages[0].untried:
            self.frontier = self._pages.pop(0).cursor


def _each_once(runs: list[_Run]) -> list[_Run]:
    """Omit names that an earlier run has: a source may list a file on two pages."""
    if all(run.page is runs[0].page for run in runs):
        return runs
    if len({name for run in runs for name in run.names}) == sum(len(run.names) for run in runs):
        return runs
    seen: set[str] = set()
    kept: list[_Run] = []
    for page, at, names in runs:
        new = [name for name in dict.fromkeys(names) if name not in seen]
        page.untried -= len(names) - len(new)
        seen.update(new)
        kept.append(_Run(page, at, new))
    return kept
