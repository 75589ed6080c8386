"""The console: one page over one spool, live; and /metrics, for those who watch many.

    GET  /, /console.css, /console.js    the page: the same for everybody, without any data
    GET  /v1/status, /v1/status/stream   a snapshot; one a second as server-sent events
    GET  /v1/rejects                     the latest rejects with their reasons
    POST /v1/rejects:retry               put some of them back
    GET  /metrics                        Prometheus

No record's content is in any of it. The page asks with `Authorization: Bearer`, never with a
cookie, so no other site can make a browser act here; where there is no token, calls must name a
loopback host, so that no other site can pose as this one.
"""

import asyncio
import importlib.resources
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import hdrs, web

from penstock import wiring
from penstock.aio import sleep_unless
from penstock.errors import Again, Halt
from penstock.loopback import is_loopback
from penstock.operate import metrics, requeue
from penstock.operate.observer import Observer
from penstock.operate.spool_files import RejectedFile, local_places, rejected_file, spool_files
from penstock.serve.web import Refused
from penstock.settings.schema import Settings

PAGES = {
    path: (importlib.resources.files("penstock.serve").joinpath(name).read_bytes(), content_type)
    for path, name, content_type in (
        ("/", "console.html", "text/html"),
        ("/console.css", "console.css", "text/css"),
        ("/console.js", "console.js", "text/javascript"),
    )
}
"""The page's files and their types; read once, so that an upgrade in place cannot mix versions."""
OPEN_TO_ALL = frozenset(PAGES)
"""What needs no token: it holds no data."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STREAM_SECONDS = 1.0
_STREAMS_MAX = 32
_WRITE_SECONDS = 30.0  # for a page to take one snapshot: a phone that sleeps keeps no place
_REJECTS_SHOWN = 50
_RETRIES_MAX = 500
_REJECTS_SECONDS = 1.0  # between two looks at the rejects, however many pages ask
_REJECTS_SHARE_MAX = 0.1  # of the time goes into them: the directory may hold 100,000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Retry(msgspec.Struct, forbid_unknown_fields=True):
    names: list[str]


class Console:
    """The console over what an observer sees. `has_tokens`: callers must have one (web.py)."""

    def __init__(self, settings: Settings, observer: Observer, *, has_tokens: bool) -> None:
        self._settings = settings
        self._observer = observer
        self._has_tokens = has_tokens
        self._stop = asyncio.Event()
        self._streams = 0
        self._rejects: Mapping[str, object] = {}
        self._rejects_began = self._rejects_until = 0.0  # on the monotonic clock
        self._rejects_lock = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Add the page and its calls to an application."""
        for path in PAGES:
            app.router.add_get(path, self._guarded(self.page))
        app.router.add_get("/v1/status", self._guarded(self.status))
        app.router.add_get("/v1/status/stream", self._guarded(self.stream))
        app.router.add_get("/v1/rejects", self._guarded(self.rejects))
        app.router.add_post("/v1/rejects:retry", self._guarded(self.retry))
        app.router.add_get("/metrics", self._guarded(self.metrics))
        app.on_shutdown.append(self._end)
        app.on_cleanup.append(self._close)

    async def _end(self, _: web.Application) -> None:
        self._stop.set()

    async def _close(self, _: web.Application) -> None:
        await self._observer.close()

    def _guarded(self, handler: Handler) -> Handler:
        """Refuse a host that is not this machine, where no token tells who calls.

        And refuse another site's page in an operator's browser everything but a link to ours: it
        could read nothing, but it would take the streams from the operators.
        """

        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._has_tokens and not _is_local(request):
                raise Refused(403, "Host: without a token, only a name of this machine's own")
            if request.path not in PAGES and _is_of_another_site(request):
                raise Refused(403, "Origin: another site's")
            return await handler(request)

        return guarded

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Return one of the page's three files."""
        body, content_type = PAGES[request.path]
        headers = {
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    async def status(self, _: web.Request) -> web.StreamResponse:
        """GET /v1/status."""
        return web.json_response(await self._seen())

    async def _seen(self) -> Mapping[str, object]:
        snapshot = await self._observer.snapshot(at_most_seconds_old=_STREAM_SECONDS * 0.9)
        return snapshot.as_dict()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/status/stream: one `data:` line a second until the caller goes or we stop."""
        if self._streams >= _STREAMS_MAX:
            raise Refused(503, f"{_STREAMS_MAX} pages are open already")
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        self._streams += 1
        try:
            await response.prepare(request)
            while not self._stop.is_set():
                text = json.dumps(await self._seen(), separators=(",", ":"))
                async with asyncio.timeout(_WRITE_SECONDS):
                    await response.write(f"data: {text}\n\n".encode())
                await sleep_unless(self._stop, _STREAM_SECONDS)
        except (ConnectionError, TimeoutError):
            pass  # the page was closed, or nobody reads it any more: it asks anew if it wakes
        finally:
            self._streams -= 1
        return response

    async def rejects(self, _: web.Request) -> web.StreamResponse:
        """GET /v1/rejects: the latest, the newest first."""
        asked = time.monotonic()
        async with self._rejects_lock:
            if self._rejects_began < asked:  # else another page's look began after this question
                pause = self._rejects_until - time.monotonic()
                await sleep_unless(self._stop, max(0.0, pause))
                self._rejects_began = began = time.monotonic()
                self._rejects = await self._latest_rejects()
                took = time.monotonic() - began
                self._rejects_until = began + max(_REJECTS_SECONDS, took / _REJECTS_SHARE_MAX)
            return web.json_response(self._rejects)

    async def _latest_rejects(self) -> Mapping[str, object]:
        """Return what /v1/rejects answers. Raises Refused if the directory cannot be read."""
        found = await self._rejected_in_ledger()
        total = len(found)
        try:
            where = local_places(self._settings)
        except Halt as error:
            raise Refused(409, str(error)) from None
        if where:
            try:
                kept, count = await asyncio.to_thread(where.latest_rejected, _REJECTS_SHOWN)
            except OSError as error:
                raise Refused(503, f"{where.rejects}: {error.strerror}") from None
            found = {file.name: file for file in kept} | found
            total += count
        latest = sorted(found.values(), key=lambda file: file.rejected_at, reverse=True)
        shown = [
            {
                "file": file.name,
                "reason": _reason(file),
                "records_rejected": file.records_rejected,
                "rejected_at": file.rejected_at,
            }
            for file in latest[:_REJECTS_SHOWN]
        ]
        return {"rejects": shown, "total": total, "can_retry": where is not None}

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/rejects:retry {"names": […]}."""
        if request.content_type != "application/json":
            raise Refused(415, "Content-Type: must be application/json")
        try:
            names = msgspec.json.decode(await request.read(), type=_Retry).names
        except msgspec.MsgspecError as error:
            raise Refused(400, str(error)) from None
        if not 1 <= len(names) <= _RETRIES_MAX:
            raise Refused(400, f"names: 1 to {_RETRIES_MAX}")
        try:
            where = spool_files(self._settings, "retry")
            ledger = await self._observer.ledger()
            found = {n: where.rejected_one(n) for n in names if where.has_rejected(n)}
            found |= await self._rejected_in_ledger()
            chosen = [found[name] for name in dict.fromkeys(names) if name in found]
            report = await requeue.retried(
                self._settings, ledger, where, chosen, self._stop, patience_seconds=0.0
            )
        except Halt as error:
            raise Refused(409, str(error)) from None
        except (
            OSError
        ) as error:  # a directory that cannot be used: a step may be done, no file lost
            raise Refused(409, f"{error.filename}: {error.strerror}; try again") from None
        report.refused |= {name: "it is no reject" for name in names if name not in found}
        self._rejects_until = 0.0
        self._observer.rejects_changed()
        return web.json_response({"done": report.done, "refused": report.refused})

    async def metrics(self, _: web.Request) -> web.StreamResponse:
        """GET /metrics."""
        snapshot = await self._observer.snapshot(at_most_seconds_old=_STREAM_SECONDS)
        body = metrics.exposition(snapshot, self._settings.status)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE})

    async def _rejected_in_ledger(self) -> dict[str, RejectedFile]:
        try:
            reasons = await requeue.rejected_in_ledger(await self._observer.ledger())
        except (Again, Halt):
            return {}  # Redis is away: what lies in the rejects directory is shown all the same
        return {name: rejected_file(name, text, moved=False) for name, text in reasons.items()}


