"""Which files behind nginx are still to be handed out: each listing has the whole directory.

listing ─▶ present, but not dealt with ─▶ backlog ─oldest name first─▶ page
                          ▲                                              │
                          └────────── its cursor comes back ◀────────────┘
"""

import secrets
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from penstock.model import Page, Unsettled
from penstock.source.pace import Pace


class Backlog:
    """Hands each name out once. A cursor counts the pages of one instance; others start over.

    `page_files_max` limits one page.
    """

    def __init__(self, *, page_files_max: int) -> None:
        self.pace = Pace()
        self._page_files_max = page_files_max
        self._dealt_with: set[str] = set()  # handed out, and the cursor came back
        self._page: Sequence[str] = []  # handed out last, its cursor not yet back
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

    def fill(self, present: AbstractSet[str], *, ignored: int, began_seconds: float) -> None:
        """Take a listing: the names of all files, and how many entries are not files.

        `began_seconds` is our monotonic clock when it began; it ends now.
        """
        self._dealt_with &= present  # a name that is gone and comes back is a new file
        self._names = sorted(present - self._dealt_with, reverse=True)
        self._ignored = ignored
        self.pace.listed(began_seconds)

    def take(self) -> Sequence[str]:
        """Return the oldest names left, as many as a page may have; none at the end."""
        oldest = self._names[-self._page_files_max :]
        del self._names[-self._page_files_max :]
        oldest.reverse()
        return oldest

    def page(self, names: Sequence[str], unsettled: Unsettled) -> Page:
        """Return the next page; taken names that are not on it come with a later listing."""
        self._pages += 1
        self._page = names
        began, cursor = self.pace.began_at_seconds, self._cursor(self._pages)
        return Page(names, cursor, began, self._ignored, unsettled=unsettled)

    def page_not_looked_for(self, cursor: str, unsettled: Unsettled, pause_seconds: float) -> Page:
        """Return an empty page while no listing may be made; `cursor`, as given, goes on."""
        began = self.pace.began_at_seconds
        return Page([], cursor, began, self._ignored, pause_seconds, unsettled)

    def _cursor(self, pages: int) -> str:
        return f"{self._epoch}-{pages}"
