"""Which files behind nginx are still to be handed out: each listing has the whole directory.

listing ─▶ present, but not dealt with ─▶ backlog ─oldest name first─▶ page
                          ▲                                              │
                          └────────── its cursor comes back ◀────────────┘
"""

import asyncio
import math
import secrets
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from penstock.model import ListedFile, Page, Unsettled

_LISTING_SHARE_MAX = 0.1  # list for at most this share of the time, however many files there are


class Backlog:
    """Hands each name out once. A cursor counts the pages of one instance; others start over.

    `page_files_max` limits one page.
    """

    def __init__(self, *, page_files_max: int) -> None:
        self.listed_at_seconds = -math.inf
        """Our monotonic clock when the last listing began."""
        self.listing_seconds = 0.0
        """How long the last listing took."""
        self._page_files_max = page_files_max
        self._dealt_with: set[str] = set()  # handed out, and the cursor came back
        self._page: list[str] = []  # handed out last, its cursor not yet back
        self._names: list[str] = []  # found by the last listing, not handed out; newest first
        self._epoch = secrets.token_hex(4)
        self._pages = 0
        self._ignored = 0

    def give_back(self, cursor: str) -> bool:
        """Take a cursor given to `Source.list`; tell whether a new listing is needed."""
        if self._pages and cursor == self._cursor(self._pages):
            self._dealt_with.update(self._page)
        else:
            self._names = []
            if cursor != self._cursor(self._pages - 1):
                self._dealt_with.clear()
        return not self._names

    async def pause(self) -> None:
        """Wait until another listing is within its share of the time."""
        await asyncio.sleep(self._pause_seconds())

    def _pause_seconds(self) -> float:
        pause_seconds = self.listing_seconds / _LISTING_SHARE_MAX
        return max(0.0, self.listed_at_seconds + pause_seconds - time.monotonic())

    def fill(self, present: AbstractSet[str], *, ignored: int, began_seconds: float) -> None:
        """Take a listing: the names of all files, and how many entries are not files.

        `began_seconds` is our monotonic clock when it began; it ends now.
        """
        self._dealt_with &= present  # a name that is gone and comes back is a new file
        self._names = sorted(present - self._dealt_with, reverse=True)
        self._ignored = ignored
        self.listed_at_seconds = began_seconds
        self.listing_seconds = time.monotonic() - began_seconds

    def take(self) -> Sequence[str]:
        """Return the oldest names left, as many as a page may have; none at the end."""
        oldest = self._names[-self._page_files_max :]
        del self._names[-self._page_files_max :]
        oldest.reverse()
        return oldest

    def page(self, files: Sequence[ListedFile], unsettled: Unsettled) -> Page:
        """Return the next page; taken names that are not on it come with a later listing."""
        self._pages += 1
        self._page = [file.name for file in files]
        return Page(
            files,
            self._cursor(self._pages),
            self.listed_at_seconds,
            self._ignored,
            self._pause_seconds(),
            unsettled,
        )

    def _cursor(self, pages: int) -> str:
        return f"{self._epoch}-{pages}"
