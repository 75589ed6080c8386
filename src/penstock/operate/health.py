"""Judge whether a spool is well, and what to do: pure, from a snapshot to verdicts.

Act on the first verdict. Verdicts that only follow from it are omitted.
"""

import time
from collections.abc import Iterator, Sequence

from penstock.checker import OLD_LEASES
from penstock.ledger.overview import Overview
from penstock.ledger.scripts import UNWRITABLE
from penstock.operate.snapshot import STOPPED, Snapshot, Verdict
from penstock.operate.spool_view import SpoolState
from penstock.operate.wording import plural, printable
from penstock.settings.schema import StatusSettings
from penstock.source.index import LARGE_FILES

REJECTS_SHARE_MAX = 0.5
_REJECTS_MIN = 10
_REJECTS_MINUTES = 10
_MEMORY_SHARE_MAX = 0.8
_DISK_SHARE_MIN = 0.05
_STARTED = (
    "`penstock run` starts them; a single pass (`penstock load`) starts and stops them. Their data"
    " is kept meanwhile, but not shown"
)
_GO_ON = (
    "Workers that wait, and those of `penstock run`, continue by themselves; restart others if they"
    " ended with exit code 78"
)
_COMMANDS = {"loader": "load", "archiver": "archive", "checker": "check"}
_OVERDUE_SECONDS = 30.0  # a worker that runs takes over an expired claim at its next call


# These verdicts already say why functions fail.
_EXPLAINED = frozenset({"redis-away", "queue-away", "spool-away", "spool-changed"})


def verdicts(snapshot: Snapshot, limits: StatusSettings) -> Sequence[Verdict]:
    """Return the verdicts on a snapshot, the worst first; none if all is well."""
    ledger = snapshot.ledger
    found = [*_unreachable(snapshot)]
    if ledger is not None:
        found += _spool(snapshot, ledger)
        if not {said.code for said in found} & _EXPLAINED:
            found += _troubles(ledger)
        found += _workers(snapshot, limits)
        found += _archiver(ledger, limits)
        found += _rejects(snapshot, ledger)
        found += _redis(ledger)
    found += _memory(snapshot)
    found += _room(snapshot.spool)
    found += _archive(snapshot, limits)
    if ledger is not None:
        found += _books(snapshot, ledger, limits)
    return sorted(found, key=lambda verdict: not verdict.wrong)


def _unreachable(snapshot: Snapshot) -> Iterator[Verdict]:
    advice = {
        "redis-away": "start Redis (`penstock run` starts an embedded one), or fix ledger.url;"
        f" nothing is lost meanwhile. {_GO_ON}",
        "spool-away": "bring back the directory, or the server in front of it, or fix the setting"
        f" that this names: source.url, source.token. {_GO_ON}",
        "queue-away": f"fix the queue, queue.url, the rights or the network. {_GO_ON}",
    }
    if sent := sum(minute["records_sent"] for minute in snapshot.minutes[-2:]):
        advice["queue-away"] += (
            f". Workers sent {plural(sent, 'record')} within the last two minutes: if they still"
            " do, give this command the credentials that they have"
        )
    for code, remedy in advice.items():
        cause = snapshot.unreachable.get(code.removesuffix("-away"), STOPPED)
        if cause != STOPPED and UNWRITABLE not in cause:
            yield Verdict(code, wrong=True, text=cause, advice=remedy)
    if STOPPED in snapshot.unreachable.values():
        left = snapshot.spool.entries if snapshot.spool else 0
        files = f"; {plural(left, 'file is', 'files are')} in the spool" if left else ""
        yield Verdict("not-running", wrong=left > 0, text=f"{STOPPED}{files}", advice=_STARTED)


def _spool(snapshot: Snapshot, ledger: Overview) -> Iterator[Verdict]:
    spool, known = snapshot.spool, ledger.spool
    if spool is None:
        return
    holds_files = any(count for state, count in ledger.sizes.items() if state != "claims")
    if known and holds_files and spool.identity.matches(known) is False:
        yield Verdict(
            "spool-changed", wrong=True,
            text=f"source.url leads to another directory ({spool.identity}) than the one whose"
            f" files the ledger holds ({known}); nothing is sent or moved until this is fixed",
            advice="mount the right one again, and workers continue by themselves; if it was"
            " replaced on purpose, run `penstock spool accept`",
        )  # fmt: skip
    if spool.broken:
        yield Verdict(
            "entries-ignored", wrong=False,
            text=f"{plural(spool.broken, 'entry matches', 'entries match')} source.pattern and"
            f" will never be sent, such as {printable(spool.example)}",
            advice="let its writer use another name, or move it out of the spool",
        )  # fmt: skip
    gone = sum(minute.get("files_gone", 0) for minute in snapshot.minutes)
    if gone:
        yield Verdict(
            "files-gone", wrong=False,
            text=f"{plural(gone, 'processed file was', 'processed files were')} neither in the"
            " spool nor in the archive when the archiver looked, within the last hour",
            advice="see `file.gone` in the archiver's log for an example, and find out what else"
            " moves or deletes files of the spool",
        )  # fmt: skip


