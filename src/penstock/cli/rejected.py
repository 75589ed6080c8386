"""`penstock rejected list | show | retry | discard`: handle files that cannot be sent."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock import telemetry
from penstock.cli.ledger import progress_line, with_ledger
from penstock.cli.options import Config, Json, agree, file_name, say
from penstock.ledger.ledger import Ledger
from penstock.operate import requeue
from penstock.operate.reject_filter import RejectFilter, kind_of, moment
from penstock.operate.requeue import Report
from penstock.operate.spool_files import (
    RejectedFile,
    SpoolFiles,
    iso_time,
    local_places,
    rejected_file,
    spool_files,
)
from penstock.operate.wording import plural
from penstock.settings.reading import load
from penstock.settings.schema import Settings

app = typer.Typer(
    name="rejected",
    help="List, show, retry or discard files that cannot be sent.",
    no_args_is_help=True,
    add_completion=False,
)
_SHOWN = 20
Change = tuple[Settings, Ledger, SpoolFiles, Sequence[RejectedFile], asyncio.Event]
"""The input of a change: the open parts, the chosen files, and when to stop."""


def time_option(name: str, help_: str) -> Any:
    """Return an option that takes a time."""
    return typer.Option(name, parser=_moment, metavar="TIME", help=help_)


def _moment(text: str) -> float:
    try:
        return moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME…]", help="Names, or patterns such as '2026-11-25T14*'."),
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Only those whose reason has this text.")
]
Since = Annotated[
    float | None, time_option("--since", "Rejected from this time on: 2026-11-25T14:30, or 2h ago.")
]
Until = Annotated[float | None, time_option("--until", "Rejected before this time.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print which; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(
    files: Names = None,
    reason: Reason = "",
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Print at most this number of lines.")] = 100,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List rejected files, latest last, and count them by reason."""
    chosen = _chosen(_rejected_now(config), RejectFilter(tuple(files or ()), reason, since, until))
    if as_json:
        typer.echo(json.dumps([_as_json(file) for file in chosen]))
        return
    for file in chosen[-limit:]:
        where = "" if file.moved else "  (still in the spool)"
        say(f"{iso_time(file.at_seconds)}  {file.name}  {file.reason}{where}")
    if len(chosen) > limit:
        typer.echo(f"the last {limit:,} of {len(chosen):,}")
    typer.echo()
    for text, count in Counter(_kind(file) for file in chosen).most_common(_SHOWN):
        say(f"{count:>8,}  {text}")
    typer.echo(f"{len(chosen):>8,}  in all")


