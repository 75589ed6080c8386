"""A spool at one moment: what status, console and metrics show of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from penstock.archive.forecast import Forecast
from penstock.ledger.overview import Memory, Overview
from penstock.ledger.reads import HeldClaim
from penstock.model import QueueDepth
from penstock.operate.spool_view import SpoolState

RATES: Final = (
    "files_processed", "files_archived", "files_gone", "files_rejected", "records_sent",
    "messages", "bytes_sent", "bytes_room", "requests_billed",
)  # fmt: skip
"""The counters of which rates are shown."""


STOPPED: Final = "Penstock does not run here: its embedded parts are stopped"
"""Why embedded Redis or SQS cannot be reached while Penstock, which starts them, does not run."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that is wrong, or that is only worth a look; and what to do about it.

    `code` is the same for every occurrence: alarms and documentation name it.
    """

    code: str
    wrong: bool
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """One worker that the ledger has heard of; times in seconds before the snapshot."""

    name: str
    known_for_seconds: float
    silent_for_seconds: float
    claims: int
    files: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A spool at one moment.

    What could not be asked is None or empty; `unreachable` says why, by part: spool, redis, queue.
    `waiting` are files that nobody has claimed, those that wait for a retry included. `rates` are
    per second, over the last ten seconds where the observer has watched for so long, else over the
    last minute. `minutes` are the counts of each of the last 60 minutes, the oldest first; the last
    one still runs. `counters` are the ledger's, since it began. `forecast` is how long the
    archive's disk lasts.
    """

    at: float
    spool_name: str
    source: str
    queue_url: str
    fifo: bool
    lease_seconds: float
    waiting: int | None = None
    spool: SpoolState | None = None
    ledger: Overview | None = None
    memory: Memory | None = None
    queue: QueueDepth | None = None
    claims: Sequence[HeldClaim] = ()
    workers: Sequence[SeenWorker] = ()
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    minutes: Sequence[Mapping[str, int]] = ()
    forecast: Forecast | None = None
    laws_broken: Sequence[str] = ()
    unreachable: Mapping[str, str] = field(default_factory=dict[str, str])
    verdicts: Sequence[Verdict] = ()

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; what is only worth a look does not count."""
        return not any(verdict.wrong for verdict in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; NamedTuples become objects."""
        known: dict[str, Any] = {"healthy": self.healthy}
        for part in dataclasses.fields(self):
            name = "away" if part.name == "unreachable" else part.name  # JSON keys never change
            known[name] = _plain(getattr(self, part.name))
        if self.ledger is not None:
            known["ledger"].pop("minutes")  # they are in `minutes`, filled up
        return known


def _plain(value: Any) -> Any:
    """Turn what a snapshot holds into what JSON has."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in cast("Sequence[Any]", value)]
    return value