def _workers(snapshot: Snapshot, limits: StatusSettings) -> Iterator[Verdict]:
    if "queue" in snapshot.unreachable:
        return
    alive = [w for w in snapshot.workers if w.silent_for_seconds <= limits.silent_seconds]
    waiting = snapshot.waiting or 0
    overdue = [claim for claim in snapshot.claims if claim.overdue_seconds > _OVERDUE_SECONDS]
    oldest = snapshot.spool.oldest_waiting_seconds if snapshot.spool else 0.0
    if not alive and (waiting or overdue):
        silent = min((w.silent_for_seconds for w in snapshot.workers), default=None)
        since = "ever" if silent is None else f"for {duration(silent)}"
        yield Verdict(
            "no-worker", wrong=True,
            text=f"{plural(waiting, 'file waits', 'files wait')}, and no worker has asked for work"
            f" {since}",
            advice="start one: `penstock run`, or `penstock load` for a single pass",
        )  # fmt: skip
        return
    if oldest > limits.oldest_waiting_seconds:
        yield Verdict(
            "falling-behind", wrong=True,
            text=f"the oldest file has waited for {duration(oldest)}, of {waiting:,} that wait",
            advice="run more workers (run.workers), or see in their log why they are slow: a"
            " warning, or `throttled` if SQS asks for fewer calls",
        )  # fmt: skip
    if overdue:
        worst = max(claim.overdue_seconds for claim in overdue)
        yield Verdict(
            "claims-expired", wrong=True,
            text=f"{plural(len(overdue), 'claim has', 'claims have')} no owner, the oldest for"
            f" {duration(worst)}",
            advice="run `penstock load`: the next worker takes them over",
        )  # fmt: skip
    longest = OLD_LEASES * snapshot.lease_seconds
    waits = [claim for claim in snapshot.claims if claim.waits_for]
    if waits:
        yield Verdict(
            "claim-waits", wrong=True,
            text=f"{plural(len(waits), 'claim waits', 'claims wait')}, the oldest for"
            f" {duration(waits[0].age_seconds)}: its worker died, and the next one cannot read"
            f" {waits[0].waits_for}",
            advice="make it readable, and a worker continues by itself; until then, nothing that"
            " may have been sent is sent in another message",
        )  # fmt: skip
    old = [c for c in snapshot.claims if c.worker and c.age_seconds > longest]
    if old:
        yield Verdict(
            "claim-old", wrong=True,
            text=f"claim {old[0].claim} has been with {old[0].worker} for"
            f" {duration(old[0].age_seconds)}",
            advice="check that worker; if you stop it, another one takes the claim over",
        )  # fmt: skip


def _troubles(ledger: Overview) -> Iterator[Verdict]:
    codes = {"loader": "loader-fails", "archiver": "archiver-fails", "checker": "checker-fails"}
    for what, trouble in ledger.troubles.items():
        if what in codes:
            yield Verdict(
                codes[what], wrong=True,
                text=f"the {what} on {trouble.host} failed {duration(trouble.seconds_ago)} ago:"
                f" {trouble.cause}",
                advice="fix what this names; its next pass tries again (`penstock run` begins one"
                f" within half a minute, `penstock {_COMMANDS[what]}` at once)",
            )  # fmt: skip


def _archiver(ledger: Overview, limits: StatusSettings) -> Iterator[Verdict]:
    age, count = ledger.oldest_processed_seconds, ledger.sizes["processed"]
    if age > limits.silent_seconds:
        yield Verdict(
            "archiver-late", wrong=True,
            text=f"{plural(count, 'processed file is', 'processed files are')} in the spool, the"
            f" oldest for {duration(age)}",
            advice="run `penstock archive`; if it logs file.stuck, fix the cause there",
        )  # fmt: skip


def _rejects(snapshot: Snapshot, ledger: Overview) -> Iterator[Verdict]:
    last = snapshot.minutes[-_REJECTS_MINUTES:]
    rejected = sum(minute["files_rejected"] for minute in last)
    processed = sum(minute["files_processed"] for minute in last)
    if rejected >= _REJECTS_MIN and rejected > REJECTS_SHARE_MAX * (rejected + processed):
        yield Verdict(
            "most-rejected", wrong=True,
            text=f"{rejected:,} of the last {rejected + processed:,} files were rejected",
            advice="see `penstock rejected list`, fix the settings (`penstock preview`), then"
            " `penstock rejected retry --all`",
        )  # fmt: skip
        return
    kept = ledger.sizes["rejected"]
    kept += (snapshot.spool.rejects_kept or 0) if snapshot.spool else 0
    if kept:
        yield Verdict(
            "some-rejected", wrong=False,
            text=f"{plural(kept, 'rejected file is', 'rejected files are')} kept",
            advice="see `penstock rejected list`; then retry or discard them",
        )  # fmt: skip


