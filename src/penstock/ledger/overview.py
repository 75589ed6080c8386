"""Read a ledger to show it: an overview of all, and everything about one file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from penstock.ledger.reads import each_state, number_or, paired_sizes, size_commands
from penstock.ledger.repairs import said
from penstock.ledger.scripts import Part
from penstock.model import PutBack, SpoolIdentity

_MEASURED = ("json_files_processing", "json_files_processed", "json_files_rejected",
             "out_of_spool", "retry", "put_back", "overlooked", "counters", "minutes")  # fmt: skip


class Trouble(NamedTuple):
    """Why a function's last pass failed, how long ago, and on which host."""

    cause: str
    seconds_ago: float
    host: str

    @classmethod
    def from_text(cls, text: str, now: float) -> "Trouble":
        """Parse a note of `upkeep.trouble`."""
        at_ms, host, cause = [*text.split(" ", 2), "", ""][:3]
        return cls(cause, max(0.0, now - number_or(at_ms, 0) / 1000), host)


class Overview(NamedTuple):
    """A ledger at one moment, except its memory.

    `at_seconds` is Redis's own Unix time. `minutes` holds what was counted in each of the last 60
    minutes, by minutes since 1970. `oldest_processed_seconds` is how long the oldest processed file
    has waited for the archiver, 0 if none waits. `sweep_overdue_seconds` is how long ago the
    checker's next sweep was due: negative if it is not, None if there was no sweep yet. `spool` is
    None if the ledger knows none. `troubles` says, for each of loader, archiver and checker whose
    last pass failed, why.
    """

    at_seconds: float
    sizes: Mapping[str, int]
    counters: Mapping[str, int]
    minutes: Mapping[int, Mapping[str, int]]
    oldest_processed_seconds: float
    sweep_overdue_seconds: float | None
    spool: SpoolIdentity | None = None
    troubles: Mapping[str, Trouble] = {}


class Memory(NamedTuple):
    """Bytes: what Redis uses in all and may use (0: no limit), and this ledger's share.

    `policy` is what Redis does when it is full, `keys_evicted` how many keys it has evicted since
    its start. `is_unwritable`: it cannot write its data to disk, and accepts nothing new.
    """

    used_bytes: int
    max_bytes: int
    ledger_bytes: int
    policy: str = "noeviction"
    keys_evicted: int = 0
    is_unwritable: bool = False

    @property
    def evicts(self) -> str:
        """Return a warning that Redis may forget files, with the remedy; empty if it may not."""
        if self.policy == "noeviction":
            return ""
        return (
            f"this Redis has maxmemory-policy {self.policy} and has evicted {self.keys_evicted:,}"
            " keys: it forgets files when it is full; CONFIG SET maxmemory-policy noeviction"
        )


@dataclass(frozen=True, slots=True)
class FileStory:
    """Everything the ledger knows of one file; times are in seconds since 1970, None if not so.

    `journal` holds what SQS has confirmed of its claim: message index to message id. `position` is
    the file's place among the `claim_files` of the claim.
    """

    at_seconds: float
    state: str
    processed_at: float | None = None
    left_spool_at: float | None = None
    gone_at: float | None = None
    due_at: float | None = None
    rejected: str = ""
    put_back: PutBack | None = None
    claim: str = ""
    worker: str = ""
    attempt: int = 0
    claimed_at: float = 0.0
    lease_ends_at: float = 0.0
    claim_files: int = 0
    position: int = 0
    journal: Mapping[int, str] = field(default_factory=dict[int, str])


