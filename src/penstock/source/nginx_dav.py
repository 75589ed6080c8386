"""Moves files out of the spool by nginx's DAV: never overwrites, and every step is repeatable.

    MOVE   /dav/spool/NAME    204 moved   404 not in the spool   412 the target exists
    PUT    /dav/rejected/NAME.reason.json
    DELETE /dav/spool/NAME    a file already in the archive; any, with archive.action = "delete"
    DELETE /dav/archive/…     after its retention

nginx makes missing folders of a target itself. If the target exists, both files are compared.
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from http import HTTPStatus

from penstock import file_names
from penstock.errors import Halt
from penstock.http1 import Reply
from penstock.ports import Moved
from penstock.source import nginx_listing as listings
from penstock.source.http import HttpSite, content_length, each

_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DIGITS = [re.compile(part) for part in file_names.HOUR_FOLDER.split("/")]
_FILES_A_CALL_MAX = 10_000
_DONE = frozenset({HTTPStatus.CREATED, HTTPStatus.NO_CONTENT})
# These concern one file; if nginx serves none, it answers 401 or nothing.
_OF_ONE_FILE = frozenset({
    HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.INSUFFICIENT_STORAGE,
})  # fmt: skip
_TAKEN = frozenset({HTTPStatus.OK}) | _DONE | _OF_ONE_FILE


class _State(Enum):
    """How a file in the spool compares with the file of that name at the target."""

    ALONE = auto()  # nothing is at the target
    GONE = auto()  # only the target has it
    SAME = auto()
    DIFFERS = auto()  # or cannot be compared


def path_of(folder: str, name: str) -> str:
    """Return a file's path below the site; only a space needs quoting in an allowed name."""
    return f"{folder}/{name}".replace(" ", "%20")


