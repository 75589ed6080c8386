"""A spool at one moment, as status, console and metrics show it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from penstock.archive.forecast import Forecast
from penstock.ledger.overview import Memory, Overview
from penstock.ledger.reads import HeldClaim
from penstock.model import QueueDepth
from penstock.operate.spool_view import SpoolState

RATES: Final = (
    "files_processed", "files_archived", "files_gone", "files_rejected", "records_sent",
    "messages", "bytes_sent", "bytes_room", "requests_billed",
)  # fmt: skip
"""The counters whose rates are shown."""


STOPPED: Final = "Penstock does not run here: its embedded parts are stopped"
"""Why embedded Redis or SQS is unreachable while Penstock, which starts them, does not run."""


class Verdict(NamedTuple):
    """A finding and what to do about it. `wrong` is false if it is only worth knowing.

    `code` is the same for every occurrence; alarms and documentation use it.
    """

    code: str
    wrong: bool
    text: str
    advice: str


class SeenWorker(NamedTuple):
    """A worker that the ledger knows; times in seconds before the snapshot."""

    name: str
    known_for_seconds: float
    silent_for_seconds: float
    claims: int
    files: int


class Snapshot(NamedTuple):
    """A spool at one moment.

    Unknown values are None or empty; `unreachable` says why, by part: spool, redis, queue.
    `waiting` counts unclaimed files, including those that wait for a retry. `rates` are per second,
    over the last ten seconds if the observer has run that long, else over the last minute.
    `minutes` are the counts of each of the last 60 minutes, oldest first; the last one still runs.
    `forecast` is how long the archive's disk lasts.
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
    rates: Mapping[str, float] = {}
    minutes: Sequence[Mapping[str, int]] = ()
    forecast: Forecast | None = None
    laws_broken: Sequence[str] = ()
    unreachable: Mapping[str, str] = {}
    verdicts: Sequence[Verdict] = ()

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; findings only worth knowing do not count."""
        return not any(verdict.wrong for verdict in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; NamedTuples become objects."""
        known: dict[str, Any] = {"healthy": self.healthy, **_plain(self)}
        known["away"] = known.pop("unreachable")  # JSON keys never change
        if self.ledger is not None:
            known["ledger"].pop("minutes")  # `minutes` has them, with zeros
        return known


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in cast("Sequence[Any]", value)]
    return value