class LedgerOverview(Part):
    """Reads for a status page, a console, or a question about one file."""

    async def read(self) -> Overview:
        """Return the ledger's overview."""
        key = self._scripts.key

        def fill(pipe: Any) -> None:
            size_commands(pipe, key)
            pipe.hgetall(key("minutes"))
            pipe.zrange(key("json_files_processed"), 0, 0, withscores=True)
            pipe.hget(key("sweeper"), "until_ms")
            pipe.get(key("spool"))
            pipe.hgetall(key("troubles"))

        answers = await self._scripts.ask(fill)
        *first, minutes, oldest, until_ms, spool, troubles = answers
        sizes, counters = paired_sizes(first)
        at = await self._now()
        return Overview(
            at,
            sizes,
            counters,
            _by_minute(minutes, int(at // 60)),
            max(0.0, at - oldest[0][1] / 1000) if oldest else 0.0,
            None if until_ms is None else at - number_or(until_ms, 0) / 1000,
            SpoolIdentity.from_text(spool or ""),
            {what: Trouble.from_text(text, at) for what, text in sorted(troubles.items())},
        )

    async def memory(self) -> Memory:
        """Return memory figures, as Redis estimates them."""
        async with self._scripts.client.pipeline(transaction=False) as pipe:
            for name in _MEASURED:
                pipe.memory_usage(self._scripts.key(name))
            measured = await pipe.execute()
        info = await self._scripts.info()
        ledger_bytes = sum(cast("int", size or 0) for size in measured)
        policy, evicted = await self._scripts.policy(info), info.get("evicted_keys", 0)
        limit = info.get("maxmemory", 0)
        failed = info.get("aof_enabled", 0) and info.get("aof_last_write_status", "ok") != "ok"
        return Memory(info["used_memory"], limit, ledger_bytes, policy, evicted, bool(failed))

    async def story(self, name: str) -> FileStory:
        """Return everything the ledger knows of one file."""
        key = self._scripts.key

        def fill(pipe: Any) -> None:
            each_state(pipe, "hget", "zscore", key, name)
            pipe.hget(key("put_back"), name)
            pipe.zscore(key("gone"), name)

        answers = await self._scripts.ask(fill)
        claim, processed, left, rejected, due, put_back, gone = answers
        known: dict[str, Any] = {
            "at_seconds": await self._now(),
            "processed_at": _seconds(processed),
            "left_spool_at": _seconds(left),
            "gone_at": _seconds(gone),
            "due_at": _seconds(due),
            "rejected": rejected or "",
            "put_back": said([put_back]).get(name) if put_back else None,
        }
        columns = (("processing", claim), ("processed", processed), ("rejected", rejected),
                   ("retry", due), ("gone", gone), ("archived", left))  # fmt: skip
        state = next((state for state, found in columns if found is not None), "waiting")
        if claim:
            known |= await self._claim_of(claim, name)
        return FileStory(state=state, **known)

    async def _now(self) -> float:
        return int(await self._scripts.run("now", ["counters"], [])) / 1000

    async def _claim_of(self, claim: str, name: str) -> dict[str, Any]:
        key, leases = self._scripts.key(f"claim:{claim}"), self._scripts.key("leases")
        fields, ends, earlier, journal = await self._scripts.ask(
            lambda pipe: pipe.hgetall(key).zscore(leases, claim)
            .hgetall(f"{key}:earlier").hgetall(f"{key}:journal")
        )  # fmt: skip
        if not fields.get("names"):  # committed meanwhile, or unusable
            return {"claim": claim}
        names = fields["names"].split("/")
        return {
            "claim": claim,
            "worker": fields.get("worker", "") if fields.get("token") else "",
            "attempt": number_or(fields.get("attempt"), 1),
            "claimed_at": number_or(fields.get("made_ms"), 0) / 1000,
            "lease_ends_at": float(ends or 0) / 1000,
            "claim_files": len(names),
            "position": names.index(name) if name in names else 0,
            "journal": {
                int(index): entry.split(" ", 1)[0]
                for index, entry in (earlier | journal).items()
                if re.fullmatch("[0-9]{1,15}", index)
            },
        }


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _by_minute(fields: Mapping[str, str], now: int) -> dict[int, dict[str, int]]:
    minutes: dict[int, dict[str, int]] = {}
    for name, value in fields.items():
        minute, _, counter = name.partition(" ")
        if now - 60 < number_or(minute, 0) <= now:
            minutes.setdefault(int(minute), {})[counter] = number_or(value, 0)
    return minutes