class Dav:
    """Moves files out of `spool` and deletes those past their retention; names are below `site`.

    Raises Halt if `archive` or `rejects` is not the name of another folder.
    """

    def __init__(
        self, site: HttpSite, *, spool: str, archive: str, rejects: str, max_file_bytes: int
    ) -> None:
        for setting, value in (("directory", archive), ("rejected_directory", rejects)):
            if _FOLDER.fullmatch(value) is None or value == spool:
                raise Halt(
                    f"archive.{setting}: {value!r} is not a folder that nginx can move files to;"
                    " allowed: the name of a folder beside the spool, as in deploy/nginx.conf"
                )
        self._site = site
        self._spool = spool
        self._archive = archive
        self._rejects = rejects
        self._max_file_bytes = max_file_bytes
        self._expired: list[str] = []  # paths, in folders unchanged for the whole retention

    async def archive(self, name: str) -> Moved:
        """Move one processed file into the archive; see `Source.archive`."""
        if not file_names.is_safe(name):
            return Moved(name, vanished=True)
        folder = file_names.hour_of(name)
        if folder is None:
            there = await self._look_at(name)
            if there.status == HTTPStatus.NOT_FOUND:
                return await self._gone(name, self._rejects)
            if there.status != HTTPStatus.OK:
                return Moved(name, _refused(f"look at {name}", there))
            folder = file_names.hour_of_time(
                listings.time_of(there.headers.get("Last-Modified", ""))
            )
        return await self._move(name, f"{self._archive}/{folder}")

    async def delete(self, name: str) -> Moved:
        """Delete one processed file; a missing one was deleted before."""
        if not file_names.is_safe(name):
            return Moved(name, vanished=True)
        reply = await self._call("DELETE", path_of(self._spool, name))
        if reply.status == HTTPStatus.NOT_FOUND:
            await self._check_gone(name)
            return Moved(name, vanished=True)
        return Moved(name, "" if reply.status in _DONE else _refused(f"delete {name}", reply))

    async def reject(self, item: tuple[str, str]) -> Moved:
        """Move one file; see `Source.reject`. `item` is its name and the reason.

        The reason is written before the move: a crash in between loses nothing.
        """
        name, reason = item
        if not file_names.is_safe(name):
            return Moved(name, vanished=True)
        state = await self._compare(name, self._rejects)
        if state is _State.DIFFERS:
            return _differing(name, self._rejects)
        if state is _State.GONE:
            return Moved(name)
        if (await self._look_at(name)).status == HTTPStatus.NOT_FOUND:
            hour = file_names.hour_of(name)
            return await self._gone(name, hour and f"{self._archive}/{hour}")
        target = path_of(self._rejects, name + file_names.REASON_SUFFIX)
        reply = await self._call("PUT", target, body=reason.encode())
        if reply.status not in _DONE:
            return Moved(name, _refused(f"reject {name}: write its reason", reply))
        return await self._move(name, self._rejects)

    async def _move(self, name: str, folder: str) -> Moved:
        headers = {"Overwrite": "F", "Destination": self._site.path(path_of(folder, name))}
        reply = await self._call("MOVE", path_of(self._spool, name), headers=headers)
        if reply.status == HTTPStatus.NOT_FOUND:
            await self._check_gone(name)
            return await self._gone(name, self._rejects)
        if reply.status != HTTPStatus.PRECONDITION_FAILED:
            done = reply.status in _DONE
            return Moved(name, "" if done else _refused(f"move {name} to {folder}", reply))
        state = await self._compare(name, folder)
        if state is _State.SAME:
            return Moved(name, (await self.delete(name)).error)
        return Moved(name) if state is _State.GONE else _differing(name, folder)

    async def _gone(self, name: str, elsewhere: str | None) -> Moved:
        """Return what became of a file that is neither in the spool nor at its target.

        It may be `elsewhere`: before a ledger was restored, it may have rejected what it now
        archives.
        """
        if not elsewhere:
            return Moved(name, vanished=True)
        there = await self._call("HEAD", path_of(elsewhere, name))
        return Moved(name, vanished=there.status != HTTPStatus.OK)

    async def _compare(self, name: str, folder: str) -> "_State":
        """Compare a file in the spool with the one of that name in `folder`."""
        there = await self._call("GET", path_of(folder, name))
        if there.status == HTTPStatus.NOT_FOUND:
            return _State.ALONE
        here = await self._call("GET", path_of(self._spool, name), dav="")
        if here.status == HTTPStatus.NOT_FOUND:
            return _State.GONE
        read = all(
            reply.status == HTTPStatus.OK and content_length(reply.headers) == len(reply.body)
            for reply in (here, there)
        )
        return _State.SAME if read and here.body == there.body else _State.DIFFERS

    async def _look_at(self, name: str) -> Reply:
        return await self._call("HEAD", path_of(self._spool, name), dav="")

    async def _check_gone(self, name: str) -> None:
        """Raise Halt if /dav/ answers 404 for a file in the spool: it would be sent again.

        A missing /dav/ and a missing file look the same.
        """
        if (await self._look_at(name)).status != HTTPStatus.NOT_FOUND:
            raise Halt(
                f"{self._site.path('dav/')}: answered 404 for a file that is in the spool: allow"
                " DAV there as deploy/nginx.conf does, and check that no file has the name of a"
                " target folder"
            )

    async def _call(
        self,
        method: str,
        path: str,
        *,
        dav: str = "dav/",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        return await self._site.call(
            method,
            dav + path,
            takes=_TAKEN,
            body_bytes_max=self._max_file_bytes,
            headers=headers,
            body=body,
            admit=lambda fields: (content_length(fields) or 0) <= self._max_file_bytes,
        )

    async def delete_archived(self, older_than_seconds: float) -> int:
        """Delete up to 10,000 files of the oldest hour past its retention; return how many.

        nginx does not report when a file came into the archive, but when its folder last changed.
        So an hour's files are deleted once its folder is unchanged for `older_than_seconds`.
        """
        if not self._expired:
            self._expired = list(await self._find_expired(older_than_seconds))
        batch = self._expired[:_FILES_A_CALL_MAX]
        del self._expired[:_FILES_A_CALL_MAX]
        deleted = await each(batch, self._delete_archived)
        if batch and not self._expired:
            self._expired = list(await self._find_expired(older_than_seconds))
        return sum(deleted)

    async def _delete_archived(self, path: str) -> bool:
        return (await self._call("DELETE", path)).status in _DONE

    async def _find_expired(self, older_than_seconds: float) -> Sequence[str]:
        top = await self._list(self._archive)
        before_seconds = top.at_seconds - older_than_seconds
        return await self._oldest(self._archive, before_seconds, depth=0)

    async def _oldest(self, folder: str, before_seconds: float, depth: int) -> Sequence[str]:
        """Return the paths of the files in the oldest expired hour below `folder`.

        Removes expired, empty folders on the way.
        """
        first_kept = file_names.hour_of_time(before_seconds)
        for entry in sorted((await self._list(folder)).entries, key=lambda entry: entry.name):
            if entry.type != "directory" or not _DIGITS[depth].fullmatch(entry.name):
                continue
            below = f"{folder}/{entry.name}"
            hours = below.removeprefix(f"{self._archive}/")
            if hours > first_kept[: len(hours)] or hours == first_kept:
                break
            is_hour = depth == len(_DIGITS) - 1
            if is_hour and listings.time_of(entry.mtime) >= before_seconds:
                continue  # files came late: do not list all of them
            if not is_hour and (found := await self._oldest(below, before_seconds, depth + 1)):
                return found
            inside = [one.name for one in (await self._list(below)).entries]
            files = [*filter(file_names.is_safe, inside)] if is_hour else []
            if inside and not files:
                continue
            if not await self._is_unchanged(folder, entry, before_seconds):  # while we listed it
                continue
            if files:
                return [path_of(below, name) for name in files]
            await self._call("DELETE", f"{below}/")
        return ()

    async def _is_unchanged(
        self, folder: str, entry: listings.Entry, before_seconds: float
    ) -> bool:
        """Tell whether a folder in `folder` exists and last changed before that time."""
        now = [e for e in (await self._list(folder)).entries if e.name == entry.name]
        return bool(now) and listings.time_of(now[0].mtime) < before_seconds

    async def _list(self, folder: str) -> listings.Listing:
        return await listings.read(self._site, f"dav/{folder}/", may_be_absent=True)


def _differing(name: str, folder: str) -> Moved:
    return Moved(name, f"{folder}/{name} exists and differs; rename one of the two")


def _refused(what: str, reply: Reply) -> str:
    return f"{what}: nginx answered {reply.status}; its error log says why"
