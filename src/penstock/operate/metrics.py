"""A snapshot as Prometheus metrics: names and units by its conventions (docs/metrics.md)."""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest

from penstock import __version__
from penstock.archive.forecast import Forecast
from penstock.ledger.outcome import AGES_SECONDS
from penstock.operate.snapshot import Snapshot
from penstock.operate.spool_view import SpoolState
from penstock.settings.schema import StatusSettings

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

COUNTERS: Final[Mapping[str, str]] = {
    "files_seen": "Files claimed for the first time, or put back.",
    "files_processed": "Files whose records SQS has all confirmed.",
    "files_archived": "Files moved out of the spool after they were processed.",
    "files_gone": "Processed files that were in neither spool nor archive.",
    "files_rejected": "Files kept because they, or some of their records, cannot be sent.",
    "files_vanished": "Files that had disappeared when a worker read them.",
    "files_retried": "Times that a file was put off, to retry it later.",
    "files_put_back": "Files that an operator put back for another pass.",
    "files_swept": "Files that listings missed and a sweep found.",
    "files_after_loss": "Files that may have been sent twice because Redis lost data.",
    "records_read": "Records read from files.",
    "records_sent": "Records confirmed by SQS.",
    "records_filtered": "Records that select.where filtered out.",
    "records_rejected": "Records that cannot be sent.",
    "messages": "Messages confirmed by SQS, including those that a predecessor had sent.",
    "messages_submitted": "Messages that this ledger's workers sent and SQS confirmed or rejected.",
    "messages_failed": "Messages that SQS rejected for good.",
    "messages_skipped": "Messages not sent, because a predecessor had sent them.",
    "batches": "SendMessageBatch calls that SQS answered.",
    "bytes_sent": "Bytes confirmed by SQS, as it counts them.",
    "bytes_room": "Bytes that the messages confirmed by SQS had room for.",
    "requests_billed": "Requests of 64 KiB that SQS bills for sending.",
    "files_trimmed": "Times a file was given back because it would not have filled a message.",
    "trims_refused": "Trims refused: the worker had lost its claim.",
    "possible_repeats": "Messages sent again because the outcome of the first call stayed unknown.",
    "throttled": "Calls that SQS throttled.",
    "journal_mismatches": "Messages sent again because their content had changed.",
    "claims": "Claims made.",
    "claims_taken_over": "Claims that a worker took over from one that had died.",
    "claims_expired": "Claims that the checker took from a worker that had died.",
    "claims_isolated": "Claims split because their workers kept dying.",
    "renewals_refused": "Renewals refused: the worker had lost its claim.",
    "journals_refused": "Journal entries refused: the worker had lost its claim.",
    "commits_refused": "Commits refused: the worker had lost its claim.",
    "writes_unconfirmed": "Writes that too few replicas of Redis confirmed in time.",
    "releases_refused": "Releases refused: the worker had lost its claim.",
}
"""The ledger's counters that become metrics, `penstock_NAME_total`, and what each counts."""


def exposition(snapshot: Snapshot, limits: StatusSettings) -> bytes:
    """Return the metrics of a snapshot in Prometheus's text format."""
    seen: Any = SimpleNamespace(collect=lambda: _families(snapshot, limits))
    return generate_latest(seen)


def _families(seen: Snapshot, limits: StatusSettings) -> Iterator[Metric]:
    spool_name = seen.spool_name

    def gauge(name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"penstock_{name}", text, labels=["spool"])
        family.add_metric([spool_name], value)
        return family

    def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        family = GaugeMetricFamily(f"penstock_{name}", text, labels=["spool", label])
        for key, value in values.items():
            family.add_metric([spool_name, key], value)
        return family

    yield gauges("build_info", "Always 1; the label is the version.", "version", {__version__: 1.0})
    parts = {part: float(part not in seen.unreachable) for part in ("spool", "redis", "queue")}
    yield gauges("part_up", "1 if this part answers.", "part", parts)
    yield gauge("healthy", "1 if nothing is wrong, as penstock status says.", float(seen.healthy))
    codes = {verdict.code: 1.0 for verdict in seen.verdicts}
    yield gauges("verdict", "1 for each verdict of penstock status.", "code", codes)
    if seen.ledger is not None:
        sizes = seen.ledger.sizes
        states = {s: float(sizes[s]) for s in ("processing", "processed", "rejected", "retry")}
        if seen.waiting is not None:
            states["waiting"] = float(seen.waiting)
        yield gauges("files", "Files in each state.", "state", states)
        yield gauge("claims_open", "Claims that are not settled yet.", sizes["claims"])
        oldest = max((claim.age_seconds for claim in seen.claims), default=0.0)
        yield gauge("oldest_claim_seconds", "Age of the oldest claim.", oldest)
        late = seen.ledger.oldest_processed_seconds
        yield gauge("oldest_processed_seconds", "Longest wait for the archiver.", late)
        alive = sum(w.silent_for_seconds <= limits.silent_seconds for w in seen.workers)
        yield gauge("workers", "Workers active within status.silent_seconds.", alive)
        broken = len(seen.laws_broken)
        yield gauge("laws_broken", "Conservation laws that do not hold; must be 0.", broken)
        for name, text in COUNTERS.items():
            family = CounterMetricFamily(f"penstock_{name}", text, labels=["spool"])
            family.add_metric([spool_name], seen.ledger.counters.get(name, 0))
            yield family
        yield _ages(spool_name, seen.ledger.counters)
    for name, text, value in _of_the_spool(seen.spool, seen.forecast):
        yield gauge(name, text, value)
    if seen.queue is not None:
        depth = {name: float(count) for name, count in seen.queue._asdict().items()}
        yield gauges("queue_messages", "Messages in the queue, as SQS estimates.", "kind", depth)
    if seen.memory is not None:
        memory = seen.memory
        yield gauge("redis_memory_used_bytes", "Bytes that Redis uses.", memory.used_bytes)
        yield gauge(
            "redis_memory_max_bytes", "Bytes that Redis may use; 0: no limit.", memory.max_bytes
        )
        yield gauge("ledger_memory_bytes", "This ledger's share, estimated.", memory.ledger_bytes)


def _ages(spool_name: str, counted: Mapping[str, int]) -> Metric:
    text = "Age of each claim's oldest file when it was committed."
    family = HistogramMetricFamily("penstock_claim_age_seconds", text, labels=["spool"])
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound in (*map(str, AGES_SECONDS), "inf"):
        total += counted.get(f"age_{bound}", 0)
        buckets.append((bound.replace("inf", "+Inf"), total))
    family.add_metric([spool_name], buckets, counted.get("age_ms", 0) / 1000)
    return family


def _of_the_spool(
    spool: SpoolState | None, forecast: Forecast | None
) -> Iterator[tuple[str, str, float]]:
    """Yield name, text and value of each known gauge; over HTTP some are unknown."""
    if spool is None:
        return
    yield "oldest_waiting_seconds", "Age of the oldest waiting file.", spool.oldest_waiting_seconds
    yield "spool_files", "Files in the spool, in any state.", spool.entries
    if spool.rejects_kept is not None:
        yield "rejects_kept", "Files in the rejects directory.", spool.rejects_kept
    if spool.room is not None:
        yield "disk_free_bytes", "Bytes free on the spool's disk.", spool.room.free_bytes
        yield "disk_size_bytes", "Bytes of the spool's disk.", spool.room.disk_bytes
    if forecast is not None:
        lasts_seconds = forecast.lasts_days * 86_400
        yield "archive_lasts_seconds", "How long the archive's disk lasts.", lasts_seconds
