"""The console: one live page over one spool, and /metrics to watch many.

    GET  /, /console.css, /console.js    the page: the same for everybody, without any data
    GET  /help                           what each verdict means: the same for everybody
    POST /login                          exchanges a token for a cookie and the page's half
    GET  /v1/status, /v1/status/stream   a snapshot; one a second as server-sent events
    GET  /v1/history?minutes=60          files, rejects, waiting and age until now
    GET  /v1/file?name=NAME              one file's story
    GET  /v1/rejects                     the latest rejects with their reasons
    POST /v1/rejects:retry, :discard     puts some of them back; discards some of them
    GET  /metrics                        Prometheus

No record's content is in any of it. guard.py decides who may call.
"""

import asyncio
import importlib.resources
import json
import re
import time
from collections.abc import AsyncIterator, Mapping

import msgspec
from aiohttp import hdrs, web

from penstock import wiring
from penstock.aio import sleep_unless
from penstock.errors import Again, Halt
from penstock.operate import metrics, requeue
from penstock.operate.explain import explained
from penstock.operate.history import DAY_MINUTES, HOUR_MINUTES, History
from penstock.operate.observer import Observer
from penstock.operate.reject_filter import kind_of
from penstock.operate.spool_files import RejectedFile, local_places, rejected_file, spool_files
from penstock.serve import verdict_help
from penstock.serve.guard import Access, May, Refused, needs
from penstock.settings.schema import Settings

