"""The spool behind Penstock's own file server: one call gets a page of names, or hundreds of files.

The server knows the arrival order and which files are complete; its cursor marks a place in that
order. The client remembers no listing.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from penstock import file_names
from penstock.errors import Again
from penstock.http1 import Reply
from penstock.model import FileRead, Page, SpoolIdentity, Unread
from penstock.ports import Moved
from penstock.source import frames as wire
from penstock.source.http import HttpSite

WAIT_SECONDS = 0.05
"""How long a worker's listing waits for something new; it makes every pass longer."""

_SMALL_BYTES = 65_536
_JSON = {"Content-Type": "application/json"}

_listing_decoder = msgspec.json.Decoder(wire.Listing)


class ServerSource:
    """`Source` over `penstock serve`; any number of them may share a server.

    `max_file_bytes` limits a file, `wait_seconds` how long a listing waits for something new.
    """

    def __init__(
        self,
        site: HttpSite,
        *,
        max_file_bytes: int,
        page_files_max: int = wire.PAGE_FILES_MAX,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._site = site
        self._max_file_bytes = max_file_bytes
        self._page_files_max = page_files_max
        self._wait_seconds = wait_seconds
        # Compression saves time between machines, and costs time within one.
        self._encoding = {} if site.is_local else {"Accept-Encoding": "gzip"}
        self._spool: str | None = None  # from the last answer

    async def list(self, cursor: str) -> Page:
        """See `Source.list`. A cursor from another server, or before its restart, starts over."""
        began = time.monotonic()
        reply = await self._call(
            "GET",
            "v1/files",
            body_bytes_max=_SMALL_BYTES + self._page_files_max * wire.ENTRY_BYTES_MAX,
            query={
                "after": cursor,
                "limit": str(self._page_files_max),
                "wait": f"{self._wait_seconds:g}",
            },
            headers=self._encoding,
            wait_seconds=self._wait_seconds,
        )
        try:
            listing = _listing_decoder.decode(reply.body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Again(f"list: the server's answer is not a listing: {error}") from None
        names, ignored = [file.name for file in listing.files], listing.ignored
        if not file_names.are_safe(names):
            names = [*filter(file_names.is_safe, names)]
            ignored += len(listing.files) - len(names)
        names = [*dict.fromkeys(names)]
        return Page(names, listing.cursor, began, ignored, unsettled=listing.unsettled)

    async def read(self, names: Sequence[str], bytes_max: int) -> Sequence[FileRead]:
        """See `Source.read`; at most 1,000 files a call."""
        wanted = names[: wire.CALL_NAMES_MAX]
        reply = await self._post(
            "v1/files:read",
            wire.ReadRequest([*wanted], bytes_max, self._max_file_bytes),
            bytes_max + self._max_file_bytes + len(wanted) * wire.ENTRY_BYTES_MAX,
            self._encoding,
        )
        files = wire.unframed(reply, wanted)
        return files if all(file.data for file in files) else [*map(self._allowed, files)]

    def _allowed(self, file: FileRead) -> FileRead:
        """Report a file that only the server finds too large as denied, not as empty."""
        if file.data == b"" and 0 < file.size_bytes <= self._max_file_bytes:
            why = f"{file.size_bytes} bytes; the server's own decode.max_file_bytes is smaller"
            return FileRead(file.name, Unread.DENIED, 0, 0.0, why)
        return file

    async def archive(self, names: Sequence[str]) -> Sequence[Moved]:
        """See `Source.archive`; the server's settings decide. Sends at most 1,000 names a call."""
        moved: list[Moved] = []
        for at in range(0, len(names), wire.CALL_NAMES_MAX):
            portion = [*names[at : at + wire.CALL_NAMES_MAX]]
            reply = await self._post("v1/files:archive", wire.ArchiveRequest(portion))
            moved += wire.moved(reply, portion)
        return moved

    async def reject(self, reasons: Mapping[str, str]) -> Sequence[Moved]:
        """See `Source.reject`."""
        reply = await self._post("v1/files:reject", wire.RejectRequest({**reasons}))
        return wire.moved(reply, reasons)

    async def delete_archived(self, older_than_days: float) -> int:
        """See `Source.delete_archived`; at most 10,000 files a call."""
        before = datetime.now(UTC) - timedelta(days=older_than_days)
        reply = await self._call(
            "DELETE",
            "v1/archive",
            body_bytes_max=_SMALL_BYTES,
            query={"before": before.isoformat()},
        )
        try:
            return msgspec.json.decode(reply.body, type=wire.Deleted).files_deleted
        except (msgspec.DecodeError, RecursionError) as error:
            raise Again(f"delete archived files: the server's answer is invalid: {error}") from None

    async def _post(
        self,
        path: str,
        question: msgspec.Struct,
        answer_bytes_max: int = _SMALL_BYTES + wire.CALL_NAMES_MAX * wire.ENTRY_BYTES_MAX,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        known = {wire.SPOOL_HEADER: self._spool} if self._spool else {}
        reply = await self._call(
            "POST",
            path,
            body_bytes_max=answer_bytes_max,
            body=msgspec.json.encode(question),
            headers={**_JSON, **known, **(headers or {})},
        )
        return reply.body

    async def _call(self, method: str, path: str, **given: Any) -> Reply:
        reply = await self._site.call(method, path, takes={200}, **given)
        self._spool = reply.headers.get(wire.SPOOL_HEADER, "")
        return reply

    async def identity(self) -> SpoolIdentity:
        """See `IdentifiedSource.identity`. Every answer has it; asks only before the first one."""
        if self._spool is None:
            await self._call("HEAD", "v1/openapi.json", body_bytes_max=_SMALL_BYTES)
        return SpoolIdentity.from_text(self._spool or "") or SpoolIdentity()

    async def close(self) -> None:
        """See `Source.close`."""
        await self._site.close()
