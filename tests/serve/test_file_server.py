"""The file server as its description has it; lost replies, restarts, waits and stops."""

import asyncio
import inspect
import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from aiohttp import web as aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import checks as general
from schemathesis.specs.openapi import checks as described

from penstock import telemetry, wiring
from penstock.errors import Again
from penstock.model import FileRead
from penstock.ports import Source
from penstock.serve import file_server, web
from penstock.serve.guard import Access, May
from penstock.settings.reading import load
from penstock.settings.schema import ServeSettings
from penstock.source import frames as wire
from penstock.source.directory import DirectorySource
from support.campaign import scaled
from support.fileserver import TOKEN, served, source_at
from support.threaded import threaded

NAME = "2026-11-23T06:15:00.123456.json"
OTHER = "2026-11-23T06:15:01.123456.json"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
DESCRIBED: dict[str, Any] = json.loads(file_server.OPENAPI)
OPERATIONS = {
    one["operationId"]: (path, method, one)
    for path, methods in DESCRIBED["paths"].items()
    for method, one in methods.items()
}
_CHECKS: Any = [
    general.not_a_server_error,
    described.status_code_conformance,
    described.content_type_conformance,
    described.response_headers_conformance,
    described.response_schema_conformance,
]
_MODES = schemathesis.GenerationMode
_NO_HEALTH: Any = list(HealthCheck)  # pyright: ignore[reportArgumentType]


def _hold(address: str, operation_id: str, mode: Any, examples: int) -> None:
    """Make calls as the description allows them, or does not; each answer must be described."""
    path, method, _ = OPERATIONS[operation_id]
    schema: Any = schemathesis.openapi.from_dict(DESCRIBED)
    operation = schema[path][method]
    session = requests.Session()

    @settings(max_examples=examples, suppress_health_check=_NO_HEALTH)
    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    def hold(case: Any, there: bool) -> None:  # noqa: FBT001  drawn
        if there and operation_id == "getFile":
            case.path_parameters = {"name": NAME}
        answer = case.call(base_url=address, headers=BEARER, session=session)
        case.validate_response(answer, checks=_CHECKS)

    hold()
    session.close()


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_every_answer_is_described(operation_id: str, tmp_path: Path) -> None:
    """Right and wrong calls by the dozen: no 5xx, no status, type or shape that is not there."""
    with threaded(served(tmp_path, tokens=TOKEN)) as address:
        (tmp_path / "spool" / NAME).write_text("{}")
        for mode in _MODES:
            if mode is _MODES.POSITIVE or _takes_something(operation_id):
                _hold(address, operation_id, mode, 12)


@pytest.mark.campaign
@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_every_answer_to_thousands_is_described(operation_id: str, tmp_path: Path) -> None:
    """The same with thousands of calls."""
    with threaded(served(tmp_path, tokens=TOKEN)) as address:
        (tmp_path / "spool" / NAME).write_text("{}")
        for mode in _MODES:
            if mode is _MODES.POSITIVE or _takes_something(operation_id):
                _hold(address, operation_id, mode, scaled(3000))


def _takes_something(operation_id: str) -> bool:
    operation = OPERATIONS[operation_id][2]
    return bool(operation.get("parameters") or operation.get("requestBody"))


async def test_the_description_names_every_call(tmp_path: Path) -> None:
    """Its paths and methods are the server's routes, and what needs no token is the same."""
    (tmp_path / "spool").mkdir()
    source = DirectorySource(
        tmp_path / "spool", pattern=".*", settle_seconds=0, max_file_bytes=1,
        archive_directory=tmp_path / "a", rejects_directory=tmp_path / "r",
    )  # fmt: skip
    app = file_server.new_app(source, Access())
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in app.router.routes()
        if route.resource and route.method != "HEAD"
    }
    assert routes == {(path, method) for path, method, _ in OPERATIONS.values()}
    needs = {
        (route.resource.canonical, route.method.lower()): getattr(route.handler, "needs", May.MOVE)
        for route in app.router.routes()
        if route.resource and route.method != "HEAD"
    }
    may = {None: May.READ, "": May.NOTHING, "moving": May.MOVE}
    for path, method, one in OPERATIONS.values():
        wanted = one.get("security")
        kinds = wanted if wanted is None else "".join(kind for each in wanted for kind in each)
        assert needs[path, method] is may[kinds], (path, method)
    await source.close()