def add_console(app: web.Application, settings: Settings, *, has_tokens: bool) -> None:
    """Add the console over the spool of `settings` to an application, which closes it."""
    wiring.import_parts(settings)
    Console(settings, Observer(settings), has_tokens=has_tokens).add_to(app)


def _reason(file: RejectedFile) -> str:
    records = file.story.get("records") or ()
    first = str(records[0]["reason"]) if records else ""
    text = f"{file.reason}: {first}" if first else file.reason
    # Some reasons quote a line of the file, to be read where the file may be: not here.
    return re.sub(r'".*"', '"…"', text, flags=re.DOTALL)


def _is_of_another_site(request: web.Request) -> bool:
    """Tell whether a browser says so; other callers say neither (Fetch Metadata, W3C)."""
    origin = request.headers.get(hdrs.ORIGIN, f"//{request.host}").partition("//")[2]
    fetched_by = request.headers.get("Sec-Fetch-Site", "none")
    return origin != request.host or fetched_by not in {"none", "same-origin"}


def _is_local(request: web.Request) -> bool:
    """Tell whether the Host that was asked for is a loopback name, or we listen on a socket."""
    if request.transport and isinstance(request.transport.get_extra_info("sockname"), str):
        return True
    host = request.host.rpartition(":")[0] if ":" in request.host else request.host
    if request.host.endswith("]"):
        host = request.host
    return is_loopback(host)
