"""nginx's listing of a directory: `autoindex_format json`, without pages, made for each request.

nginx reads the names, then looks at each entry. If one vanishes in between, it answers 500 or cuts
off its answer; the request is then repeated. Times are whole seconds.
"""

import asyncio
import functools
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated, NamedTuple

import msgspec

from penstock.errors import Again, Missing
from penstock.source.http import CutOff, HttpSite

_BYTES_MAX = 134_217_728  # 1.2 million entries of 110 bytes, which take nginx 4 seconds
_SECONDS_MAX = 60.0  # added to a call's timeout
_ATTEMPTS = 8
_PAUSE_SECONDS = 0.02
_TAKEN = frozenset({HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR})


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of a listing; `type` is file, directory or other, `size` is in bytes."""

    name: str
    type: str
    mtime: str
    size: Annotated[int, msgspec.Meta(ge=0)] = 0


class Listing(NamedTuple):
    """A directory's entries, and the server's time, in seconds since 1970, when it looked."""

    entries: Sequence[Entry]
    at_seconds: float


_decode = msgspec.json.Decoder(list[Entry]).decode


async def read(site: HttpSite, path: str, *, may_be_absent: bool = False) -> Listing:
    """Return the entries of a directory; none if it does not exist but `may_be_absent`.

    Raises Again or Halt; Missing if it does not exist.
    """
    for attempt in range(_ATTEMPTS):
        try:
            reply = await site.call(
                "GET", path, takes=_TAKEN, body_bytes_max=_BYTES_MAX, wait_seconds=_SECONDS_MAX
            )
        except CutOff as error:
            if attempt == _ATTEMPTS - 1:
                raise Again(f"list {path}: {error}; nginx's error log says why") from None
        else:
            if reply.status == HTTPStatus.OK:
                entries = await asyncio.to_thread(_entries, path, reply.body)
                return Listing(entries, time_of(reply.headers.get("Date", "")))
            if reply.status == HTTPStatus.NOT_FOUND and may_be_absent:
                return Listing((), 0.0)
            if reply.status == HTTPStatus.NOT_FOUND:
                url = site.path(path)
                raise Missing(
                    f"list {url}: nginx answered 404; check that source.url names the spool"
                )
        await asyncio.sleep(_PAUSE_SECONDS * 2**attempt)
    raise Again(
        f"list {path}: nginx answered 500 {_ATTEMPTS} times; its error log says why, unless files"
        " vanished while it listed them"
    )


def _entries(path: str, body: bytes) -> Sequence[Entry]:
    try:
        try:
            return _decode(body)
        except UnicodeDecodeError:  # a name that is not UTF-8 is not one of our files
            return _decode(body.decode("utf-8", "replace"))
    except msgspec.DecodeError as error:
        raise Again(
            f"list {path}: {error}; check that source.url names a location of deploy/nginx.conf,"
            " with `autoindex_format json`"
        ) from None


@functools.lru_cache(maxsize=4096)
def time_of(date: str) -> float:
    """Return an HTTP date in seconds since 1970. Raises Again if it is not valid."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        raise Again(f"nginx answered with an invalid date: {date[:40]!r}") from None
