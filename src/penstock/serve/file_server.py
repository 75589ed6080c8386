"""The file server: the spool over HTTP, for workers on other machines (docs/file-api.md).

    GET  /v1/files?after=CURSOR&limit=N&wait=S     a page of names, in the order of the index
    GET  /v1/files/NAME                            one file
    POST /v1/files:read                            many files in one body
    POST /v1/files:archive, /v1/files:reject       moves many files out of the spool
    DELETE /v1/archive?before=TIME                 retention
    GET  /healthz                                  whether the directory can be listed

Each call uses the same `DirectorySource` that a worker on this machine would use.
"""

import asyncio
import contextlib
import gzip
import importlib.resources
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec
from aiohttp import hdrs, web
from msgspec.structs import replace

from penstock import telemetry
from penstock.aio import sleep_unless
from penstock.errors import Again
from penstock.model import FileRead, SpoolIdentity
from penstock.serve.guard import Access, May, Refused, needed, needs
from penstock.serve.web import BODY_BYTES_MAX, application, reply
from penstock.source import frames as wire
from penstock.source.directory import DirectorySource

T = TypeVar("T", bound=msgspec.Struct)

_PAGE_FILES = 1_000  # by default
_WAIT_SECONDS_MAX = 30.0
_FRAME_BYTES_MAX = 64 << 20  # even if a caller accepts more
_FRAME_AT_HAND_BYTES = 4 << 20  # joined on the event loop, in about a millisecond
_READS_MAX = 8  # frames made at the same time: at most half a gigabyte
_FRAMES_BYTES_MAX = 512 << 20  # of all frames that callers are still receiving
_NAMES_BYTES_MAX = 256 * wire.CALL_NAMES_MAX  # of 240 bytes each, and JSON around them
_SMALL_BYTES = 65_536
_LARGE_MAX = 2  # larger bodies in memory at a time; others wait on the wire
_BODY_SECONDS = 30.0  # for a caller to send its body
_SEND_SECONDS = 60.0  # for a caller to receive a frame
_PACK_PAUSE_SECONDS = 5.0
_COMPRESS_BYTES_MIN = 1_024
_COMPRESS_LEVEL = 1  # 100 MB/s; level 6 is a tenth smaller, but three times slower

OPENAPI = (
    importlib.resources.files("penstock.serve").joinpath("file_server_openapi.json").read_bytes()
)
"""The OpenAPI description of the calls, in JSON."""


