"""Put files that left the spool back into it, while workers and archivers run.

    hold (ledger) ──▶ move into the spool ──▶ put_back (ledger): due at once

Every step is safe to repeat. A process that dies in between leaves each file either in its old
place, or in the spool and queued.
"""

import asyncio
import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from penstock import beneath, file_names, telemetry, wiring
from penstock.aio import sleep_unless
from penstock.ledger.ledger import Ledger
from penstock.ledger.repairs import FORGET_AFTER_SECONDS, HOLD_SECONDS
from penstock.model import PutBack
from penstock.operate.spool_files import DISCARDED, RejectedFile, SpoolFiles
from penstock.operate.wording import plural
from penstock.settings.schema import Settings
from penstock.settings.spool_place import spool_directory
from penstock.source import moves as moving

LEFT_FOR_SECONDS = FORGET_AFTER_SECONDS
_BATCH = 500
_IN_LINE_MAX = 50_000  # if more files are queued, wait until workers have taken some
_WAIT_SECONDS = 0.5
_FORBIDDEN = {
    "processing": "a worker has a file of that name now",
    "processed": "a file of that name is processed and waits for the archiver",
    "rejected": "a file of that name is rejected and waits for the archiver",
    "retry": "it is already queued for a retry",
}

Progress = Callable[[int, str], None]
"""Called with how many more files are done, and with what it waits for, or ""."""


def _silent(_: int, __: str) -> None:
    pass


@dataclass(slots=True)
class Report:
    """The files that were put back (or discarded), and why the others were not, by name."""

    done: list[str] = field(default_factory=list[str])
    refused: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Returning:
    """A file to put back: its place, and the operator's note on it."""

    path: Path
    put_back: PutBack

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.name


def operator_token() -> str:
    """Return a token for one operator command; it is also the salt of a replay."""
    return secrets.token_hex(8)


def retry_of(file: RejectedFile, token: str, *, whole: bool) -> PutBack | str:
    """Return how to retry a rejected file, or why that is impossible.

    If only some of its records were rejected, the others were sent. So only the rejected ones are
    sent now, unless `whole`.
    """
    if whole and file.records_rejected != 0:
        return PutBack(token, salt=token)
    if file.records_rejected is None:
        return f"{file.reason}: some of it may have been sent; --whole sends all of it (again)"
    if len(file.records) < file.records_rejected:
        return (
            f"{file.records_rejected:,} of its records were rejected, and its reason lists"
            f" {len(file.records):,}; the others were sent; --whole sends all of them again"
        )
    return PutBack(token, records=file.records or None)


async def put_back(
    ledger: Ledger,
    dirs: SpoolFiles,
    files: Iterable[Returning],
    *,
    stop: asyncio.Event,
    progress: Progress = _silent,
    patience_seconds: float = LEFT_FOR_SECONDS + 5,
) -> Report:
    """Put files back into the spool; ends early, between two batches, when `stop` is set.

    Waits up to `patience_seconds` for files that left the spool less than a minute ago. Raises
    Again if Redis is away: files already in the spool are then queued, and due after the hold.
    """
    report = Report()
    rest = iter(files)
    while not stop.is_set() and (batch := {file.name: file for file in islice(rest, _BATCH)}):
        while not stop.is_set() and (await ledger.reads.sizes())["retry"] > _IN_LINE_MAX:
            progress(0, "waiting for workers: many files are queued")
            await asyncio.sleep(_WAIT_SECONDS)
        await _put_back_batch(ledger, dirs, batch, report, stop, progress, patience_seconds)
    return report


async def _put_back_batch(
    ledger: Ledger,
    dirs: SpoolFiles,
    batch: dict[str, Returning],
    report: Report,
    stop: asyncio.Event,
    progress: Progress,
    patience_seconds: float,
) -> None:
    until = time.monotonic() + patience_seconds
    for name in await asyncio.to_thread(_already_there, dirs.spool, list(batch)):
        report.refused[name] = "another file of that name is in the spool"
        del batch[name]
    while batch:
        began = time.monotonic()
        put_backs = {name: file.put_back for name, file in batch.items()}
        words = await ledger.repairs.hold(put_backs, left_for_seconds=LEFT_FOR_SECONDS)
        held = [name for name, word in words.items() if word == "held"]
        if held:
            moving_out = [batch[name] for name in held]
            moved = await asyncio.to_thread(_move, moving_out, dirs, began)
            outside = {name: put_backs[name] for name in held if moved[name]}
            inside = [name for name in held if not moved[name]]
            await ledger.repairs.put_back(inside, outside)
            report.refused |= {name: moved[name] for name in outside}
            report.done += inside
            telemetry.event("files.put_back", files=len(inside), operator=put_backs[held[0]].by)
        waits = {n: word for n, word in words.items() if word.startswith("leaving")}
        report.refused |= {n: _FORBIDDEN[w] for n, w in words.items() if w in _FORBIDDEN}
        progress(len(words) - len(waits), "")
        batch = {name: batch[name] for name in waits}
        seconds = max((float(word.split()[1]) / 1000 for word in waits.values()), default=0.0)
        if waits and (time.monotonic() + seconds > until or stop.is_set()):
            why = f"an archiver may still be moving it; retry in {seconds:.0f} s"
            report.refused |= dict.fromkeys(waits, why)
            return
        if waits:
            moving_still = f"an archiver may still be moving {plural(len(waits), 'file')}"
            progress(0, f"{moving_still}: {seconds:.0f} s more")
            await sleep_unless(stop, min(seconds, 1.0) + 0.01)


