"""Tell one file's whole story from the ledger, the spool, the archive and the rejects."""

import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock import file_names
from penstock.ledger.overview import FileStory
from penstock.model import RecordReject
from penstock.operate.archived import Archived
from penstock.operate.health import duration
from penstock.operate.spool_files import (
    DISCARDED,
    RejectedFile,
    SpoolFiles,
    iso_time,
    rejected_file,
)
from penstock.operate.wording import plural

_JOURNAL_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Explained:
    """One file's story: its state, and sentences in the order of its life."""

    file: str
    state: str
    lines: list[str]
    next: str


def explained(name: str, story: FileStory, dirs: SpoolFiles | None) -> Explained:
    """Return the story of a file; without `dirs`, only what the ledger knows."""
    if dirs and (rule := _rule_broken(dirs.spool / name)):
        nobody = f"it is in the spool and will never be sent: {rule}"
        return Explained(name, "ignored", [nobody], "have its writer use another name, or move it")
    lines = list(_in_the_spool(name, dirs))
    lines += _in_the_ledger(story)
    copies = [*Archived(dirs).copies(name)] if dirs else []
    reject = _reject(name, story, dirs)
    state = story.state
    if copies or story.processed_at is not None:
        lines.append(
            "the loaders' log has its claim, sending time and record count: find the line"
            " claim.committed whose first_file and last_file enclose its name"
        )
    if copies:
        lines += [
            f"archived at {iso_time(copy.at_seconds)}: {copy.where}, {copy.size_bytes:,} bytes"
            for copy in reversed(copies)
        ]
        state = "archived" if state in {"waiting", "gone"} else state
    if reject is not None:
        lines += _why(reject, dirs)
        state = "rejected" if state in {"waiting", "archived", "gone"} else state
    if dirs and (given_up := dirs.rejects / DISCARDED / name).is_file():
        lines.append(f"discarded: its copy is in {given_up}")
        state = "discarded" if state == "waiting" and len(lines) == 1 else state
    if state == "waiting" and not lines:
        nobody = "it is not in the spool, the archive, the rejects or the ledger"
        look = "check its name; archived files are deleted after archive.retention_days"
        return Explained(name, "unknown", [nobody], look)
    return Explained(name, state, lines, _next(name, state, dirs))


def _rule_broken(path: Path) -> str:
    """Return why an entry of the spool is not a file; empty if it is one, or missing."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return ""
    return file_names.rule_broken(path.name) or (
        "" if stat.S_ISREG(mode) else "it is not a regular file"
    )


def _in_the_spool(name: str, dirs: SpoolFiles | None) -> Iterator[str]:
    if dirs is None:
        yield "the directory is on another machine, so this is only what the ledger knows"
        return
    try:
        status = (dirs.spool / name).lstat()
    except OSError:
        return
    age = duration(max(0.0, time.time() - status.st_ctime))
    at = iso_time(status.st_ctime)
    yield f"in the spool since {at}, for {age}: {dirs.spool / name}, {status.st_size:,} bytes"


def _in_the_ledger(story: FileStory) -> Iterator[str]:
    now = story.at_seconds
    if put_back := story.put_back:
        only = (
            ""
            if put_back.records is None
            else f", only {plural(len(put_back.records), 'rejected record')} of it"
        )
        ids = " under new ids" if put_back.salt else ""
        yield f"put back for another pass{only}{ids}"
    if story.due_at is not None:
        wait = story.due_at - now
        due = f"in {duration(wait)}" if wait > 0 else "now: the next worker claims it"
        yield f"to be retried, {due}"
    if story.claim:
        yield from _claimed(story)
    if story.processed_at is not None:
        yield f"processed at {iso_time(story.processed_at)}: SQS has confirmed every record"
    if story.gone_at is not None:
        yield (
            f"found gone at {iso_time(story.gone_at)}: it was sent or rejected, but is neither in"
            " the spool nor in the archive"
        )
    elif story.left_spool_at is not None:
        yield f"left the spool at {iso_time(story.left_spool_at)}"


def _claimed(story: FileStory) -> Iterator[str]:
    now = story.at_seconds
    if not story.claim_files:
        yield f"claim {story.claim} has just been settled: run this again"
        return
    owner = f"by {story.worker}" if story.worker else "by nobody: the next worker takes it over"
    yield (
        f"in claim {story.claim}, file {story.position + 1:,} of {story.claim_files:,}, made at"
        f" {iso_time(story.claimed_at)}, attempt {story.attempt}, held {owner}"
    )
    if story.worker:
        left = story.lease_ends_at - now
        lease = f"runs for {duration(left)} more" if left > 0 else f"ended {duration(-left)} ago"
        yield f"its lease {lease}"
    if story.journal:
        yield f"SQS has confirmed {plural(len(story.journal), 'message')} of this claim"
        for index, identity in sorted(story.journal.items())[:_JOURNAL_SHOWN]:
            yield f"  message {index}: penstock_id {identity}"
        if len(story.journal) > _JOURNAL_SHOWN:
            yield f"  and {len(story.journal) - _JOURNAL_SHOWN:,} more"


def _reject(name: str, story: FileStory, dirs: SpoolFiles | None) -> RejectedFile | None:
    if story.rejected:
        return rejected_file(name, story.rejected, moved=False)
    if dirs and (dirs.rejects / name).is_file():
        return dirs.rejected_one(name)
    return None


def _why(reject: RejectedFile, dirs: SpoolFiles | None) -> Iterator[str]:
    when = f" at {iso_time(reject.at_seconds)}" if reject.at_seconds else ""
    yield f"rejected{when}: {reject.reason}"
    for record in list(reject.story.get("records", ()))[:5]:
        yield f"  {msgspec.convert(record, RecordReject)}"
    if (reject.records_rejected or 0) > 5:  # noqa: PLR2004  as many as shown above
        yield f"  {reject.records_rejected:,} records in all"
    if reject.moved and dirs:
        yield f"it is in {dirs.rejects / reject.name}"
    else:
        yield "it is still in the spool; the archiver moves it to the rejects directory"


def _next(name: str, state: str, dirs: SpoolFiles | None) -> str:
    if state == "retry" and dirs is not None and not (dirs.spool / name).exists():
        return "it is not in the spool: it will be counted as vanished"
    there = "" if dirs else ", on the machine of the file server"
    return {
        "rejected": "if the settings are wrong, fix them (`penstock preview`), then `penstock"
        f" rejected retry {name}`{there}; if the file is wrong, put a fixed one in the spool under"
        f" another name, and `penstock rejected discard {name}`",
        "archived": f"to send it again: `penstock replay {name}`{there}",
        "gone": "find out what else moves or deletes files of the spool",
        "discarded": "nothing; to send it after all, move that copy into the spool",
        "processed": "the archiver moves it out of the spool; it is never sent again",
        "processing": "nothing: its worker, or the next one, finishes it",
        "retry": "nothing: the next worker claims it when it is due",
        "waiting": "nothing: the next worker claims it; `penstock status` says whether one runs",
    }[state]
