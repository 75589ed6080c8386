"""`penstock status`: shows how the spool is, and what to do if it is not well."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock import passes
from penstock.aio import sleep_unless
from penstock.cli.options import Config
from penstock.operate.health import duration
from penstock.operate.observer import Observer
from penstock.operate.snapshot import Snapshot, Verdict
from penstock.operate.wording import plural
from penstock.settings.reading import load
from penstock.settings.schema import Settings
from penstock.settings.spool_place import spool_place

_BARS = "▁▂▃▄▅▆▇█"
_CLAIMS_SHOWN = 8
_PLAIN_WIDTH = 100  # without a terminal


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat until Ctrl-C.")] = False,
    every_seconds: Annotated[
        float, typer.Option("--every", min=0.2, metavar="SECONDS", help="Pause of --watch.")
    ] = 1.0,
    config: Config = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --watch, one a line.")
    ] = False,
) -> None:
    """Show how the spool is: files in each state, rates, claims, workers, queue, memory.

    The first line is the verdict: healthy, or what is wrong and what to do. Exits with 0 if nothing
    is wrong, else with 1, for monitors. Changes nothing and starts nothing.
    """
    settings = load(config)
    spool_place(settings.source.url)  # without a spool there is nothing to show
    console = Console(width=None if Console().is_terminal else _PLAIN_WIDTH)

    if watch:
        passes.run(lambda stop: _watched(settings, console, stop, every_seconds, as_json=as_json))
        return
    snapshot = passes.run(lambda _: _once(settings))
    _say(snapshot, console, as_json=as_json)
    if not snapshot.healthy:
        raise typer.Exit(1)


async def _once(settings: Settings) -> Snapshot:
    async with aclosing(Observer(settings)) as seen:
        return await seen.snapshot()


async def _watched(
    settings: Settings, console: Console, stop: asyncio.Event, seconds: float, *, as_json: bool
) -> None:
    async with AsyncExitStack() as stack:
        seen = await stack.enter_async_context(aclosing(Observer(settings)))
        live = None
        if console.is_terminal and not as_json:
            live = stack.enter_context(Live(console=console, auto_refresh=False, screen=True))
        while True:
            snapshot = await seen.snapshot()
            if live is None:
                _say(snapshot, console, as_json=as_json)
            else:
                live.update(_page(snapshot), refresh=True)
            if await sleep_unless(stop, seconds):
                return


def _say(snapshot: Snapshot, console: Console, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(snapshot.as_dict()))
    else:
        console.print(_page(snapshot))


def _page(snapshot: Snapshot) -> Group:
    parts: list[Text | Table] = [*_verdict(snapshot.verdicts), Text(), _flow(snapshot)]
    if snapshot.ledger is not None:
        parts += [Text(), *_chart(snapshot)]
    parts += [Text(), _figures(snapshot)]
    if snapshot.claims:
        parts += [Text(), _claims(snapshot)]
    return Group(*parts)


def _verdict(verdicts: Sequence[Verdict]) -> list[Text | Table]:
    lines: list[Text | Table] = []
    if not any(verdict.wrong or verdict.code == "not-running" for verdict in verdicts):
        lines.append(Text("healthy", style="bold green"))
    for verdict in verdicts:
        style = "bold red" if verdict.wrong else "yellow"
        # Alarms and docs/monitoring.md use the code.
        lines.append(Text(f"{verdict.code}: {verdict.text}", style=style))
        advice = Table.grid(padding=(0, 1))  # aligns its second line with the first
        advice.add_row("  →", Text(verdict.advice))
        lines.append(advice)
    return lines


def _flow(snapshot: Snapshot) -> Table:
    table = Table("files", "count", "a second", "", box=None, padding=(0, 2), pad_edge=False)
    for column in table.columns[1:3]:
        column.justify = "right"
    sizes: Mapping[str, int] = snapshot.ledger.sizes if snapshot.ledger else {}
    counters: Mapping[str, int] = snapshot.ledger.counters if snapshot.ledger else {}
    claims = plural(sizes.get("claims", 0), "claim") if sizes else ""
    spool = snapshot.spool
    oldest = (
        f"oldest {duration(spool.oldest_waiting_seconds)}" if spool and snapshot.waiting else ""
    )
    age = snapshot.ledger.oldest_processed_seconds if snapshot.ledger else 0.0
    late = f"not archived yet, oldest {duration(age)}" if age else "not archived yet"
    late = late if sizes else ""
    rejected = counters.get("files_rejected", 0) if sizes else None
    archived = counters.get("files_archived", 0) if sizes else None
    gone = counters.get("files_gone", 0)
    gone = f"; {gone:,} gone, not archived" if gone else ""
    kept = (
        ""
        if spool is None or spool.rejects_kept is None
        else (f"{spool.rejects_kept:,} in the rejects directory")
    )
    rows: Sequence[tuple[str, int | None, str | None, str]] = (
        ("waiting", snapshot.waiting, None, oldest),
        ("processing", sizes.get("processing"), None, claims),
        ("processed", sizes.get("processed"), "files_processed",
         late),
        ("archived", archived, "files_archived",
         f"since the ledger began{gone}" if sizes else ""),
        ("rejected", rejected, "files_rejected", kept),
    )  # fmt: skip
    for name, count, rate, more in rows:
        a_second = f"{snapshot.rates.get(rate, 0):,.0f}" if rate and snapshot.rates else ""
        table.add_row(name, "?" if count is None else f"{count:,}", a_second, more)
    return table


def _chart(snapshot: Snapshot) -> list[Text]:
    values = [minute["files_processed"] for minute in snapshot.minutes]
    most = max(values, default=0)
    bars = "".join(_BARS[round(value / most * (len(_BARS) - 1))] if most else _BARS[0]
                   for value in values)  # fmt: skip
    return [
        Text(f"files processed in each of the last 60 minutes, at most {most:,}"),
        Text(bars, style="cyan"),
    ]


def _figures(snapshot: Snapshot) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2), pad_edge=False)
    spool, memory, queue = snapshot.spool, snapshot.memory, snapshot.queue
    rates = snapshot.rates
    if rates:
        records = plural(round(rates["records_sent"]), "record")
        sent = f"{records}, {rates['bytes_sent'] / 2**20:,.1f} MiB"
        if rates["bytes_room"]:
            full = rates["bytes_sent"] / rates["bytes_room"]
            sent += f", in messages that are {full:.0%} full"
        table.add_row("sent a second", sent)
    if queue is not None:
        delayed = f", {queue.delayed:,} delayed" if queue.delayed else ""
        table.add_row(
            "in the queue",
            f"{plural(queue.visible, 'message')}, {queue.in_flight:,} in flight{delayed}",
        )
    if memory is not None:
        limit = f" of {_bytes(memory.max_bytes)}" if memory.max_bytes else ""
        share = f"{_bytes(memory.ledger_bytes)} are this ledger's"
        table.add_row("Redis memory", f"{_bytes(memory.used_bytes)}{limit}; {share}")
    if spool is not None:
        room = f"; {_bytes(spool.room.free_bytes)} of disk free" if spool.room else ""
        table.add_row("in the spool", f"{plural(spool.entries, 'file')}{room}")
    if (seen := snapshot.forecast) is not None:
        lasts = duration(86_400 * seen.lasts_days)
        table.add_row("archive's disk", f"{seen.scarce} for {lasts} at the last hour's rate")
    for worker in snapshot.workers[:_CLAIMS_SHOWN]:
        silent = f"last heard of {duration(worker.silent_for_seconds)} ago"
        table.add_row("worker", f"{worker.name}, {plural(worker.claims, 'claim')}, {silent}")
    if len(snapshot.workers) > _CLAIMS_SHOWN:
        table.add_row("", f"and {len(snapshot.workers) - _CLAIMS_SHOWN:,} more")
    return table


def _claims(snapshot: Snapshot) -> Table:
    table = Table("claim", "age", "owner", "files", "attempt", box=None, padding=(0, 2),
                  pad_edge=False)  # fmt: skip
    table.columns[3].justify = table.columns[4].justify = "right"
    for claim in snapshot.claims[:_CLAIMS_SHOWN]:
        owner = claim.worker or (claim.waits_for and "waits") or "nobody"
        age = duration(claim.age_seconds)
        table.add_row(claim.claim, age, owner, f"{claim.files:,}", str(claim.attempt))
    return table


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
