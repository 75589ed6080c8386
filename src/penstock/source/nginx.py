"""The spool behind plain nginx, set up by deploy/nginx.conf.

    GET /spool/         the listing of the whole directory, as JSON (nginx_listing.py)
    GET /spool/NAME     one file; many at once, over kept connections
    … /dav/…            moves and deletes (nginx_dav.py)

Each listing reads the whole directory, which is fine up to about 100,000 files. For more, use
Penstock's own file server, which answers with pages.
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Literal

from penstock import file_names, telemetry
from penstock.errors import Halt
from penstock.http1 import Reply
from penstock.model import FileRead, Page, SpoolIdentity, Unread
from penstock.ports import Moved
from penstock.source import marker
from penstock.source import nginx_listing as listings
from penstock.source.http import CONNECTIONS, HttpSite, content_length, each, in_lanes
from penstock.source.nginx_backlog import Backlog
from penstock.source.nginx_dav import Dav, path_of
from penstock.source.settling import Settling

_ENTRIES_WARNED = 100_000
_TOGETHER_FILES = 50  # requested in one write; more would gain little
_SMALL_BYTES = 1_024
_MARKER_TAKEN = frozenset({HTTPStatus.OK, HTTPStatus.NOT_FOUND})
_NO_NAME = "not a name that Penstock lists"
_OK = int(HTTPStatus.OK)  # each access to the enumeration takes a third of a microsecond
_TAKEN = frozenset({
    HTTPStatus.OK, HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND,
})  # fmt: skip


class NginxSource:
    """`Source` over plain nginx; one instance belongs to one process.

    `site` is the address above the spool, and `spool`, `archive_directory` and `rejects_directory`
    are names below it. Raises Halt if one of them is not valid.
    """

    def __init__(
        self,
        site: HttpSite,
        *,
        spool: str,
        pattern: str,
        settle_seconds: float,
        max_file_bytes: int,
        archive_directory: str = "archive",
        rejects_directory: str = "rejected",
        archive_action: Literal["move", "delete"] = "move",
        page_files_max: int = 10_000,
    ) -> None:
        self._site = site
        self._spool = spool
        self._matches = re.compile(pattern).fullmatch
        self._max_file_bytes = max_file_bytes
        self._archive_action = archive_action
        self._dav = Dav(
            site,
            spool=spool,
            archive=archive_directory,
            rejects=rejects_directory,
            max_file_bytes=max_file_bytes,
        )
        self._backlog = Backlog(page_files_max=page_files_max)
        self._settling = Settling(settle_seconds)
        self._found: Mapping[str, listings.Entry] = {}  # by the last listing
        self._found_at_seconds = 0.0  # by the server's clock
        self._entries_warned = _ENTRIES_WARNED
        self._file_bytes = max_file_bytes  # expected of the next file: the size of the last one

    async def list(self, cursor: str) -> Page:
        """See `Source.list`."""
        if self._backlog.give_back(cursor):
            if pause_seconds := await self._backlog.pace.pause():
                return self._backlog.page_not_looked_for(
                    cursor, self._settling.unsettled, pause_seconds
                )
            began = time.monotonic()
            listing = await listings.read(self._site, f"{self._spool}/")
            await asyncio.to_thread(self._take, listing, began)
        return self._backlog.page(self._next_names(), self._settling.unsettled)

    def _take(self, listing: listings.Listing, began: float) -> None:
        found: dict[str, listings.Entry] = {}
        ignored = 0
        for entry in listing.entries:
            name = entry.name
            if entry.type == "file" and self._matches(name) and file_names.is_safe(name):
                found[name] = entry
            elif not file_names.is_draft(name):
                ignored += 1
        self._settling.keep(found.keys())
        self._backlog.fill(found.keys(), ignored=ignored, began_seconds=began)
        self._found = found
        self._found_at_seconds = listing.at_seconds
        if len(listing.entries) > self._entries_warned:
            telemetry.warn(
                "listing.large",
                entries=len(listing.entries),
                seconds=round(self._backlog.pace.seconds, 3),
                remedy="archive more often, or read over Penstock's file server: penstock serve",
            )
            self._entries_warned = 2 * len(listing.entries)

    def _next_names(self) -> Sequence[str]:
        """Take the oldest complete files; those still being written stay behind."""
        names: list[str] = []
        while not names and (oldest := self._backlog.take()):
            for entry in map(self._found.__getitem__, oldest):
                # Both times are cut to whole seconds: the real age may be a second less.
                age_seconds = self._found_at_seconds - listings.time_of(entry.mtime) - 1
                if self._settling.is_complete(entry.name, (entry.mtime, entry.size), age_seconds):
                    names.append(entry.name)
        return names

    async def read(self, names: Sequence[str], bytes_max: int) -> Sequence[FileRead]:
        """See `Source.read`: sends many GETs at once, and reads only the bodies that fit.

        Raises Again or Halt if nginx does not serve.
        """
        read: dict[int, FileRead] = {}
        room = _Room(bytes_max, self._max_file_bytes)
        next_ = asking = 0

        async def lane() -> None:
            nonlocal next_, asking
            while next_ < len(names) and not room.is_full:
                if asking and next_ * self._file_bytes >= bytes_max:
                    return  # the requested files fill the room: a later one would be discarded
                some = range(next_, min(next_ + self._together(bytes_max), len(names)))
                next_ = some.stop
                asking += 1
                read.update(await self._read_some(names, some, room))
                asking -= 1

        await in_lanes(min(CONNECTIONS, len(names)), lane)
        return _front(read, len(names), bytes_max)

    def _together(self, bytes_max: int) -> int:
        """Return how many files to request in one write, so that all lanes fill half the limit."""
        fitting = bytes_max // (2 * CONNECTIONS) // max(1, self._file_bytes)
        return max(1, min(fitting, _TOGETHER_FILES))

    async def _read_some(
        self, wanted: Sequence[str], places: Sequence[int], room: "_Room"
    ) -> Mapping[int, FileRead]:
        """Read the files at `places` of `wanted` while there is room; return them by place."""
        read: dict[int, FileRead] = {}
        left: Sequence[int] = [place for place in places if file_names.is_safe(wanted[place])]
        if len(left) < len(places):
            for place in set(places).difference(left):
                read[place] = FileRead(wanted[place], Unread.VANISHED, 0, 0.0, _NO_NAME)

        def fits(at: int, headers: Mapping[str, str]) -> bool:
            self._file_bytes = size_bytes = self._size(headers)
            if size_bytes > self._max_file_bytes:
                return False
            return room.admit(size_bytes, first=left[at] == 0)

        while left and (left[0] == 0 or not room.is_full):
            replies = await self._site.get(
                [path_of(self._spool, wanted[place]) for place in left],
                takes=_TAKEN,
                body_bytes_max=self._max_file_bytes,
                admit=fits,
            )
            for place, reply in zip(left, replies, strict=False):
                if file := self._file(wanted[place], reply):
                    read[place] = file
            left = left[len(replies) :]
        return read

    def _file(self, name: str, reply: Reply) -> FileRead | None:
        """Return the file in nginx's answer; None if there was no room for it."""
        if reply.status != _OK:
            return self._unread(name, reply)
        size_bytes = len(reply.body) if reply.is_whole else self._size(reply.headers)
        if not reply.is_whole and size_bytes <= self._max_file_bytes:
            return None
        now = listings.time_of(reply.headers.get("Date", ""))
        age_seconds = now - listings.time_of(reply.headers.get("Last-Modified", ""))
        return FileRead(name, reply.body, size_bytes, age_seconds)

    def _size(self, headers: Mapping[str, str]) -> int:
        announced = content_length(headers)
        return self._max_file_bytes if announced is None else announced

    def _unread(self, name: str, reply: Reply) -> FileRead:
        if reply.status == HTTPStatus.FORBIDDEN:
            return FileRead(name, Unread.DENIED, 0, 0.0, "nginx may not read it, or it is a link")
        if reply.status == HTTPStatus.MOVED_PERMANENTLY:
            own = self._site.path(path_of(self._spool, name))
            if reply.headers.get("Location", "") != f"{own}/":
                raise Halt(
                    f"read {name}: nginx answered 301; redirects are not followed: set source.url"
                    " to the final address"
                )
            return FileRead(name, Unread.VANISHED, 0, 0.0, "a directory")
        return FileRead(name, Unread.VANISHED, 0, 0.0, "nginx does not find it")

    async def archive(self, names: Sequence[str]) -> Sequence[Moved]:
        """See `Source.archive`. Raises Again or Halt if nginx does not serve."""
        one = self._dav.delete if self._archive_action == "delete" else self._dav.archive
        return await each(names, one)

    async def reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        """See `Source.reject`. Raises Again or Halt if nginx does not serve."""
        return await each(list(reasons.items()), self._dav.reject)

    async def identity(self) -> SpoolIdentity:
        """See `IdentifiedSource.identity`: reads the marker; nginx does not report inodes."""
        path = f"{self._spool}/{marker.MARKER}"
        reply = await self._site.call("GET", path, takes=_MARKER_TAKEN, body_bytes_max=_SMALL_BYTES)
        is_there = reply.status == _OK
        return SpoolIdentity(marker.id_of(reply.body)) if is_there else SpoolIdentity()

    async def delete_archived(self, older_than_days: float) -> int:
        """See `Source.delete_archived`; at most 10,000 files of one hour a call."""
        return await self._dav.delete_archived(older_than_days * 86_400)

    async def close(self) -> None:
        """See `Source.close`."""
        await self._site.close()


class _Room:
    """Limits the bytes of bodies in memory: to the limit of a read plus one file."""

    def __init__(self, bytes_max: int, file_bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._file_bytes_max = file_bytes_max
        self._held_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more needs to be requested."""
        return self._held_bytes >= self._bytes_max

    def admit(self, size_bytes: int, *, first: bool) -> bool:
        """Accept a body if there is room; there always is for the first file of a read."""
        held_bytes = self._held_bytes + size_bytes
        if not first and held_bytes > self._bytes_max + self._file_bytes_max:
            return False
        self._held_bytes = held_bytes
        return True


def _front(read: Mapping[int, FileRead], count: int, bytes_max: int) -> Sequence[FileRead]:
    """Return the files up to the first that is missing, or that passes the limit."""
    files: list[FileRead] = []
    total = 0
    for file in map(read.get, range(count)):
        if file is None or (files and total >= bytes_max):
            break
        files.append(file)
        total += len(file.data) if isinstance(file.data, bytes) else 0
    return files