def _redis(ledger: Overview) -> Iterator[Verdict]:
    lost = [at for at, minute in ledger.minutes.items() if minute.get("ledger_losses")]
    if lost:
        again = ledger.counters.get("files_after_loss", 0)
        yield Verdict(
            "redis-forgot", wrong=True,
            text=f"Redis lost data, as a worker saw at {_clock(60 * max(lost))};"
            f" {plural(again, 'file')} may have been sent a second time",
            advice="use a persistent Redis (appendonly yes, as the embedded one has), and let"
            " nobody flush it or delete its data; if a replica became the primary, set"
            " ledger.wait_replicas = 1; this verdict stays for an hour",
        )  # fmt: skip


def _memory(snapshot: Snapshot) -> Iterator[Verdict]:
    cause, memory = snapshot.unreachable.get("redis", ""), snapshot.memory
    if UNWRITABLE in cause or (memory and memory.is_unwritable):
        yield Verdict(
            "redis-stuck", wrong=True, text=cause or UNWRITABLE,
            advice="free space on its disk (that of run.state_directory, if it is embedded) or fix"
            " that disk; then Redis continues by itself",
        )  # fmt: skip
    if memory and (evicts := memory.evicts):
        yield Verdict(
            "redis-evicts", wrong=True, text=evicts.partition("; ")[0],
            advice="CONFIG SET maxmemory-policy noeviction, and in redis.conf; the checker finds"
            " the files that it forgot",
        )  # fmt: skip
    if memory and memory.max_bytes and memory.used_bytes > _MEMORY_SHARE_MAX * memory.max_bytes:
        yield Verdict(
            "redis-full", wrong=True,
            text=f"Redis uses {memory.used_bytes / memory.max_bytes:.0%} of its memory",
            advice="run the archiver, and again a minute later, when Redis forgets what was"
            " moved; or give Redis more memory (maxmemory)",
        )  # fmt: skip


def _room(spool: SpoolState | None) -> Iterator[Verdict]:
    if spool is None:
        return
    for share, what in _shares_left(spool):
        if share < _DISK_SHARE_MIN:
            yield Verdict(
                "disk-full", wrong=True, text=f"{what} left".format(f"{share:.1%}"),
                advice="free space: lower archive.retention_days, or move the archive",
            )  # fmt: skip
            break
    if spool.entries > LARGE_FILES:
        yield Verdict(
            "spool-crowded", wrong=True,
            text=f"{spool.entries:,} files are in the spool; some file systems refuse names at"
            " about 11 million",
            advice="run the archiver more often, and more workers",
        )  # fmt: skip


def _shares_left(spool: SpoolState) -> Iterator[tuple[float, str]]:
    room, kept = spool.room, spool.archive
    if room and room.disk_bytes:
        yield room.free_bytes / room.disk_bytes, "the spool's disk has {} of its space"
    if room:
        yield room.inodes_free_share, "the spool's disk has {} of its inodes"
    if kept and kept.disk_bytes:
        yield kept.free_bytes / kept.disk_bytes, "the archive's disk has {} of its space"


def _archive(snapshot: Snapshot, limits: StatusSettings) -> Iterator[Verdict]:
    space = snapshot.spool and snapshot.spool.archive
    waits = 86_400 * space.oldest_days if space and space.is_uploaded else 0.0
    if waits > limits.silent_seconds:
        yield Verdict(
            "uploads-late", wrong=True,
            text=f"a packed segment has waited for its upload for {duration(waits)}",
            advice="see `segment.stuck` in the archiver's log; it is kept until it is uploaded",
        )  # fmt: skip
    seen = snapshot.forecast
    if seen is not None and not seen.fits:
        yield Verdict(
            "archive-will-not-fit", wrong=True,
            text=f"at {seen.files_per_second:,.0f} files a second, as in the last hour, the"
            f" archive's disk has {seen.scarce} for {duration(86_400 * seen.lasts_days)}, and"
            f" must last {duration(86_400 * seen.needed_days)}",
            advice="archive.action = 'pack' takes a fifth of the bytes and almost no inodes; or"
            " lower archive.retention_days, or give archive.directory a larger disk",
        )  # fmt: skip


def _books(snapshot: Snapshot, ledger: Overview, limits: StatusSettings) -> Iterator[Verdict]:
    for law in snapshot.laws_broken[:1]:
        yield Verdict(
            "books-wrong", wrong=True, text=law,
            advice="run `penstock verify`, which names files; when all are accounted for, reset"
            " the counts: docs/monitoring.md#if-a-law-does-not-hold",
        )  # fmt: skip
    overdue = ledger.sweep_overdue_seconds
    if snapshot.workers and (overdue is None or overdue > limits.silent_seconds):
        since = "has never run" if overdue is None else f"is {duration(overdue)} late"
        yield Verdict(
            "checker-late", wrong=False,
            text=f"the checker {since}: files that listings miss stay where they are",
            advice="run `penstock check` regularly (`penstock run` does)",
        )  # fmt: skip


def _clock(at_seconds: float) -> str:
    return time.strftime("%H:%M UTC", time.gmtime(at_seconds))


def duration(seconds: float) -> str:
    """Return a time in the usual units: 8 s, 12 min, 3.5 h, 2.0 d."""
    for unit, length in (("d", 86_400), ("h", 3_600)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"  # noqa: PLR2004
