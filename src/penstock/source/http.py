"""One HTTP server that holds a spool: requests to it, and what their failures mean.

    a reply with a status that the caller takes     is returned, its body bounded
    no answer, cut off, 408, 409, 425, 429, 5xx     Again
    a redirect, 401, 403, any other status          Halt

Scheme, host and port are those of the settings, whatever a reply says; nothing is followed, no
proxy is used, no cookie kept. Every call to the directory is safe to repeat, so one is, once, where
a connection broke: a server may close a connection that lay idle just when we use it again.
"""

import asyncio
import ssl
import zlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import aiohttp
from yarl import URL

from penstock.errors import Again, Halt, untrusted
from penstock.http1 import Admit, Http1Client, Reply
from penstock.loopback import is_loopback

T = TypeVar("T")
R = TypeVar("R")

CONNECTIONS = 32
"""Calls to nginx in flight at once, as a claim is hundreds of files; more is no faster."""

_UNIX = "http+unix"
_TLS_OR_NOT = " ssl:default"  # aiohttp's word for an address, over plain HTTP as well
_LATER = frozenset({408, 409, 425, 429})  # and every 5xx; 409: another spool is there now
_IDLE_SECONDS = 15.0  # a connection idle for longer is not used again: servers close theirs too
_REASON_BYTES = 300  # of a refusal's body stand in the error


class CutOff(Again):
    """The connection broke before there was a whole answer, twice."""


class HttpSite:
    """Requests below one address.

    `url` is `http://host[:port][/path]`, `https://…`, or `http+unix:///path/to/socket`. `token` is
    sent as a bearer token, if there is one. `ca_file` holds the certificates that are trusted
    instead of the system's. `timeout_seconds` is for one call from beginning to end. Raises Halt if
    `url` is none of these or `ca_file` cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        ca_file: str = "",
        timeout_seconds: float = 10.0,
        connections: int = 16,
    ) -> None:
        self._url, self._socket = _address(url)
        self._below = str(self._url).rstrip("/") + "/"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls = _trust(ca_file) if self._url.scheme == "https" else None
        self._timeout_seconds = timeout_seconds
        self._connections = connections
        self._opened: aiohttp.ClientSession | None = None
        self._plain: Http1Client | None = None

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine: then compression costs more than it saves."""
        return bool(self._socket) or is_loopback(self._url.host or "")

    async def call(
        self,
        method: str,
        path: str,
        *,
        takes: Collection[int],
        body_bytes_max: int,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        wait_seconds: float = 0.0,
        admit: Callable[[Mapping[str, str]], bool] | None = None,
    ) -> Reply:
        """Send one request; return its reply if its status is among `takes`.

        `path` is below the address, quoted. `body_bytes_max` bounds the body
        on the wire and after decompression. `wait_seconds` is how much longer than usual the server
        may take because it was asked to wait. `admit` is asked, with the header fields, whether the
        body shall be read; where it is not, the reply has none. Raises Again or Halt.
        """
        # Not URL.joinpath, which parses the address anew for every file.
        target = URL(f"{self._below}{path}", encoded=True)
        target = target.with_query(query) if query else target
        what = f"{method} {self._below}{path}"
        for attempt in (1, 2):
            try:
                async with (
                    asyncio.timeout(self._timeout_seconds + wait_seconds),
                    self._session().request(
                        method, target, headers=headers, data=body, allow_redirects=False
                    ) as response,
                ):
                    if response.status not in takes:
                        start = await response.content.read(_REASON_BYTES)
                        raise _refusal(what, response.status, start)
                    if admit and not admit(response.headers):
                        response.close()
                        return Reply(response.status, response.headers, b"", is_whole=False)
                    body_read = await _bounded(response, body_bytes_max, what)
                    return Reply(response.status, response.headers, body_read)
            except TimeoutError:
                raise Again(f"{what}: no answer in {self._timeout_seconds:g} s") from None
            except aiohttp.ClientConnectorCertificateError as error:
                raise Halt(f"{what}: {untrusted(error)}") from None
            except (aiohttp.ClientError, OSError) as error:
                if attempt == 2:  # noqa: PLR2004  the second and last
                    cause = str(error).replace(_TLS_OR_NOT, "") or type(error).__name__
                    raise CutOff(f"{what}: {cause}") from None
        raise AssertionError  # the loop returns or raises

    async def get(
        self, paths: Sequence[str], *, takes: Collection[int], body_bytes_max: int, admit: Admit
    ) -> Sequence[Reply]:
        """Do as `call` with GET for paths; return the replies to the first of them, or first few.

        They are asked for at once, each for less than a tenth of what `call` costs, where replies
        are as simple as can be; that they are not is left to `call`. `admit` is asked, as of
        `call`, with the place of a path among `paths` and the header fields; it may be asked twice
        for one. Raises Again or Halt, for the first path, where there is no reply at all.
        """
        plain = self._plain_client()
        if plain is not None:
            above = f"{self._url.raw_path.rstrip('/')}/"
            try:
                replies = await plain.get(
                    [above + path for path in paths],
                    {"Host": self._url.host_port_subcomponent or "", **self._headers},
                    takes=takes,
                    body_bytes_max=body_bytes_max,
                    admit=admit,
                )
            except TimeoutError:
                what = f"GET {self._below}{paths[0]}"
                raise Again(f"{what}: no answer in {self._timeout_seconds:g} s") from None
            if replies:
                return replies
        reply = await self.call(
            "GET",
            paths[0],
            takes=takes,
            body_bytes_max=body_bytes_max,
            admit=lambda headers: admit(0, headers),
        )
        return (reply,)

    def _plain_client(self) -> Http1Client | None:
        """Return the connections for simple replies; None where `call` has to see to it."""
        written = "".join(self._headers.values())
        if self._socket or not (self._url.port and written.isascii() and written.isprintable()):
            return None
        if self._plain is None:
            secure = self._url.scheme == "https"
            self._plain = Http1Client(
                self._url,
                tls=(self._tls or ssl.create_default_context()) if secure else None,
                timeout_seconds=self._timeout_seconds,
            )
        return self._plain

    def path(self, below: str) -> str:
        """Return the path that `below` has on the server, as DAV's Destination wants it."""
        return URL(f"{self._below}{below}", encoded=True).raw_path

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            kept: Any = {"limit": self._connections, "keepalive_timeout": _IDLE_SECONDS}
            connector = (
                aiohttp.UnixConnector(self._socket, **kept)
                if self._socket
                else aiohttp.TCPConnector(ssl=self._tls or True, **kept)
            )
            self._opened = aiohttp.ClientSession(
                connector=connector,
                headers=self._headers,
                skip_auto_headers={"Accept-Encoding"},  # else aiohttp asks for gzip, unasked
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=False,
            )
        return self._opened

    async def close(self) -> None:
        """Close the connections; nothing is called afterwards."""
        if self._plain is not None:
            self._plain.close()
        if self._opened is not None:
            await self._opened.close()


