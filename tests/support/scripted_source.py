"""A spool in memory, as a test wants it: the files, and what goes wrong with them."""

from collections.abc import Callable, Mapping, Sequence

from penstock.model import FileRead, ListedFile, Page, Unread
from penstock.ports import Moved


class Spool:
    """The directory: what lies in it, in arrival order, and what was moved out of it."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.files: dict[str, bytes] = {}
        self.archived: dict[str, bytes] = {}
        self.rejected: dict[str, bytes] = {}
        self.reasons: dict[str, str] = {}

    def write(self, name: str, data: bytes) -> None:
        """Let a file arrive."""
        self.arrived.append(name)
        self.files[name] = data


class ScriptedSource:
    """`Source` over a `Spool` that others share; its cursor is the place in the arrival order.

    `listing` may reorder or hide what one page shows. `reading` may fail a read: it is given the
    name and returns what is read instead of the file, or None. `is_young` tells whether a file is
    still being written: then it arrives later. `pause_seconds` stands on its pages.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        page_files_max: int = 1_000,
        monotonic: Callable[[], float] = lambda: 0.0,
        listing: Callable[[list[str]], list[str]] = list,
        reading: Callable[[str], FileRead | None] = lambda _: None,
        is_young: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._spool = spool
        self._page_files_max = page_files_max
        self._monotonic = monotonic
        self._listing = listing
        self._reading = reading
        self._is_young = is_young
        self.pause_seconds = 0.0
        self.listed_from: list[str] = []

    async def list(self, cursor: str) -> Page:
        """See `Source.list`."""
        self.listed_from.append(cursor)
        at = int(cursor) if cursor.isdigit() else 0
        found: list[str] = []
        end = len(self._spool.arrived)
        while at < end and len(found) < self._page_files_max:
            name = self._spool.arrived[at]
            at += 1
            if name not in self._spool.files or name in found:
                continue
            if self._is_young(name):
                self._spool.arrived.append(name)
            else:
                found.append(name)
        files = [
            ListedFile(name, len(self._spool.files.get(name, b"")), 0.0)
            for name in self._listing(found)
        ]
        return Page(files, str(at), self._monotonic(), pause_seconds=self.pause_seconds)

    async def read(self, names: Sequence[str], bytes_max: int) -> Sequence[FileRead]:
        """See `Source.read`."""
        read: list[FileRead] = []
        total = 0
        for name in names:
            if read and total >= bytes_max:
                break
            file = self._reading(name) or self._read(name)
            total += len(file.data) if isinstance(file.data, bytes) else 0
            read.append(file)
        return read

    def _read(self, name: str) -> FileRead:
        data = self._spool.files.get(name)
        if data is None:
            return FileRead(name, Unread.VANISHED, 0, 0.0)
        return FileRead(name, data, len(data), 60.0)

    async def archive(self, names: Sequence[str]) -> Sequence[Moved]:
        """See `Source.archive`."""
        return [self._move(name, self._spool.archived) for name in names]

    async def reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        """See `Source.reject`."""
        self._spool.reasons.update(reasons)
        return [self._move(name, self._spool.rejected) for name in reasons]

    def _move(self, name: str, target: dict[str, bytes]) -> Moved:
        if name not in self._spool.files:
            return Moved(name, vanished=name not in target)
        target[name] = self._spool.files.pop(name)
        return Moved(name)

    async def delete_archived(self, older_than_days: float) -> int:
        """See `Source.delete_archived`; nothing is ever old here."""
        assert older_than_days
        return 0

    async def close(self) -> None:
        """See `Source.close`."""
