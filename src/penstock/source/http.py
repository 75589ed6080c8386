"""One HTTP server that holds a spool: requests to it, and what their failures mean.

    a reply with a status that the caller takes     is returned, its body bounded
    no answer, cut off, 408, 409, 425, 429, 5xx     Again
    a redirect, 401, 403, any other status          Halt

Every request goes to the scheme, host and port of the settings: no redirects, no proxy, no cookies.
Every call is safe to repeat. A call whose connection broke is repeated once: a server may close an
idle connection just when we use it again.
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
"""Calls to nginx in flight at once: a claim has hundreds of files. More would not be faster."""

_UNIX = "http+unix"
_TLS_OR_NOT = " ssl:default"  # aiohttp adds this to an address, even over plain HTTP
_LATER = frozenset({408, 409, 425, 429})  # and every 5xx; 409: another spool is there now
_IDLE_SECONDS = 15.0  # a connection idle for longer is not used again: servers close theirs too
_REASON_BYTES = 300  # of a refusal's body, quoted in the error


class CutOff(Again):
    """The connection broke twice before the answer was complete."""


class HttpSite:
    """Requests below one address.

    `url` is `http://host[:port][/path]`, `https://…`, or `http+unix:///path/to/socket`. `token`, if
    given, is sent as a bearer token. `ca_file` has the certificates to trust instead of the
    system's. `timeout_seconds` limits a whole call. Raises Halt if `url` or `ca_file` is unusable.
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

        `path` is below the address, quoted. `body_bytes_max` limits the body on the wire and after
        decompression. `wait_seconds` is added to the timeout if the server was asked to wait.
        `admit` decides by the header fields whether to read the body; if not, the reply has none.
        Raises Again or Halt.
        """
        # Not URL.joinpath, which parses the address again for every file.
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
        """GET `paths` as `call` would; return the replies to the first one or first few.

        If the replies are simple, all requests go out together, each for less than a tenth of the
        cost of `call`. Otherwise `call` gets the first path. `admit` also gets the position of the
        path, and may be called twice for one. Raises Again or Halt if the first path has no reply.
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
        """Return the connections for simple replies; None if only `call` can be used."""
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
        """Return the path of `below` on the server, as DAV's Destination needs it."""
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
                skip_auto_headers={"Accept-Encoding"},  # else aiohttp asks for gzip by itself
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
    """Run a lane several times at once. Raises the first error, which ends all of them."""
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
    """Return the announced length of a body in bytes; None if there is none."""
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
            "source.url: contains more than host, port and path; allowed: http://host:port/path;"
            " put the token in source.token_file or PENSTOCK_SOURCE__TOKEN"
        )
    if parts.scheme == _UNIX and not parts.netloc and parts.path.strip("/"):
        return URL("http://localhost/"), unquote(parts.path)
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        shown = "…" if "@" in url else repr(url)  # it may hold a password
        raise Halt(
            f"source.url: {shown} is not an address; allowed: a directory, http://host:port,"
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
        return Halt(f"{text}; redirects are not followed: set source.url to the final address")
    return Halt(f"{text}; check that source.url names a server that Penstock can read from")


async def _bounded(response: aiohttp.ClientResponse, bytes_max: int, what: str) -> bytes:
    """Read and decompress a body. Raises Again, without reading on, if it is too large."""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in {"identity", "gzip"}:
        raise Again(f"{what}: answered in the encoding {encoding!r}, which was not requested")
    gunzip = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    parts: list[bytes] = []
    total = 0
    async for chunk in response.content.iter_any():
        try:
            part = gunzip.decompress(chunk, bytes_max + 1 - total) if gunzip else chunk
        except zlib.error as error:
            raise Again(f"{what}: its compressed answer is corrupt: {error}") from None
        total += len(part)
        if total > bytes_max:
            response.close()
            raise Again(f"{what}: answered more than {bytes_max} bytes")
        if gunzip and gunzip.unused_data:
            response.close()
            raise Again(f"{what}: its compressed answer is followed by other data")
        parts.append(part)
    if gunzip and not gunzip.eof:
        raise Again(f"{what}: its compressed answer is cut off")
    return b"".join(parts)
