"""Verify that every file of spool, ledger, archive and rejects is accounted for.

A first look compares sets of names. Odd names are checked again, up to three times, because files
move meanwhile. Only names that stay odd are reported.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from penstock import file_names
from penstock.archive.store import Store, segment_name
from penstock.ledger.ledger import Ledger
from penstock.operate.archived import Archived
from penstock.operate.spool_files import SpoolFiles
from penstock.source.scan import listed

_NAMES_A_CALL = 500
_LOOKS = 3
_PAUSE_SECONDS = 1.0
_IN_LEDGER = ("processing", "retry", "processed", "archived", "rejected")


@dataclass
class Verified:
    """The result: how many files were checked, and a sentence for each broken law or file.

    `files_gone` were in neither spool nor archive when the archiver came, since the ledger began.
    `unaccounted` maps names to what is wrong with them. `skipped` says what could not be checked.
    `entries_ignored` counts entries that match source.pattern but can never be sent;
    `ignored_example` is one, with the reason.
    """

    files_in_spool: int = 0
    files_waiting: int = 0
    files_in_ledger: int = 0
    files_in_archive: int | None = None
    files_in_rejects: int = 0
    files_gone: int = 0
    laws_broken: list[str] = field(default_factory=list[str])
    unaccounted: dict[str, str] = field(default_factory=dict[str, str])
    skipped: list[str] = field(default_factory=list[str])
    entries_ignored: int = 0
    ignored_example: str = ""

    @property
    def holds(self) -> bool:
        """Whether every law holds and every file is accounted for."""
        return not self.laws_broken and not self.unaccounted


def judge(state: str, where: Sequence[str], *, deletes: bool, has_reason: bool) -> str:
    """Return what is wrong with a file in this state and place; empty if nothing is.

    `where` says which of spool, archive and rejects hold it. `deletes`: processed files are deleted
    instead of archived.
    """
    if len(where) > 1:
        return f"it is in {' and '.join(where)}; keep one of them"
    place = where[0] if where else "nowhere"
    if place == "rejects" and not has_reason:
        return "it is in the rejects directory without its reason"
    if deletes and place == "nowhere" and state in {"processed", "archived"}:
        return ""
    return _WRONG.get((state, place), "")


_DELETED = "but is nowhere: something deleted it"
_WRONG = {
    ("archived", "spool"): "it was archived, but is in the spool: something put it there by hand",
    ("processing", "archive"): "it is to be sent, but is in the archive, not in the spool",
    ("processing", "rejects"): "it is to be sent, but is in the rejects, not in the spool",
    ("retry", "archive"): "it is to be sent, but is in the archive, not in the spool",
    ("retry", "rejects"): "it is to be sent, but is in the rejects, not in the spool",
    ("processed", "rejects"): "it was sent whole, but is in the rejects directory",
    ("rejected", "archive"): "it was rejected, but is in the archive",
    ("processing", "nowhere"): f"it is to be sent, {_DELETED}",
    ("retry", "nowhere"): f"it is to be sent, {_DELETED}",
    ("rejected", "nowhere"): f"it was rejected, {_DELETED}",
    ("processed", "nowhere"): f"it was processed, {_DELETED}",
    ("archived", "nowhere"): f"it left the spool a moment ago, {_DELETED}",
}
"""What is wrong, by state and place; other pairs are right."""


async def verify(ledger: Ledger, dirs: SpoolFiles, pattern: str, *, archive: bool) -> Verified:
    """Check everything. Takes 100 bytes of memory a file of the spool and of the ledger.

    With `archive`, also compares the whole archive with spool and rejects, a directory scan each.
    """
    found = Verified()
    for _ in range(_LOOKS):  # the laws are of one moment each; a broken one stays broken
        found.laws_broken = list(await ledger.reads.verify())
        if not found.laws_broken:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    found.files_gone = (await ledger.reads.counters()).get("files_gone", 0)
    odd = await _first_look(ledger, dirs, pattern, found)
    if archive:
        odd |= await _look_at_archive(dirs, found)
    for _ in range(_LOOKS):
        found.unaccounted = await _still_wrong(ledger, dirs, odd)
        odd = set(found.unaccounted)
        if not odd:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    alone = "only its reason is left, in the rejects directory; the file is nowhere"
    found.unaccounted |= dict.fromkeys(_reasons_alone(dirs), alone)
    return found


async def _first_look(ledger: Ledger, dirs: SpoolFiles, pattern: str, found: Verified) -> set[str]:
    """Return the names that look odd by sets alone; some only because files move."""
    known = {name: state for state in _IN_LEDGER for name in await ledger.reads.names(state)}
    seen = await asyncio.to_thread(listed, dirs.spool, pattern)
    found.entries_ignored, found.ignored_example = seen.broken, seen.example
    spool = set(seen.names)
    rejects = await asyncio.to_thread(_listed, dirs.rejects)
    found.files_in_ledger, found.files_in_spool = len(known), len(spool)
    found.files_in_rejects = len(rejects)
    found.files_waiting = sum(known.get(name, "retry") == "retry" for name in spool)
    odd = {name for name, state in known.items() if name not in spool or state == "archived"}
    left = {n for n in odd if known[n] == "archived" and n not in spool and n not in rejects}
    return (odd - await asyncio.to_thread(Archived(dirs).held, left)) | rejects


async def _look_at_archive(dirs: SpoolFiles, found: Verified) -> set[str]:
    spool = await asyncio.to_thread(_listed, dirs.spool)
    rejects = await asyncio.to_thread(_listed, dirs.rejects)
    count, odd = 0, set[str]()
    for folder in dirs.hours():
        archived = await asyncio.to_thread(_listed, folder)
        archived -= {name for name in archived if segment_name("", name)}
        count += len(archived)
        odd |= archived & (spool | rejects)
    count += await asyncio.to_thread(_count_packed, dirs)
    found.files_in_archive = count
    return odd


def _listed(directory: Path) -> set[str]:
    with suppress(FileNotFoundError), os.scandir(directory) as listing:
        return {e.name for e in listing if file_names.is_safe(e.name) and e.is_file()}
    return set()


def _count_packed(dirs: SpoolFiles) -> int:
    """Return how many files the segments hold. Raises Halt if one is damaged."""
    store, count = Store(dirs.archive, dirs.bucket), 0
    for hour in store.hours():
        for segment in store.segments(hour):
            with store.open(segment) as opened:
                count += sum(1 for _ in opened.names())
    return count


async def _still_wrong(ledger: Ledger, dirs: SpoolFiles, odd: set[str]) -> dict[str, str]:
    wrong: dict[str, str] = {}
    archived = Archived(dirs)
    waiting = sorted(odd)
    for first in range(0, len(waiting), _NAMES_A_CALL):
        page = waiting[first : first + _NAMES_A_CALL]
        states = await ledger.reads.states(page)
        for name, state in zip(page, states, strict=True):
            where = archived.places(name)
            reason = (dirs.rejects / f"{name}{file_names.REASON_SUFFIX}").is_file()
            text = judge(state, where, deletes=dirs.deletes, has_reason=reason)
            if text:
                wrong[name] = text
    return wrong


def _reasons_alone(dirs: SpoolFiles) -> Iterator[str]:
    if not dirs.rejects.is_dir():
        return
    archived = Archived(dirs)
    for entry in dirs.rejects.iterdir():
        name = entry.name.removesuffix(file_names.REASON_SUFFIX)
        if name != entry.name and file_names.is_safe(name) and not archived.places(name):
            yield name