def test_the_description_has_the_servers_limits_and_fields() -> None:
    """Counts, defaults and the fields of each answer are those of the code."""
    parameters = {one["name"]: one["schema"] for one in OPERATIONS["listFiles"][2]["parameters"]}
    assert (parameters["limit"]["maximum"], parameters["limit"]["default"]) == (
        wire.PAGE_FILES_MAX,
        file_server._PAGE_FILES,
    )
    assert parameters["wait"]["maximum"] == file_server._WAIT_SECONDS_MAX
    schemas = DESCRIBED["components"]["schemas"]
    assert schemas["Names"]["maxItems"] == wire.CALL_NAMES_MAX
    assert schemas["RejectRequest"]["properties"]["reasons"]["maxProperties"] == wire.CALL_NAMES_MAX
    for name, kind in inspect.getmembers(wire, inspect.isclass):
        if issubclass(kind, msgspec.Struct) and kind is not FileRead:  # a frame, not JSON
            fields = {field.name: field.required for field in msgspec.structs.fields(kind)}
            assert set(schemas[name]["properties"]) == set(fields), name
            assert set(schemas[name]["required"]) == {n for n, needed in fields.items() if needed}


@asynccontextmanager
async def losing_replies(address: str, replies: int) -> AsyncGenerator[str]:
    """Stand between client and server; the first `replies` get lost once the server gave them."""
    host, _, port = address.removeprefix("http://").partition(":")
    left = [replies]

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(host, int(port))
        try:
            while question := await reader.read(1 << 20):
                here.write(question)
                answer = await there.read(1 << 20)
                if left[0]:
                    left[0] -= 1
                    break
                writer.write(answer)
        finally:
            here.close()
            writer.close()

    relaying = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{relaying.sockets[0].getsockname()[1]}"
    finally:
        relaying.close()


@pytest.mark.parametrize("replies", [1, 2, 3])
@pytest.mark.parametrize("call", ["archive", "reject"])
async def test_a_reply_lost_after_the_move_is_no_error(
    tmp_path: Path, replies: int, call: str
) -> None:
    """The call is made again, by itself or by whoever made it: the file is moved once, whole."""
    async with served(tmp_path) as address, losing_replies(address, replies) as there:
        (tmp_path / "spool" / NAME).write_text("{}")
        source: Source = source_at(there)
        asked: Any = [NAME] if call == "archive" else {NAME: '{"reason":"x"}'}
        if replies > 1:  # it is made twice by itself
            with pytest.raises(Again):
                await getattr(source, call)(asked)
        (moved,) = await getattr(source, call)(asked)
        await source.close()
    assert (moved.error, moved.vanished) == ("", False)
    folder = tmp_path / ("archive/2026/11/23/06" if call == "archive" else "rejected")
    assert (folder / NAME).read_text() == "{}"
    assert not (tmp_path / "spool" / NAME).exists()


async def test_a_listing_goes_on_over_a_restart_and_misses_nothing(tmp_path: Path) -> None:
    """The new server does not know the old one's cursor: it begins at the beginning."""
    names = [f"2026-11-23T06:15:00.{i:06d}.json" for i in range(30)]
    (tmp_path / "spool").mkdir()
    for name in names[:25]:
        (tmp_path / "spool" / name).write_text("{}")
    async with served(tmp_path) as address:
        source = source_at(address, page_files_max=10)
        first = await source.list("")
        second = await source.list(first.cursor)
        await source.close()
    for name in names[25:]:
        (tmp_path / "spool" / name).write_text("{}")
    listed: list[str] = []
    async with served(tmp_path) as address:
        source = source_at(address, page_files_max=10)
        cursor = second.cursor
        while (page := await source.list(cursor)).names:
            listed += [*page.names]
            cursor = page.cursor
        await source.close()
    assert listed == names


