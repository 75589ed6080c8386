"""The three functions that AWS Lambda runs; deploy/template.yaml holds their schedules.

Each invocation is one pass, safe beside any other, and returns its tally. It logs a line of JSON
per claim, and one with its metrics at the end. It raises Halt and Again, so that they count as
function errors. Only the schedule retries.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from aws_lambda_powertools.metrics import MetricUnit

from penstock import archiver, checker, telemetry, wiring, worker
from penstock.aws.fanout import counted, given_name
from penstock.aws.invocation import Invocation, LambdaProcess
from penstock.errors import PenstockError
from penstock.model import Tally

# The metrics of each function: only those that alarms and dashboard use, because each costs money.
METRICS: Mapping[str, tuple[str, ...]] = {
    "sqs_loader": (
        "files_processed", "files_rejected", "records_sent", "records_rejected", "messages",
        "batches", "possible_repeats", "claims_taken_over", "oldest_waiting_seconds",
    ),
    "json_files_processed_archiver": ("files_archived", "files_stuck", "files_deleted"),
    "json_files_processing_checker": (
        "files_waiting", "files_processing", "claims_expired", "claims_old", "oldest_claim_seconds",
        "laws_broken",
    ),
}  # fmt: skip


class _Lines(LambdaPowertoolsFormatter):
    """Writes telemetry's line of JSON with the invocation, without fields that never change."""

    def serialize(self, log: Any) -> str:
        fields = log.pop("fields", {})
        for same in ("function_arn", "function_memory_size"):
            log.pop(same, None)
        return super().serialize({"step": log.pop("message"), **log, **fields})


# telemetry writes to the logger of this name.
_logger = Logger(
    service="penstock", level="INFO", logger_formatter=_Lines(utc=True, use_rfc3339=True)
)
_logger.remove_keys(["location"])
_metrics = Metrics(namespace="Penstock")
_process = LambdaProcess()


@_logger.inject_lambda_context
@_metrics.log_metrics
def sqs_loader(event: Any, context: Any) -> dict[str, Any]:
    """Send waiting files to SQS, and start another loader if the backlog grows."""
    tally = Tally()

    async def one_pass(run: Invocation) -> Tally:
        parts = await wiring.loader(run.settings, run.stack)
        async with counted(run, parts.ledger.loaders, event) as note_age:
            return await worker.load(
                parts, stop=run.stop, budget_seconds=run.budget_seconds,
                grace_seconds=run.deadline.grace_seconds, note_age=note_age, tally=tally,
                is_only_pass=True,
            )  # fmt: skip

    return _answer("sqs_loader", context, one_pass, tally, loader=given_name(event))


@_logger.inject_lambda_context
@_metrics.log_metrics
def json_files_processed_archiver(_event: Any, context: Any) -> dict[str, Any]:
    """Move processed files out of the spool."""

    async def one_pass(run: Invocation) -> archiver.ArchiverTally:
        parts = await wiring.archiver(run.settings, run.stack)
        return await archiver.archive(parts, stop=run.stop, budget_seconds=run.budget_seconds)

    return _answer("json_files_processed_archiver", context, one_pass)


@_logger.inject_lambda_context
@_metrics.log_metrics
def json_files_processing_checker(_event: Any, context: Any) -> dict[str, Any]:
    """Free files of dead workers."""

    async def one_pass(run: Invocation) -> checker.CheckerTally:
        parts = await wiring.checker(run.settings, run.stack)
        return await checker.check(parts, stop=run.stop, budget_seconds=run.budget_seconds)

    return _answer("json_files_processing_checker", context, one_pass)


def _answer(
    function: str,
    context: Any,
    one_pass: Callable[[Invocation], Any],
    so_far: Tally | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Run one pass; log and measure its result, or `so_far` if it failed. Raises its errors."""
    _metrics.add_dimension("function", function)
    fields = {name: value for name, value in more.items() if value}
    try:
        tally: dict[str, Any] = dataclasses.asdict(_process.run(context, one_pass))
    except PenstockError as error:
        unreachable = str(error).startswith("ledger.")  # every error begins with its operation
        _metrics.add_metric("ledger_unreachable", MetricUnit.Count, int(unreachable))
        done = {name: n for name, n in dataclasses.asdict(so_far).items() if n} if so_far else {}
        _measure(function, done)
        kind = type(error).__name__
        telemetry.warn(f"{function}.failed", kind=kind, cause=str(error), **done, **fields)
        raise
    _measure(function, tally)
    telemetry.event(f"{function}.done", **tally, **fields)
    return tally


def _measure(function: str, tally: Mapping[str, Any]) -> None:
    for name in METRICS[function]:
        if tally.get(name) is not None:
            unit = MetricUnit.Seconds if name.endswith("_seconds") else MetricUnit.Count
            _metrics.add_metric(name, unit, tally[name])