async def in_lanes(lanes: int, lane: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a lane several times at once; the first error ends them all, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(lane())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def each(items: Sequence[T], do: Callable[[T], Awaitable[R]]) -> list[R]:
    """Return what `do` returns for each item, in their order. Raises what it raises."""
    done: dict[int, R] = {}
    waiting = iter(range(len(items)))

    async def lane() -> None:
        for index in waiting:
            done[index] = await do(items[index])

    await in_lanes(min(CONNECTIONS, len(items)), lane)
    return [done[index] for index in range(len(items))]


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return how many bytes a body is announced to have; None if it is not."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isdecimal() and text.isascii() else None


def _address(url: str) -> tuple[URL, str]:
    """Return the address of all requests, and the socket's path if it is one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise Halt(
            "source.url: holds more than host, port and path; allowed: http://host:port/path,"
            " the token in source.token_file or PENSTOCK_SOURCE__TOKEN"
        )
    if parts.scheme == _UNIX and not parts.netloc and parts.path.strip("/"):
        return URL("http://localhost/"), unquote(parts.path)
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        shown = "…" if "@" in url else repr(url)  # it may hold a password
        raise Halt(
            f"source.url: {shown} is no address; allowed: a directory, http://host:port,"
            " https://host:port, http+unix:///socket, or nginx+http://host/path/"
        )
    return URL(url), ""


def _trust(ca_file: str) -> ssl.SSLContext | None:
    if not ca_file:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Halt(f"source.ca_file: {ca_file} cannot be used: {error}") from None


def _refusal(what: str, status: int, body: bytes) -> Again | Halt:
    said = " ".join(body.decode("utf-8", "replace").split())
    text = f"{what}: answered {status}" + (f": {said}" if said.isprintable() and said else "")
    if status in _LATER or status >= 500:  # noqa: PLR2004  the class of server errors
        return Again(text)
    if status in {401, 403}:
        return Halt(f"{text}; check source.token or source.token_file")
    if 300 <= status < 400:  # noqa: PLR2004  the class of redirects
        return Halt(f"{text}; redirects are not followed: put its own address in source.url")
    return Halt(f"{text}; check that source.url names a server that Penstock can read from")


async def _bounded(response: aiohttp.ClientResponse, bytes_max: int, what: str) -> bytes:
    """Read a whole body, decompressed; what is larger is not read to its end. Raises Again."""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in {"identity", "gzip"}:
        raise Again(f"{what}: answered in the encoding {encoding!r}, which was not asked for")
    gunzip = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    parts: list[bytes] = []
    total = 0
    async for chunk in response.content.iter_any():
        try:
            part = gunzip.decompress(chunk, bytes_max + 1 - total) if gunzip else chunk
        except zlib.error as error:
            raise Again(f"{what}: its compressed answer is broken: {error}") from None
        total += len(part)
        if total > bytes_max:
            response.close()
            raise Again(f"{what}: answered more than {bytes_max} bytes")
        if gunzip and gunzip.unused_data:
            response.close()
            raise Again(f"{what}: something follows its compressed answer")
        parts.append(part)
    if gunzip and not gunzip.eof:
        raise Again(f"{what}: its compressed answer is cut off")
    return b"".join(parts)