def test_a_listing_tells_sizes_and_times(tmp_path: Path) -> None:
    """Each file's own, beside its name."""
    (tmp_path / "spool").mkdir()
    for name, text, seconds in ((NAME, "12345", 1_000.5), (OTHER, "1", 2_000.5)):
        (tmp_path / "spool" / name).write_text(text)
        os.utime(tmp_path / "spool" / name, (seconds, seconds))
    with threaded(served(tmp_path, tokens=TOKEN)) as address:
        listing = requests.get(f"{address}/v1/files", headers=BEARER, timeout=10).json()
    assert listing["files"] == [
        {"name": NAME, "size_bytes": 5, "modified_at_seconds": 1_000.5},
        {"name": OTHER, "size_bytes": 1, "modified_at_seconds": 2_000.5},
    ]


async def test_a_listing_that_waits_is_woken_by_a_new_file(tmp_path: Path) -> None:
    """As soon as it is complete, not when the wait or the scan is over."""
    async with served(tmp_path) as address:
        source = source_at(address, wait_seconds=25.0)
        cursor = (await source_at_once(address)).cursor
        waiting = asyncio.create_task(source.list(cursor))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        (tmp_path / "spool" / ".draft").write_text("{}")
        began = time.monotonic()
        (tmp_path / "spool" / ".draft").rename(tmp_path / "spool" / NAME)
        page = await waiting
        assert time.monotonic() - began < 10
        assert [*page.names] == [NAME]
        await source.close()


async def test_a_worker_does_not_wait_long_for_what_may_still_come(tmp_path: Path) -> None:
    """A pass that has nothing left ends, within a tenth of a second; so does its listing."""
    async with served(tmp_path) as address, AsyncExitStack() as stack:
        source = await wiring.source(
            load(overrides={"source": {"url": address, "token": TOKEN}}), stack
        )
        cursor = (await source.list("")).cursor
        began = time.monotonic()
        assert (await source.list(cursor)).names == []
        assert time.monotonic() - began < 0.5


async def source_at_once(address: str) -> Any:
    """Return the first page, without a wait."""
    source = source_at(address)
    try:
        return await source.list("")
    finally:
        await source.close()


async def test_a_stop_lets_calls_in_flight_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that waits comes back empty at once, and a read that has begun is finished."""
    reading = asyncio.Event()
    at_once = DirectorySource.read

    async def slowly(self: DirectorySource, *given: Any) -> Any:
        reading.set()
        await asyncio.sleep(0.7)
        return await at_once(self, *given)

    monkeypatch.setattr(DirectorySource, "read", slowly)
    source = source_at("http://127.0.0.1:9")
    async with served(tmp_path) as address:
        await source.close()
        (tmp_path / "spool" / NAME).write_text("{}")
        source = source_at(address, wait_seconds=25.0)
        cursor = (await source_at_once(address)).cursor
        waiting = asyncio.create_task(source.list(cursor))
        read = asyncio.create_task(source.read([NAME], 1))
        await reading.wait()
        began = time.monotonic()
    assert (await waiting).names == []
    (file,) = await read
    assert file.data == b"{}"
    assert time.monotonic() - began < web._STOP_SECONDS + 3
    await source.close()


@pytest.mark.parametrize("wanted", [False, True])
async def test_requests_are_logged_only_where_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, wanted: bool
) -> None:
    """One event a request, and no token in it, not even one that a caller put into the URL."""
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(telemetry, "event", lambda step, **fields: events.append((step, fields)))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    (tmp_path / "spool").mkdir()
    source = DirectorySource(
        tmp_path / "spool", pattern=".*", settle_seconds=0, max_file_bytes=1,
        archive_directory=tmp_path / "a", rejects_directory=tmp_path / "r",
    )  # fmt: skip
    app: aio.Application = file_server.new_app(source, Access((TOKEN,)))
    serve = ServeSettings(listen="127.0.0.1:0", access_log=wanted)
    async with web.serving(app, serve) as address:
        for target in ("/v1/files", f"/v1/files?token={TOKEN}", f"/nothing#{TOKEN}"):
            await asyncio.to_thread(requests.get, address + target, headers=BEARER, timeout=20)
    logged = [fields for step, fields in events if step == "http.request"]
    assert [fields["status"] for fields in logged] == ([200, 400, 404] if wanted else [])
    assert TOKEN not in repr(events)