class FileServer:
    """The calls over one spool. The server owns `source`, which watches the directory."""

    def __init__(self, source: DirectorySource) -> None:
        self._source = source
        self._reads = asyncio.Semaphore(_READS_MAX)
        self._large = asyncio.Semaphore(_LARGE_MAX)
        self._frames_bytes = 0  # made, but not received yet
        self._ends = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        """Add the calls to an application."""
        app.add_routes(
            [
                web.get("/v1/files", self.list, allow_head=False),
                web.get("/v1/files/{name}", self.get),
                web.post("/v1/files:read", self.read),
                web.post("/v1/files:archive", self.archive),
                web.post("/v1/files:reject", self.reject),
                web.delete("/v1/archive", self.delete_archived),
                web.get("/v1/openapi.json", self.describe),
                web.get("/healthz", self.health),
            ]
        )
        app.cleanup_ctx.append(self._running)
        app.on_shutdown.append(self._stop)
        app.on_response_prepare.append(self._say_spool)

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        await self._source.index.open()
        with contextlib.suppress(Again):  # each call tries again
            await self._source.identity()
        packing = asyncio.create_task(self._keep_packing())
        yield
        self._ends.set()
        await packing
        await self._source.close()

    async def _keep_packing(self) -> None:
        """With `archive.action = 'pack'`, pack what callers archived; their calls only stage it."""
        while not await sleep_unless(self._ends, _PACK_PAUSE_SECONDS):
            with contextlib.suppress(Again):  # the spool is away; each call says so
                await self._source.pack(self._ends.is_set)

    async def _stop(self, _: web.Application) -> None:
        self._source.index.stop_waiting()

    async def _say_spool(self, request: web.Request, response: web.StreamResponse) -> None:
        """Name the spool in each answer, except to callers without a token."""
        if response.status == web.HTTPOk.status_code and needed(request) is not May.NOTHING:
            with contextlib.suppress(Again):
                identity = await self._source.identity()
                response.headers[wire.SPOOL_HEADER] = identity.as_text()

    async def _check_spool(self, request: web.Request) -> None:
        """Refuse to move files if the caller means another spool. Raises Again or Refused."""
        meant = SpoolIdentity.from_text(request.headers.get(wire.SPOOL_HEADER, ""))
        if meant and (await self._source.identity()).matches(meant) is False:
            raise Refused(409, "the spool has been replaced by another one; list its files again")

    @needs(May.READ)
    async def list(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/files."""
        given = _query(request, {"after", "limit", "wait"})
        limit = int(_number(given, "limit", _PAGE_FILES, 1, wire.PAGE_FILES_MAX))
        wait_seconds = _number(given, "wait", 0.0, 0.0, _WAIT_SECONDS_MAX)
        page = await self._source.index.page(given.get("after", ""), limit, wait_seconds)
        files = map(wire.ListedFile, page.names, page.sizes_bytes, page.modified_at_seconds)
        listing = wire.Listing([*files], page.cursor, page.ignored, page.unsettled)
        return await _sent(request, msgspec.json.encode(listing), "application/json")

    @needs(May.READ)
    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/files/NAME, always whole: its callers are people and scripts."""
        (file,) = await self._source.read([request.match_info["name"]], 1)
        if not isinstance(file.data, bytes):
            raise Refused(404, "no such file")
        if len(file.data) != file.size_bytes:
            raise Refused(403, f"the file's {file.size_bytes} bytes exceed decode.max_file_bytes")
        return web.Response(
            body=file.data,
            headers={hdrs.CONTENT_DISPOSITION: "attachment"},
            content_type="application/octet-stream",
        )

    @needs(May.READ)
    async def read(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/files:read."""
        async with self._question(request, wire.ReadRequest) as question:
            _check_count(question.names)
        if self._frames_bytes > _FRAMES_BYTES_MAX:
            raise Refused(503, "callers receive their frames too slowly; try again later")
        async with self._reads:
            bytes_max = min(question.bytes_max, _FRAME_BYTES_MAX)
            files = await self._source.read(question.names, bytes_max)
            frame = await _frame(files, question.max_file_bytes)
            del files
            self._frames_bytes += len(frame)
        try:
            return await _sent(request, frame, wire.FRAME_TYPE)
        finally:
            self._frames_bytes -= len(frame)

    @contextlib.asynccontextmanager
    async def _question(
        self, request: web.Request, kind: type[T], bytes_max: int = _NAMES_BYTES_MAX
    ) -> AsyncGenerator[T]:
        """Yield the body of a call; only a few large ones are in memory at once. Raises Refused."""
        if request.content_type != "application/json":
            raise Refused(415, "Content-Type: must be application/json")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise Refused(415, "Content-Encoding: the body must not be compressed")
        too_large = f"the body is larger than {bytes_max:,} bytes"
        if (request.content_length or 0) > bytes_max:
            raise Refused(413, too_large)
        async with contextlib.AsyncExitStack() as held:
            body = bytearray()
            held.callback(body.clear)  # else the error of a lost connection keeps it
            try:
                async with asyncio.timeout(_BODY_SECONDS):
                    async for chunk in request.content.iter_any():
                        if len(body) <= _SMALL_BYTES < len(body) + len(chunk):
                            await held.enter_async_context(self._large)
                        body += chunk
                        if len(body) > bytes_max:
                            raise Refused(413, too_large)
                if len(body) > _SMALL_BYTES and _has_many_strings(body):
                    raise Refused(400, f"allowed: 1 to {wire.CALL_NAMES_MAX:,} names")
                question = msgspec.json.decode(body, type=kind)
            except TimeoutError:
                raise Refused(408, f"the body took longer than {_BODY_SECONDS:g} s") from None
            except (msgspec.DecodeError, RecursionError) as error:
                raise Refused(400, str(error)) from None
            body.clear()
            yield question

    async def archive(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/files:archive."""
        async with self._question(request, wire.ArchiveRequest) as question:
            _check_count(question.names)
            await self._check_spool(request)
            return reply(wire.MovedFiles([*await self._source.archive(question.names)]))

    async def reject(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/files:reject."""
        async with self._question(request, wire.RejectRequest, BODY_BYTES_MAX) as question:
            _check_count(question.reasons)
            for name, reason in question.reasons.items():
                try:
                    msgspec.json.decode(reason, type=dict[str, msgspec.Raw])
                except (msgspec.DecodeError, RecursionError):
                    raise Refused(400, f"reasons: {name[:240]!r}: not a JSON object") from None
            await self._check_spool(request)
            return reply(wire.MovedFiles([*await self._source.reject(question.reasons)]))

    async def delete_archived(self, request: web.Request) -> web.StreamResponse:
        """DELETE /v1/archive."""
        given = _query(request, {"before"})
        before = None
        with contextlib.suppress(ValueError):
            before = datetime.fromisoformat(given.get("before", ""))
        if before is None or before.tzinfo is None:
            raise Refused(400, "before: not a time with an offset; allowed: 2026-11-25T12:00:00Z")
        days = (time.time() - before.timestamp()) / 86_400
        return reply(wire.Deleted(await self._source.delete_archived(days)))

    @needs(May.READ)
    async def describe(self, _: web.Request) -> web.StreamResponse:
        """GET /v1/openapi.json."""
        return web.Response(body=OPENAPI, content_type="application/json")

    @needs(May.NOTHING)
    async def health(self, _: web.Request) -> web.StreamResponse:
        """GET /healthz."""
        self._source.index.check_spool()
        return reply({"status": "ok"})


def _query(request: web.Request, known: Collection[str]) -> Mapping[str, str]:
    """Return the query, each name at most once. Raises Refused."""
    for name in request.query:
        if name not in known or len(request.query.getall(name)) > 1:
            allowed = ", ".join(sorted(known))
            raise Refused(400, f"query: {name[:100]!r} is not allowed; allowed, once: {allowed}")
    return request.query


def _number(
    given: Mapping[str, str], name: str, default: float, least: float, most: float
) -> float:
    """Return a number of the query, in plain digits. Raises Refused."""
    text, is_whole = given.get(name, str(default)), isinstance(default, int)
    digits = r"\d{1,19}" if is_whole else r"\d{1,9}(\.\d{1,9})?"
    if re.fullmatch(digits, text, re.ASCII) and least <= float(text) <= most:
        return float(text)
    kind = "a whole number" if is_whole else "a number"
    raise Refused(400, f"{name}: must be {kind} from {least:g} to {most:g}")


def _has_many_strings(body: bytearray) -> bool:
    """Tell whether a large body has more strings than a thousand names with their reasons.

    Decoded, a million empty strings take ten times the memory of their JSON. This counts quotes
    without a backslash before them: each string has one or two.
    """
    return body.count(b'"') - body.count(b'\\"') > 2 * (2 * wire.CALL_NAMES_MAX + 1)


def _check_count(names: Sequence[str] | Mapping[str, str]) -> None:
    if not 1 <= len(names) <= wire.CALL_NAMES_MAX:
        raise Refused(400, f"{len(names)} names; allowed: 1 to {wire.CALL_NAMES_MAX:,}")
    if len(set(names)) < len(names):
        raise Refused(400, "names: a name is given twice; give each once")


async def _frame(files: Sequence[FileRead], max_file_bytes: int) -> bytes:
    """Return a frame of files; files too large for the caller come without their bytes."""
    if any(file.size_bytes > max_file_bytes for file in files):
        files = [f if f.size_bytes <= max_file_bytes else replace(f, data=b"") for f in files]
    if sum(file.size_bytes for file in files) <= _FRAME_AT_HAND_BYTES:
        return b"".join(wire.framed(files))
    return await asyncio.to_thread(lambda: b"".join(wire.framed(files)))


async def _sent(request: web.Request, body: bytes, content_type: str) -> web.StreamResponse:
    """Send a large body, compressed if the caller asks for it; cut off a slow caller."""
    response = web.StreamResponse()
    response.content_type = content_type
    accepts = request.headers.get(hdrs.ACCEPT_ENCODING, "").lower()
    if "gzip" in accepts and len(body) >= _COMPRESS_BYTES_MIN:
        body = await asyncio.to_thread(gzip.compress, body, _COMPRESS_LEVEL, mtime=0)
        response.headers[hdrs.CONTENT_ENCODING] = "gzip"
    response.content_length = len(body)
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            await response.prepare(request)
            await response.write(body)
            await response.write_eof()
    except TimeoutError:
        telemetry.warn("http.cut_off", path=request.path, remote=request.remote)
        if request.transport is not None:
            request.transport.abort()
    return response


def new_app(source: DirectorySource, access: Access) -> web.Application:
    """Return a file server's application; it opens and closes the source's watch."""
    app = application(access)
    FileServer(source).add_to(app)
    return app