PAGES = {
    path: (importlib.resources.files("penstock.serve").joinpath(name).read_bytes(), content_type)
    for path, name, content_type in (
        ("/", "console.html", "text/html"),
        ("/console.css", "console.css", "text/css"),
        ("/console.js", "console.js", "text/javascript"),
    )
}
PAGES["/help"] = (verdict_help.page(), "text/html")
"""The page's files and types. Read once, so that an upgrade in place cannot mix versions."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STREAM_SECONDS = 1.0
_STREAMS_MAX = 32
_WRITE_SECONDS = 30.0  # for a page to receive a snapshot; so a sleeping phone frees its slot
_REJECTS_SHOWN = 50
_CHANGES_MAX = 500
_SAMPLE_SECONDS = 60.0
_LOGIN_BYTES_MAX = 4_096
_REJECTS_SECONDS = 1.0  # between two looks at the rejects, however many pages ask
_REJECTS_SHARE_MAX = 0.1  # at most this share of the time: the directory may hold 100,000


class _Login(msgspec.Struct, forbid_unknown_fields=True):
    token: str


class _Names(msgspec.Struct, forbid_unknown_fields=True):
    names: list[str]


class Console:
    """The console over an observer's snapshots."""

    def __init__(self, settings: Settings, observer: Observer, access: Access) -> None:
        self._settings = settings
        self._observer = observer
        self._access = access
        self._stop = asyncio.Event()
        self._streams = 0
        self._history = History()
        self._rejects: Mapping[str, object] = {}
        self._rejects_began = self._rejects_until = 0.0  # on the monotonic clock
        self._rejects_lock = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Add the page and its calls to an application."""
        for path in PAGES:
            app.router.add_get(path, self.page)
        app.router.add_post("/login", self.login)
        app.router.add_get("/v1/status", self.status)
        app.router.add_get("/v1/status/stream", self.stream, allow_head=False)
        app.router.add_get("/v1/rejects", self.rejects)
        for verb in ("retry", "discard"):
            app.router.add_post(f"/v1/rejects:{verb}", self.change)
        app.router.add_get("/v1/history", self.history)
        app.router.add_get("/v1/file", self.file)
        app.router.add_get("/metrics", self.metrics)
        app.cleanup_ctx.append(self._running)
        app.on_shutdown.append(self._end)

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        """Take a snapshot once a minute for the history, even if no page is open."""

        async def sample() -> None:
            while not await sleep_unless(self._stop, _SAMPLE_SECONDS):
                await self._seen()

        task = asyncio.create_task(sample())
        yield
        task.cancel()
        await self._observer.aclose()

    async def _end(self, _: web.Application) -> None:
        self._stop.set()

    @needs(May.NOTHING)
    async def login(self, request: web.Request) -> web.StreamResponse:
        """POST /login {"token": …}: keep it in this browser."""
        if request.content_type != "application/json":
            raise Refused(415, "Content-Type: must be application/json")
        body = await request.content.read(_LOGIN_BYTES_MAX)
        try:
            token = msgspec.json.decode(body, type=_Login).token
        except msgspec.MsgspecError as error:
            raise Refused(400, str(error)) from None
        return self._access.login(request, token)

    @needs(May.NOTHING)
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

    @needs(May.READ)
    async def status(self, _: web.Request) -> web.StreamResponse:
        """GET /v1/status."""
        return web.json_response(await self._seen())

    async def _seen(self) -> Mapping[str, object]:
        snapshot = await self._observer.snapshot(at_most_seconds_old=_STREAM_SECONDS * 0.9)
        self._history.note(snapshot)
        return snapshot.as_dict()

    @needs(May.READ)
    async def history(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/history?minutes=60, or 1440: bars, without unknown values."""
        minutes = request.query.get("minutes", str(HOUR_MINUTES))
        if minutes not in {str(HOUR_MINUTES), str(DAY_MINUTES)}:
            raise Refused(400, f"minutes: must be {HOUR_MINUTES} or {DAY_MINUTES}")
        return web.json_response(self._history.bars(time.time(), int(minutes)))

    @needs(May.READ)
    async def file(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/file?name=NAME: the story of a file, without quotes of its contents."""
        name = request.query.get("name", "").strip().rpartition("/")[2]
        if not name:
            raise Refused(400, "name: missing; give a file's name")
        try:
            where = local_places(self._settings)
            story = await (await self._observer.ledger()).overview.story(name)
            found = await asyncio.to_thread(explained, name, story, where)
        except Again as error:
            raise Refused(503, str(error)) from None
        except Halt as error:
            raise Refused(409, str(error)) from None
        lines = [_unquoted(line) for line in found.lines]
        return web.json_response(
            {"file": name, "state": found.state, "lines": lines, "next": _unquoted(found.next)}
        )

    @needs(May.READ)
    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/status/stream: one `data:` line a second until the caller leaves or we stop."""
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
            pass  # the page is closed, or nobody reads it; it reconnects if it wakes
        finally:
            self._streams -= 1
        return response

    @needs(May.READ)
    async def rejects(self, _: web.Request) -> web.StreamResponse:
        """GET /v1/rejects: the latest, newest first."""
        asked = time.monotonic()
        async with self._rejects_lock:
            if self._rejects_began < asked:  # else another page's look began after this call
                pause = self._rejects_until - time.monotonic()
                await sleep_unless(self._stop, max(0.0, pause))
                self._rejects_began = began = time.monotonic()
                self._rejects = await self._latest_rejects()
                took = time.monotonic() - began
                self._rejects_until = began + max(_REJECTS_SECONDS, took / _REJECTS_SHARE_MAX)
            return web.json_response(self._rejects)

    async def _latest_rejects(self) -> Mapping[str, object]:
        """Return the answer of /v1/rejects. Raises Refused if the directory cannot be read."""
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
                "reason": (reason := _reason(file)),
                "kind": kind_of(reason),
                "records_rejected": file.records_rejected,
                "rejected_at": file.rejected_at,
            }
            for file in latest[:_REJECTS_SHOWN]
        ]
        return {"rejects": shown, "total": total, "can_retry": where is not None}

    async def change(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/rejects:retry or :discard {"names": […]}; copies stay in discarded/."""
        if request.content_type != "application/json":
            raise Refused(415, "Content-Type: must be application/json")
        try:
            names = msgspec.json.decode(await request.read(), type=_Names).names
        except msgspec.MsgspecError as error:
            raise Refused(400, str(error)) from None
        if not 1 <= len(names) <= _CHANGES_MAX:
            raise Refused(400, f"names: 1 to {_CHANGES_MAX}")
        try:
            verb = request.path.rpartition(":")[2]
            where = spool_files(self._settings, verb)
            ledger = await self._observer.ledger()
            found = {n: where.rejected_one(n) for n in names if where.has_rejected(n)}
            found |= await self._rejected_in_ledger()
            chosen = [found[name] for name in dict.fromkeys(names) if name in found]
            this = (self._settings, ledger, where, chosen)
            if verb == "retry":
                report = await requeue.retried(*this, self._stop, patience_seconds=0.0)
            else:
                report = await requeue.discarded(*this)
        except Halt as error:
            raise Refused(409, str(error)) from None
        except OSError as error:  # an unusable directory: some steps may be done, no file is lost
            raise Refused(409, f"{error.filename}: {error.strerror}; try again") from None
        report.refused |= {name: "it is not a rejected file" for name in names if name not in found}
        self._rejects_until = 0.0
        self._observer.rejects_changed()
        return web.json_response({"done": report.done, "refused": report.refused})

    @needs(May.READ)
    async def metrics(self, _: web.Request) -> web.StreamResponse:
        """GET /metrics."""
        snapshot = await self._observer.snapshot(at_most_seconds_old=_STREAM_SECONDS)
        body = metrics.exposition(snapshot, self._settings.status)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE})

    async def _rejected_in_ledger(self) -> dict[str, RejectedFile]:
        try:
            reasons = await requeue.rejected_in_ledger(await self._observer.ledger())
        except (Again, Halt):
            return {}  # Redis is away: show the rejects directory anyway
        return {name: rejected_file(name, text, moved=False) for name, text in reasons.items()}


def add_console(app: web.Application, settings: Settings, access: Access) -> None:
    """Add the console over the spool of `settings` to an application, which closes it."""
    wiring.import_parts(settings)
    Console(settings, Observer(settings), access).add_to(app)


def _reason(file: RejectedFile) -> str:
    records = file.story.get("records") or ()
    first = str(records[0]["reason"]) if records else ""
    text = f"{file.reason}: {first}" if first else file.reason
    return _unquoted(text)


def _unquoted(text: str) -> str:
    # Some reasons quote a line of the file. Only people who may read the file may see it.
    return re.sub(r'".*"', '"…"', text, flags=re.DOTALL)
