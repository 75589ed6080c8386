"""The operator's half of the ledger: files that left the spool go back into it for another pass.

    out of the spool ──hold──▶ in line, held ──(moved into the spool)──▶ put_back ──▶ due at once

Held first, then moved: so no worker takes the file for a new one, without what was said of it.
"""

import json
from collections.abc import Mapping, Sequence

import msgspec

from penstock import telemetry
from penstock.ledger.scripts import Part, translate_redis_errors
from penstock.model import LISTING_SECONDS_MAX, PutBack

FORGET_AFTER_SECONDS = 2 * LISTING_SECONDS_MAX
"""A file out of the spool is remembered for so long, so no listing in use can still name it."""

HOLD_SECONDS = 120.0
"""So long nobody claims a file that is being put back; who moves it is done in half of that."""


class LedgerRepairs(Part):
    """What an operator does to the ledger, beside workers and archivers that go on meanwhile."""

    @translate_redis_errors
    async def hold(
        self, files: Mapping[str, PutBack], *, left_for_seconds: float = FORGET_AFTER_SECONDS
    ) -> Mapping[str, str]:
        """Put up to 500 files in line that are about to be moved into the spool.

        Returns, by name, `held`, or the state that forbids it: `processing`, `processed`,
        `rejected` (and not moved yet), `retry` (in line already), or `leaving MS`: it left the
        spool less than `left_for_seconds` ago, and an archiver may still be at it.
        """
        keys = ["json_files_processing", "json_files_processed", "out_of_spool",
                "json_files_rejected", "retry", "put_back", "counters"]  # fmt: skip
        args: list[str | int] = [int(HOLD_SECONDS * 1000), int(left_for_seconds * 1000)]
        for name, put_back in files.items():
            args += [name, _said(name, put_back)]
        words = await self._scripts.run("hold", keys, args)
        return dict(zip(files, words, strict=True))

    @translate_redis_errors
    async def put_back(self, inside: Sequence[str], outside: Mapping[str, PutBack]) -> int:
        """End a hold: files that are `inside` the spool are due now, those `outside` let go of.

        Returns how many of the first are in line, or claimed by now.
        """
        args: list[str | int] = [len(inside), *inside]
        for name, put_back in outside.items():
            args += [name, _said(name, put_back)]
        return int(await self._scripts.run("put_back", ["retry", "put_back", "counters"], args))

    @translate_redis_errors
    async def let_go(self, names: Sequence[str]) -> None:
        """Forget files that left the spool and were discarded: nobody is to look for them."""
        if names:
            await self._scripts.client.zrem(self._scripts.key("out_of_spool"), *names)


def _said(name: str, put_back: PutBack) -> str:
    return json.dumps({"file": name, **put_back._asdict()}, separators=(",", ":"))


def said(texts: Sequence[str]) -> dict[str, PutBack]:
    """Return what was said of files put back, by name, from the ledger's texts.

    A file of which something unreadable was said is sent like any other: whole.
    """
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
