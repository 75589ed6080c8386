"""A spool in memory, as a test wants it: the files, and what goes wrong with them."""

from collections.abc import Callable, Mapping, Sequence

from penstock.errors import Again
from penstock.model import FileRead, Page, SpoolIdentity, Unread
from penstock.ports import Moved


class Folder:
    """One directory: what lies in it, in arrival order; `marker` tells it from any other."""

    def __init__(self, marker: str, files: Mapping[str, bytes] | None = None) -> None:
        self.marker = marker
        self.files = {**(files or {})}
        self.arrived = [*self.files]


class Spool:
    """The spool, and what was moved out of it; `shown` is what lies at its path now."""

    def __init__(self) -> None:
        self.home = self.shown = Folder("home")
        self.archived: dict[str, bytes] = {}
        self.rejected: dict[str, bytes] = {}
        self.reasons: dict[str, str] = {}

    @property
    def files(self) -> dict[str, bytes]:
        """What lies in the spool itself, wherever it is."""
        return self.home.files

    @property
    def arrived(self) -> list[str]:
        """Its names, in arrival order."""
        return self.home.arrived

    def write(self, name: str, data: bytes) -> None:
        """Let a file arrive."""
        self.arrived.append(name)
        self.files[name] = data


class ScriptedSource:
    """`Source` over a `Spool` that others share; its cursor is the place in the arrival order.

    Like a process that has the directory open: it goes on to read there, but lists nothing, and
    moves nothing, once another one lies at the path. Not `pinned`, as over nginx, it does all of
    that to what lies at the path.

    `listing` may reorder or hide what one page shows. `reading` may fail a read: it is given the
    name and returns what is read instead of the file, or None. `is_unsettled` tells whether a file
    is still being written: then it arrives later. With `pause_seconds` it
    looks at nothing.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        page_files_max: int = 1_000,
        pinned: bool = True,
        monotonic: Callable[[], float] = lambda: 0.0,
        listing: Callable[[list[str]], list[str]] = list,
        reading: Callable[[str], FileRead | None] = lambda _: None,
        is_unsettled: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._spool = spool
        self._opened = spool.shown if pinned else None
        self._page_files_max = page_files_max
        self._monotonic = monotonic
        self._listing = listing
        self._reading = reading
        self._is_unsettled = is_unsettled
        self.pause_seconds = 0.0
        self.listed_from: list[str] = []

    def _folder(self) -> Folder:
        """Return what lies at the path. Raises Again if something else did when we opened it."""
        if self._opened not in {None, self._spool.shown}:
            raise Again("the spool is another directory now; it is opened again")
        return self._spool.shown

    async def identity(self) -> SpoolIdentity:
        """See `IdentifiedSource.identity`."""
        return SpoolIdentity(self._folder().marker)

    async def list(self, cursor: str) -> Page:
        """See `Source.list`."""
        folder = self._folder()
        self.listed_from.append(cursor)
        if self.pause_seconds:
            return Page([], cursor, self._monotonic(), pause_seconds=self.pause_seconds)
        at = int(cursor) if cursor.isdigit() else 0
        found: list[str] = []
        end = len(folder.arrived)
        while at < end and len(found) < self._page_files_max:
            name = folder.arrived[at]
            at += 1
            if name not in folder.files or name in found:
                continue
            if self._is_unsettled(name):
                folder.arrived.append(name)
            else:
                found.append(name)
        return Page(self._listing(found), str(at), self._monotonic())

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
        data = (self._opened or self._spool.shown).files.get(name)
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
        files = self._folder().files
        if name not in files:
            kept = name in self._spool.archived or name in self._spool.rejected
            return Moved(name, vanished=not kept)
        target[name] = files.pop(name)
        return Moved(name)

    async def delete_archived(self, older_than_days: float) -> int:
        """See `Source.delete_archived`; nothing is ever old here."""
        assert older_than_days
        return 0

    async def close(self) -> None:
        """See `Source.close`."""