@app.command()
def show(
    file: Annotated[str, typer.Argument(metavar="NAME")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show one rejected file's reason, record by record, in JSON, and where the file is."""
    chosen = _chosen(_rejected_now(config), RejectFilter((file_name(file),)))
    if not chosen:
        typer.echo(f"{file}: not rejected; `penstock explain {file}` tells more", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps(_as_json(chosen[0]), indent=None if as_json else 2, ensure_ascii=True))


@app.command()
def retry(
    files: Names = None,
    reason: Reason = "",
    since: Since = None,
    until: Until = None,
    everything: All = False,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole", help="Send all records of a file, also those that were sent before."
        ),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Put rejected files back into the spool, to be sent with the present settings.

    If only some records of a file were rejected, sends only these: the others were sent. Safe to
    repeat, also while workers run. Waits for files that were rejected less than a minute ago. Run
    it where the directory is. Exits with 1 if a file could not be put back.
    """
    choice = _choice(files, reason, since, until, everything=everything)

    async def act(this: Change) -> Report:
        with progress_line() as progress:
            return await requeue.retried(*this, whole=whole, progress=progress)

    words = ("rejected retry", "put back into the spool", "put back")
    _change(config, choice, act, words, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
def discard(
    files: Names = None,
    reason: Reason = "",
    since: Since = None,
    until: Until = None,
    everything: All = False,
    no_copy: Annotated[
        bool, typer.Option("--no-copy", help="Delete them, instead of keeping them in discarded/.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Discard rejected files: move them to discarded/ in the rejects directory.

    Run it where the directory is. Exits with 1 if a file could not be discarded.
    """
    choice = _choice(files, reason, since, until, everything=everything)

    async def act(this: Change) -> Report:
        settings, ledger, where, chosen, _ = this
        return await requeue.discarded(settings, ledger, where, chosen, keep_copy=not no_copy)

    what = "DELETED, for ever" if no_copy else "moved to discarded/ in the rejects directory"
    words = ("rejected discard", what, "discarded")
    _change(config, choice, act, words, dry_run=dry_run, yes=yes, as_json=as_json)


def _change(
    config: Path | None,
    choice: RejectFilter,
    act: Callable[[Change], Awaitable[Report]],
    words: tuple[str, str, str],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Change the chosen files if the operator agrees; `words` are command, action, result."""
    telemetry.configure(verbose=False)
    settings = load(config)
    command, what, verb = words
    where = spool_files(settings, command)

    async def main(ledger: Ledger, stop: asyncio.Event) -> Report:
        found = await _rejected(settings, ledger)
        chosen = _chosen(found, choice)
        lines = (f"{file.name}  {file.reason}" for file in chosen)
        silent = yes and not dry_run
        go = agreed(lines, what, dry_run=dry_run, yes=yes, silent=silent)
        report = await act((settings, ledger, where, chosen, stop)) if go else Report()
        report.refused |= dict.fromkeys(
            choice.missing(found),
            "it is not rejected; `penstock explain` tells more",
        )
        return report

    print_report(with_ledger(settings, main), verb, as_json=as_json, dry_run=dry_run)


def _rejected_now(config: Path | None) -> Mapping[str, RejectedFile]:
    telemetry.configure(verbose=False)
    settings = load(config)
    return with_ledger(settings, lambda ledger, _: _rejected(settings, ledger))


async def _rejected(settings: Settings, ledger: Ledger) -> Mapping[str, RejectedFile]:
    found: dict[str, RejectedFile] = {}
    reasons = await requeue.rejected_in_ledger(ledger)
    if where := local_places(settings):
        found |= {f.name: f for f in await asyncio.to_thread(lambda: list(where.rejected()))}
    else:
        typer.echo("the rejects directory is on another machine: this shows only what the archiver"
                   " has not moved yet", err=True)  # fmt: skip
    # If a name is in both places, use the one in the spool; moving it renames the other.
    return found | {name: rejected_file(name, t, moved=False) for name, t in reasons.items()}


def _chosen(found: Mapping[str, RejectedFile], choice: RejectFilter) -> list[RejectedFile]:
    chosen = [file for file in found.values() if choice.takes(file)]
    return sorted(chosen, key=lambda file: (file.rejected_at, file.name))


def _choice(
    files: Sequence[str] | None,
    reason: str,
    since: float | None,
    until: float | None,
    *,
    everything: bool,
) -> RejectFilter:
    time_range(since, until)
    choice = RejectFilter(tuple(map(file_name, files or ())), reason, since, until)
    if choice.is_empty and not everything:
        raise typer.BadParameter("which? give names, --reason, --since or --until, or --all")
    return choice


def time_range(since: float | None, until: float | None) -> tuple[float, float]:
    """Return a time range with both ends, by default 1970 and now; refuse an empty one."""
    ends = time.time() if until is None else until
    if since is not None and since >= ends:
        end = "now" if until is None else "--until"
        raise typer.BadParameter(f"--since is not before {end}: no file lies between")
    return since or 0.0, ends


def agreed(
    lines: Iterable[str], what: str, *, of: str = "", dry_run: bool, yes: bool, silent: bool = False
) -> bool:
    """Print the chosen files, a line each, and ask; False if there is nothing to do."""
    count = 0
    for count, line in enumerate(lines, 1):
        if count <= _SHOWN and not silent:
            say(line, err=True)
    if count > _SHOWN and not silent:
        typer.echo(f"and {count - _SHOWN:,} more", err=True)
    files = f"{plural(count, 'file')}{of}"
    if dry_run:
        typer.echo(f"{files} would be {what}", err=True)
    elif count and not yes:
        agree(f"{files} will be {what}: continue?")
    return bool(count) and not dry_run


def print_report(report: Report, verb: str, *, as_json: bool, dry_run: bool) -> None:
    """Print the result for the files; exit with 1 if one was refused."""
    if as_json:
        typer.echo(json.dumps({"done": report.done, "refused": report.refused}))
    else:
        if not dry_run:
            typer.echo(f"{plural(len(report.done), 'file')} {verb}")
        for name, why in report.refused.items():
            say(f"not {name}: {why}", err=True)
    if report.refused:
        raise typer.Exit(1)


def _as_json(file: RejectedFile) -> Mapping[str, Any]:
    return {"file": file.name, **file.story, "moved": file.moved}


def _kind(file: RejectedFile) -> str:
    first = file.story.get("records") or [{"reason": file.reason}]
    return kind_of(str(first[0]["reason"]))