def _already_there(spool: Path, wanted: Sequence[str]) -> list[str]:
    return [name for name in wanted if os.path.lexists(spool / name)]


def _move(files: Sequence[Returning], dirs: SpoolFiles, began: float) -> Mapping[str, str]:
    """Move files into the spool; return by name why one was not moved, or ""."""
    failures: dict[str, str] = {}
    with beneath.folder(dirs.spool) as to_fd:
        for folder in {file.path.parent for file in files}:
            with dirs.opened(folder) as from_fd:
                for file in files:
                    if file.path.parent != folder:
                        continue
                    if time.monotonic() - began > HOLD_SECONDS / 2:
                        failures[file.name] = "the disk is too slow: the hold would end first"
                        continue
                    moved = moving.move(from_fd, file.name, to_fd, str(dirs.spool))
                    gone = "it is no longer there"
                    failures[file.name] = gone if moved.vanished else moved.error
                    if not failures[file.name]:
                        _forget_reason(from_fd, file.name)
        os.fsync(to_fd)
    return failures


def _forget_reason(fd: int, name: str) -> None:
    """Delete the reason of a file that is no longer rejected; a file in the archive has none."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name + file_names.REASON_SUFFIX, dir_fd=fd)


async def move_out(
    settings: Settings, ledger: Ledger, files: Sequence[RejectedFile]
) -> Mapping[str, str]:
    """Move rejected files out of the spool as the archiver would; return failures by name."""
    source = wiring.directory_source(settings, spool_directory(settings.source.url, "rejected"))
    stuck: dict[str, str] = {}
    try:
        for first in range(0, len(files), _BATCH):
            page = files[first : first + _BATCH]
            reasons = {f.name: json.dumps(dict(f.story), ensure_ascii=False) for f in page}
            moved = await source.reject(reasons)
            await ledger.upkeep.archived([file.name for file in moved if not file.error])
            stuck |= {file.name: file.error for file in moved if file.error}
    finally:
        await source.close()
    return stuck


async def retried(
    settings: Settings,
    ledger: Ledger,
    dirs: SpoolFiles,
    chosen: Sequence[RejectedFile],
    stop: asyncio.Event,
    *,
    whole: bool = False,
    progress: Progress = _silent,
    patience_seconds: float = FORGET_AFTER_SECONDS + 5,
) -> Report:
    """Put rejected files back, also those that the archiver has not moved yet."""
    token = operator_token()
    stuck = await move_out(settings, ledger, [file for file in chosen if not file.moved])
    refused: dict[str, str] = dict(stuck)
    returning: list[Returning] = []
    for file in chosen:
        put_back_or_why = retry_of(file, token, whole=whole)
        if isinstance(put_back_or_why, str):
            refused[file.name] = put_back_or_why
        elif file.name not in stuck:
            returning.append(Returning(dirs.rejects / file.name, put_back_or_why))
    report = await put_back(
        ledger, dirs, returning, stop=stop, progress=progress, patience_seconds=patience_seconds
    )
    report.refused |= refused
    return report


def discard(dirs: SpoolFiles, files: Iterable[RejectedFile], *, keep_copy: bool) -> Report:
    """Delete rejected files, or move them into `discarded/` of the rejects directory."""
    report = Report()
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(beneath.folder(dirs.rejects, make=True))
        kept_fd = None
        if keep_copy:
            kept_fd = stack.enter_context(beneath.folder(dirs.rejects, DISCARDED, make=True))
        for file in files:
            for name in (file.name, file.name + file_names.REASON_SUFFIX):
                try:
                    if kept_fd is None:
                        os.unlink(name, dir_fd=fd)
                    else:
                        moving.rename_no_replace(fd, name, kept_fd, name)
                except FileNotFoundError:
                    continue  # its reason may be missing, or another operator was here
                except FileExistsError:
                    kept = dirs.rejects / DISCARDED / name
                    report.refused[file.name] = f"{kept} exists; rename one of the two"
                    break
                except OSError as error:
                    report.refused[file.name] = f"{dirs.rejects / name}: {error.strerror}"
                    break
            else:
                report.done.append(file.name)
    telemetry.event("files.discarded", files=len(report.done), kept=keep_copy)
    return report


async def discarded(
    settings: Settings,
    ledger: Ledger,
    dirs: SpoolFiles,
    chosen: Sequence[RejectedFile],
    *,
    keep_copy: bool = True,
) -> Report:
    """Discard rejected files, also those that the archiver has not moved yet."""
    stuck = await move_out(settings, ledger, [file for file in chosen if not file.moved])
    going = [file for file in chosen if file.name not in stuck]
    report = discard(dirs, going, keep_copy=keep_copy)
    await ledger.repairs.let_go(report.done)
    report.refused |= stuck
    return report


async def rejected_in_ledger(ledger: Ledger) -> Mapping[str, str]:
    """Return rejected files that the archiver has not moved yet: name to reason, in JSON."""
    found: dict[str, str] = {}
    cursor = 0
    while True:
        cursor, reasons = await ledger.reads.rejected(cursor)
        found |= reasons
        if cursor == 0:
            return found
