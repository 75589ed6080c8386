"""Put files that left the spool back into it for another pass, as an operator asks.

    out of the spool ──hold──▶ held ──(moved into the spool)──▶ put_back ──▶ due at once

A file is held before it is moved. Otherwise a worker could take it for a new file, and ignore the
operator's note.
"""

import json
from collections.abc import Mapping, Sequence

import msgspec

from penstock import telemetry
from penstock.ledger.scripts import Part
from penstock.model import LISTING_SECONDS_MAX, PutBack

FORGET_AFTER_SECONDS = 2 * LISTING_SECONDS_MAX
"""How long a file out of the spool is remembered: no listing in use can name it after that."""

HOLD_SECONDS = 120.0
"""How long nobody claims a held file; moving it must take less than half of that."""


class LedgerRepairs(Part):
    """What an operator changes in the ledger, while workers and archivers run."""

    async def hold(
        self, files: Mapping[str, PutBack], *, left_for_seconds: float = FORGET_AFTER_SECONDS
    ) -> Mapping[str, str]:
        """Hold up to 500 files that are about to be moved into the spool.

        Returns, by name, `held`, or the state that forbids it: `processing`, `processed`,
        `rejected` (and not moved yet), `retry` (queued already), or `leaving MS`: it left the
        spool less than `left_for_seconds` ago, and an archiver may still be moving it.
        """
        keys = ["json_files_processing", "json_files_processed", "out_of_spool",
                "json_files_rejected", "retry", "put_back", "counters"]  # fmt: skip
        args: list[str | int] = [int(HOLD_SECONDS * 1000), int(left_for_seconds * 1000)]
        for name, put_back in files.items():
            args += [name, _said(name, put_back)]
        words = await self._scripts.run("hold", keys, args)
        return dict(zip(files, words, strict=True))

    async def put_back(self, inside: Sequence[str], outside: Mapping[str, PutBack]) -> int:
        """End a hold: files `inside` the spool are due now, those `outside` are forgotten.

        Returns how many of the first are queued for a retry, or claimed by now.
        """
        args: list[str | int] = [len(inside), *inside]
        for name, put_back in outside.items():
            args += [name, _said(name, put_back)]
        return int(await self._scripts.run("put_back", ["retry", "put_back", "counters"], args))

    async def let_go(self, names: Sequence[str]) -> None:
        """Forget files that left the spool and were discarded."""
        if names:
            await self._scripts.client.zrem(self._scripts.key("out_of_spool"), *names)


def _said(name: str, put_back: PutBack) -> str:
    return json.dumps({"file": name, **put_back._asdict()}, separators=(",", ":"))


def said(texts: Sequence[str]) -> dict[str, PutBack]:
    """Parse operators' notes, by file name. A file with an unreadable note is sent whole."""
    known: dict[str, PutBack] = {}
    for text in texts:
        try:
            story = msgspec.json.decode(text, type=_Said)
        except msgspec.DecodeError as error:
            telemetry.warn("put_back.unreadable", cause=str(error), remedy="the file is sent whole")
        else:
            known[story.file] = PutBack(story.by, story.salt, story.records)
    return known


class _Said(msgspec.Struct):
    file: str
    by: str
    salt: str
    records: tuple[int, ...] | None
