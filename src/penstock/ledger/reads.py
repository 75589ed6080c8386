"""Read a ledger without changing it."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from penstock.ledger.scripts import Part, Scripts

FILES_A_CALL_MAX = 500  # keeps every script near 1 ms, in which Redis serves nobody else
# The largest values that the settings allow; loaders in AWS Lambda end after fifteen minutes.
LEASE_SECONDS_MAX, RETRY_SECONDS_MAX, SWEEP_PAUSE_SECONDS_MAX = 240.0, 3_600.0, 86_400.0
LOADER_SECONDS_MAX = 900.0
_KEYS = {
    "processing": "json_files_processing",
    "processed": "json_files_processed",
    "archived": "out_of_spool",
    "rejected": "json_files_rejected",
    "retry": "retry",
}
_HASHES = frozenset({"processing", "rejected"})  # the keys of the other states are sorted sets


class HeldClaim(NamedTuple):
    """One claim as it is now; `worker` is empty if nobody holds it.

    `overdue_seconds` is the time since its lease ended or it was released; negative while it runs
    or waits. `waits_for` is why some of its files could not be read, or empty.
    """

    claim: str
    worker: str
    attempt: int
    age_seconds: float
    overdue_seconds: float
    files: int
    waits_for: str = ""


class LedgerReads(Part):
    """What the archiver, the checker and a status page read."""

    async def counters(self) -> dict[str, int]:
        """Return everything counted since this ledger began, by name."""
        counted = await self._scripts.client.hgetall(self._scripts.key("counters"))  # type: ignore[misc]
        return _whole(cast("dict[str, str]", counted))

    async def sizes(self) -> dict[str, int]:
        """Return how many files are in each state, and how many claims there are."""
        counts, _ = await self._sizes_and_counters()
        return counts

    async def _sizes_and_counters(self) -> tuple[dict[str, int], dict[str, int]]:
        key = self._scripts.key
        return paired_sizes(await self._scripts.ask(lambda pipe: size_commands(pipe, key)))

    async def states(self, names: Sequence[str]) -> list[str]:
        """Return the state of each of up to 500 names.

        One of waiting, processing, processed, archived, rejected or retry (waits for its time).
        """
        key, wanted = self._scripts.key, list(names)
        columns = await self._scripts.ask(
            lambda pipe: each_state(pipe, "hmget", "zmscore", key, wanted)
        )
        return [
            next((s for s, found in zip(_KEYS, row, strict=True) if found is not None), "waiting")
            for row in zip(*columns, strict=True)
        ]

    async def processed(self, skip: int, files_max: int) -> Sequence[str]:
        """Return processed names in the spool, oldest first, after `skip`; 1,000 take 0.05 ms."""
        last = skip + files_max - 1
        names = await self._scripts.client.zrange(
            self._scripts.key("json_files_processed"), skip, last
        )
        return cast("list[str]", names)

    async def rejected(self, cursor: int) -> tuple[int, Mapping[str, str]]:
        """Return the next cursor and some rejected files still in the spool: name to JSON.

        Start with cursor 0 and end when 0 comes back; a name may come twice.
        """
        scanned = await self._scripts.client.hscan(
            self._scripts.key("json_files_rejected"), cursor, count=FILES_A_CALL_MAX
        )  # type: ignore[misc]
        return cast("tuple[int, dict[str, str]]", scanned)

    async def names(self, state: str) -> Sequence[str]:
        """Return the names of all files in a state, page by page; a name may come twice."""
        key, redis = self._scripts.key(_KEYS[state]), cast("Any", self._scripts.client)
        scan = redis.hscan_iter if state in _HASHES else redis.zscan_iter
        return [name async for name, _ in scan(key, count=FILES_A_CALL_MAX)]

    async def claims(self, most: int = 100) -> Sequence[HeldClaim]:
        """Return the oldest claims, oldest first."""
        flat = await self._scripts.run("age", ["leases"], [self._scripts.key("claim:"), most])
        rows = [flat[i : i + 7] for i in range(0, len(flat), 7)]
        return [
            HeldClaim(
                c, worker, int(attempt), int(age) / 1000, int(overdue) / 1000, int(files), why
            )
            for c, worker, attempt, age, overdue, files, why in rows
        ]

    async def workers(self) -> dict[str, tuple[float, float]]:
        """Return, by worker, when it was first seen and when it last claimed: Unix seconds."""
        key = self._scripts.key
        seen, since = await self._scripts.ask(
            lambda pipe: pipe.zrange(key("workers"), 0, -1, withscores=True).hgetall(
                key("workers_since")
            )
        )
        return {worker: (number_or(since.get(worker), at) / 1000, at / 1000) for worker, at in seen}

    async def frontier(self) -> str:
        """Return the listing cursor up to which every file has been claimed; may be empty."""
        return cast("str", await self._scripts.client.get(self._scripts.key("frontier")) or "")

    async def verify(self) -> Sequence[str]:
        """Return a sentence for each conservation law that does not hold; normally none.

        All figures are of one moment, and every script keeps each law. The laws stand below.
        """
        sizes, counted = await self._sizes_and_counters()
        unheld = await orphans(self._scripts, free=False)
        late = await late_times(self._scripts, correct=False)

        def count(name: str) -> int:
            return counted.get(name, 0)

        laws = (
            (
                ("files seen = retry + processing + processed + archived + gone + rejected"
                 " + vanished"),
                count("files_seen"),
                sizes["retry"] + sizes["processing"] + sizes["processed"] + count("files_archived")
                + count("files_gone") + count("files_rejected") + count("files_vanished"),
            ),
            (
                "files processed = processed and not archived + archived + gone",
                count("files_processed"),
                sizes["processed"] + count("files_archived") + count("files_gone"),
            ),
            (
                "files rejected = rejected and not moved + moved + gone",
                count("files_rejected"),
                sizes["rejected"] + count("files_rejected_moved") + count("files_rejected_gone"),
            ),
            (
                "records read = sent + filtered + rejected",
                count("records_read"),
                count("records_sent") + count("records_filtered") + count("records_rejected"),
            ),
            (
                "messages submitted = confirmed + failed",
                count("messages_submitted"),
                count("messages") - count("messages_skipped") + count("messages_failed"),
            ),
        )  # fmt: skip
        broken = [
            f"{law}: {left} is not {right}, {left - right:+d}"
            for law, left, right in laws
            if left != right
        ]
        if unheld:
            broken.append(f"a file being processed is held by a claim: {unheld} are held by none")
        if late:
            broken.append(f"no time is later than it can be: {late} are; Redis's clock was ahead")
        return broken


async def late_times(scripts: Scripts, *, correct: bool) -> int:
    """Count times too far ahead, at most 500 a key; with `correct`, shorten them (correct.lua)."""
    keys = ["leases", "claims", "loaders", "retry", "out_of_spool", "overlooked", "workers",
            "json_files_processed", "gone", "sweeper", "loader_started", "counters",
            "workers_since", "troubles"]  # fmt: skip
    longest = (LEASE_SECONDS_MAX, LOADER_SECONDS_MAX, RETRY_SECONDS_MAX, SWEEP_PAUSE_SECONDS_MAX)
    args: list[str | int] = [int(correct), FILES_A_CALL_MAX, scripts.key("claim:")]
    args += [int(seconds * 1000) for seconds in longest]
    return int(await scripts.run("correct", keys, args))


async def orphans(scripts: Scripts, *, free: bool) -> int:
    """Count files being processed that no claim holds; with `free`, queue them for a retry."""
    keys = ["leases", "json_files_processing", "retry", "counters", "claims"]
    cursor, found = 0, 0
    while True:
        cursor, page = await cast("Any", scripts.client).hscan(
            scripts.key("json_files_processing"), cursor, count=FILES_A_CALL_MAX
        )
        names = list(page)
        for at in range(0, len(names), FILES_A_CALL_MAX):
            args = [scripts.key("claim:"), int(free), *names[at : at + FILES_A_CALL_MAX]]
            found += int(await scripts.run("orphans", keys, args))
        if cursor == 0:
            return found


def each_state(pipe: Any, of_hash: str, of_set: str, key: Callable[[str], str], *of: Any) -> None:
    """Put one command for each state's key into a pipeline: for a hash, or a sorted set."""
    for state, name in _KEYS.items():
        getattr(pipe, of_hash if state in _HASHES else of_set)(key(name), *of)


def size_commands(pipe: Any, key: Callable[[str], str]) -> None:
    """Put commands into a pipeline for the size of each state, and the counters."""
    each_state(pipe, "hlen", "zcard", key)
    pipe.zcard(key("leases"))
    pipe.hgetall(key("counters"))


def paired_sizes(answers: Sequence[Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Return sizes and counters from the answers to `size_commands`."""
    *counts, counted = answers
    sizes: dict[str, int] = dict(zip((*_KEYS, "claims"), counts, strict=True))
    return sizes, _whole(counted)


def _whole(counted: Mapping[str, str]) -> dict[str, int]:
    """Return counters as numbers. One that holds no number counts as 0, and breaks a law."""
    return {name: number_or(value, 0) for name, value in counted.items()}


def number_or(text: str | None, instead: int) -> int:
    """Return the whole number in a text; `instead` if it is missing or not a whole number."""
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,19}", text) else instead
