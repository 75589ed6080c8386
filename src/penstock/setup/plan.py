"""Compute what a load needs and costs on AWS, from measured figures and listed prices.

Packing is not estimated: the real packer and batcher pack one full claim. docs/plan.md explains
each formula in words.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from penstock.errors import Halt
from penstock.model import BILLED_BYTES, CLAIM_ID_LIKE, Message, QueueLimits
from penstock.settings.schema import Settings
from penstock.setup.plan_prices import (
    CACHE_NODE_BYTES,
    MONTH_HOURS,
    MONTH_SECONDS,
    PRICES,
    SERVERLESS_BYTES_MIN,
)
from penstock.sqs.batch import batches
from penstock.sqs.filling import Filling
from penstock.sqs.packer import Packer


class Cpu(NamedTuple):
    """Microseconds of one core that the loader spends, by cause."""

    file: float
    record: float
    kilobyte: float
    message: float
    """For one record per message; collections are part of `record`."""


# From `python bench/plan.py` on a quiet machine: CPython 3.11, one of two cores of an x86-64
# server, files read over HTTP. After a change, `make docs` updates deploy/README.md.
MEASURED: Final = "2026-11-26"
CPU: Final = Cpu(file=9.5, record=3.00, kilobyte=1.23, message=31.8)
REDIS_FILE_BYTES: Final = 145
"""For a name of 31 characters in a sorted set, docs/ledger.md."""

HEADROOM: Final = 2.0
"""For Lambda's core against the measured one, starting, waiting, TLS: a guess, not measured."""

SQS_CALL_SECONDS: Final = 0.020
TICK_SECONDS: Final = 300
FORGET_SECONDS: Final = 60
LOADER_MB: Final = 1769  # one vCPU; below it Lambda gives a share of one
SMALL_MB: Final = 512  # archiver and checker
DAY_SECONDS: Final = 86_400
PACK_SECONDS: Final = 60
PACKED_SHARE: Final = 0.19
"""Bytes in the archive per byte of a file, for 20,000 different tweets; docs/capacity.md."""
START_SECONDS: Final = 2.0  # of an invocation that finds nothing to do
ARCHIVER_FILE_SECONDS: Final = 141 / 1_800_000  # over HTTP, a tick of 1.8 million files: 141 s
CHECKER_FILE_SECONDS: Final = 38 / 1_800_000  # the same tick: 38 s
CLAIM_LINE_BYTES: Final = 750  # one line of JSON a claim; a test measures it
CLOUDWATCH_METRICS: Final = 21  # those of the functions, aws/handlers.py
CLOUDWATCH_ALARMS: Final = 14  # metrics in the template's alarms: AWS bills these
ZONES: Final = 2
ENDPOINTS: Final = 3  # of the template in a VPC: SQS, Secrets Manager, Lambda
FIFO_CALLS_PER_SECOND: Final = 300  # without high throughput; docs/sqs.md

_NAME = "2026-11-23T06-15-00.000000Z.json"
_GIGABYTE = 1e9
_MESSAGE_BYTES = 1_048_576
_BLOCK_BYTES = 4096
_CLAIMS_RECORDS_MAX = 2_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """The load to plan for; rates per second, sizes in bytes."""

    files_per_second: float
    records_per_file: int
    record_bytes: int
    selected_bytes: int
    records_per_message: Literal["many", 1] = "many"
    queue: Literal["standard", "fifo"] = "standard"
    architecture: Literal["arm64", "x86_64"] = "arm64"


class Figure(NamedTuple):
    """One line of a plan: the value, its unit, and its formula."""

    value: float
    unit: str
    formula: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load needs, and costs a month; `instead` would replace a part of `costs`."""

    figures: Mapping[str, Figure]
    costs: Mapping[str, Figure]
    instead: Mapping[str, Figure]
    notes: Sequence[str]
    total: float


class _FullClaim(NamedTuple):
    files: int
    messages: int
    batches: int
    bytes: int
    requests: int
    """What SQS bills for sending it: one per started 64 KiB of each batch."""


def plan(load: Load) -> Plan:
    """Return the plan of a load. Raises Halt if the load is too large for any plan."""
    claim = _one_claim(load)
    figures = _figures(load, claim)
    costs = _costs(load, claim, figures)
    total = sum(cost.value for cost in costs.values())
    return Plan(figures, costs, _instead(load, figures), _notes(load, figures), total)


def _price(name: str) -> float:
    return PRICES[name].dollars


def _instead(load: Load, figures: Mapping[str, Figure]) -> dict[str, Figure]:
    sent = figures["bytes sent"].value * MONTH_SECONDS / _GIGABYTE
    read = figures["bytes read"].value * MONTH_SECONDS / _GIGABYTE
    nat, data, zones, logs = map(_price, ("nat", "nat data", "between zones", "logs"))
    line = load.files_per_second * 200 * MONTH_SECONDS / _GIGABYTE * logs
    return {
        "to SQS by NAT gateways": Figure(
            ZONES * nat * MONTH_HOURS + sent * data,
            "$",
            f"{ZONES} x {MONTH_HOURS} h x ${nat} + {sent:,.0f} GB x ${data}",
        ),
        "files by the same gateways": Figure(
            read * data,
            "$",
            f"{read:,.0f} GB x ${data}, uncompressed; none if the file server is in the VPC",
        ),
        "files from another zone": Figure(
            read / 2 * 2 * zones,
            "$",
            f"half of {read:,.0f} GB x 2 x ${zones}, if the file server is in one zone and the"
            " functions are in two; none if they are all in one",
        ),
        "Redis by ElastiCache Serverless": _serverless(figures["Redis memory"].value),
        "packed archive of 30 days in S3": _bucket(load, figures["packed a day"].value),
        "a log line of 200 B a file": Figure(
            line,
            "$",
            f"{load.files_per_second:,.0f}/s x 200 B x {MONTH_SECONDS:,} s x ${logs}/GB: so"
            " there is one a claim instead",
        ),
    }


def _one_claim(load: Load) -> _FullClaim:
    """Pack one claim of files as the loader does, with as many files as fill its messages."""
    limits = QueueLimits(message_bytes_max=_MESSAGE_BYTES, fifo=load.queue == "fifo")
    files_max = Settings.model_fields["worker"].default.claim_files_max
    filling = Filling(limits, limits.message_bytes_max, load.records_per_message, files_max)
    filling.learn(1, load.records_per_file, load.records_per_file * (load.selected_bytes + 1))
    files = filling.files_wanted()
    if files * load.records_per_file > _CLAIMS_RECORDS_MAX:
        raise Halt(
            f"--records-per-file {load.records_per_file}: a claim of {files} such files has more"
            f" than {_CLAIMS_RECORDS_MAX:,} records; allowed: fewer"
        )
    packer = Packer(
        limits=limits,
        message_bytes=None,
        records_per_message=load.records_per_message,
        fingerprint="",
        names=[_NAME] * files,
        claim=CLAIM_ID_LIKE,
    )
    record = b"0" * load.selected_bytes
    for file in range(files):
        if packer.add_file(file, [record] * load.records_per_file):
            raise Halt(
                f"--selected-bytes {load.selected_bytes}: larger than an SQS message"
                f" ({limits.message_bytes_max:,} bytes, attributes included); allowed: less"
            )
    files = packer.fullest(files) or files
    packer.keep(files)
    messages = packer.rest()
    together: list[Sequence[Message]] = list(batches(messages, limits))
    return _FullClaim(
        files=files,
        messages=len(messages),
        batches=len(together),
        bytes=sum(message.size_bytes for message in messages),
        requests=sum(
            math.ceil(sum(message.size_bytes for message in batch) / BILLED_BYTES)
            for batch in together
        ),
    )


def _figures(load: Load, claim: _FullClaim) -> dict[str, Figure]:
    files, per_file = load.files_per_second, load.records_per_file
    records, claims = files * per_file, files / claim.files
    calls = claims * claim.batches
    own = CPU.message if load.records_per_message == 1 else 0.0
    kilobytes = per_file * load.record_bytes / 1000
    cpu = CPU.file + per_file * (CPU.record + own) + kilobytes * CPU.kilobyte
    busy = files * cpu / 1e6 * HEADROOM
    message = f" + {own:g} its own message" if own else ""
    size = claim.bytes / claim.messages
    figures = {
        "records": Figure(records, "a second", f"{files:,.0f} files x {per_file:,} records"),
        "bytes read": Figure(
            records * load.record_bytes, "B/s", f"{records:,.0f} x {load.record_bytes:,} B"),
        "claims": Figure(claims, "a second", f"{files:,.0f} / {claim.files} files a full claim"),
        "messages": Figure(
            claims * claim.messages, "a second", f"{claim.messages:,} a claim, by the packer, of"
            f" {int(size):,} B, or {size / _MESSAGE_BYTES:.0%} full"),
        "bytes sent": Figure(
            claims * claim.bytes, "B/s", f"{claim.bytes:,} B a claim, attributes included"),
        "batches": Figure(calls, "a second", f"{claim.batches:,} a claim, by the batcher"),
        "connections": Figure(
            math.ceil(calls * SQS_CALL_SECONDS), "busy at once",
            f"{calls:,.1f} calls/s x {SQS_CALL_SECONDS * 1000:.0f} ms, rounded up"),
        "CPU a file": Figure(
            cpu, "µs", f"{CPU.file:g} + {per_file:,} x ({CPU.record:g}{message})"
            f" + {kilobytes:g} KB x {CPU.kilobyte:g}; measured {MEASURED}"),
        "loaders busy": Figure(
            busy, "vCPU",
            f"{files:,.0f} x {cpu:,.1f} µs x {HEADROOM:g} for Lambda's core and waits"),
        "loaders": Figure(
            math.ceil(busy), "at once", f"of {LOADER_MB} MB, one vCPU; {busy:,.2f} rounded up"),
    }  # fmt: skip
    return {**figures, **_archive_figures(load), **_redis_figures(files)}


def _redis_figures(files: float) -> dict[str, Figure]:
    """Return what the ledger needs. Raises Halt if no node is large enough."""
    kept = files * (TICK_SECONDS + FORGET_SECONDS)
    memory = kept * REDIS_FILE_BYTES
    large = (node for node, size in CACHE_NODE_BYTES.items() if size * 0.75 >= 2 * memory)
    if (node := next(large, None)) is None:
        raise Halt(
            f"--files-per-second: the ledger would take {memory / _GIGABYTE:,.0f} GB, more than the"
            " listed nodes hold; allowed: several spools, each with its own Redis"
        )
    why = (
        f"{kept:,.0f} names x {REDIS_FILE_BYTES} B: {files:,.0f}/s x ({TICK_SECONDS} s until the"
        f" archiver + {FORGET_SECONDS} s until forgotten)"
    )
    smallest = f"{node}: the smallest whose usable three quarters hold twice that"
    return {
        "Redis memory": Figure(memory, "B", why),
        "Redis node": Figure(CACHE_NODE_BYTES[node], "B", smallest),
    }


def _archive_figures(load: Load) -> dict[str, Figure]:
    files = load.files_per_second * DAY_SECONDS
    file_bytes = load.records_per_file * load.record_bytes
    blocks = math.ceil(file_bytes / _BLOCK_BYTES) * _BLOCK_BYTES
    packed = files * file_bytes * PACKED_SHARE
    each = f"an inode each, in blocks of {_BLOCK_BYTES:,} B"
    few = f"{file_bytes:,} B x {PACKED_SHARE:g}, measured; {_segments_a_day(load):,} inodes a day"
    return {
        "moved a day": Figure(files * blocks, "B", f"{files:,.0f} files, {each}"),
        "packed a day": Figure(packed, "B", f"{files:,.0f} x {few}"),
    }


def _costs(load: Load, claim: _FullClaim, figures: Mapping[str, Figure]) -> dict[str, Figure]:
    claims = figures["claims"].value * MONTH_SECONDS
    request = _price(f"sqs {load.queue}")
    sends = claims * claim.requests
    calls = claims * claim.messages / 10  # a consumer takes and deletes ten at a time
    receives = calls * math.ceil(10 * claim.bytes / claim.messages / BILLED_BYTES)
    per_million = f"x ${request * 1e6:.2f} a million"
    node = figures["Redis node"].formula.partition(":")[0]
    price, endpoint, data = _price(node), _price("endpoint"), _price("endpoint data")
    gigabytes = figures["bytes sent"].value * MONTH_SECONDS / _GIGABYTE
    return {
        "SQS, sending": Figure(
            sends * request, "$",
            f"{sends / 1e6:,.1f} M requests ({claim.requests:,} of 64 KiB a claim) {per_million}"),
        "SQS, receiving": Figure(
            receives * request, "$",
            f"{receives / 1e6:,.1f} M requests (ten messages a call, by 64 KiB) {per_million}"),
        "SQS, deleting": Figure(
            calls * request, "$", f"{calls / 1e6:,.1f} M requests (ten a call) {per_million}"),
        "Lambda": _lambda(load, figures["loaders busy"].value),
        "Redis": Figure(
            ZONES * price * MONTH_HOURS, "$",
            f"{ZONES} x {node} (a replica in another zone) x {MONTH_HOURS} h x ${price}"),
        "network, endpoints": Figure(
            ENDPOINTS * ZONES * endpoint * MONTH_HOURS + gigabytes * data, "$",
            f"{ENDPOINTS} x {ZONES} zones x {MONTH_HOURS} h x ${endpoint}"
            f" + {gigabytes:,.0f} GB x ${data}"),
        "CloudWatch": _cloudwatch(claims),
    }  # fmt: skip


def _bucket(load: Load, day_bytes: float) -> Figure:
    """Return what 30 days of segments cost a month in S3 Standard, and to upload them."""
    stored = 30 * day_bytes / _GIGABYTE
    puts = 30 * _segments_a_day(load)
    price, put = _price("s3 standard"), _price("s3 put")
    return Figure(
        stored * price + puts * put,
        "$",
        f"{stored:,.0f} GB x ${price} + {puts:,} uploads x ${put:.6f}; in place of a disk",
    )


def _segments_a_day(load: Load) -> int:
    return math.ceil(min(load.files_per_second * DAY_SECONDS, DAY_SECONDS / PACK_SECONDS))


def _serverless(memory_bytes: float) -> Figure:
    """Return what the ledger's bytes cost in ElastiCache Serverless, without its ECPUs."""
    gigabytes = max(memory_bytes, SERVERLESS_BYTES_MIN) / _GIGABYTE
    stored, units = PRICES["serverless data"].dollars, PRICES["serverless units"].dollars
    return Figure(
        gigabytes * MONTH_HOURS * stored,
        "$",
        f"{gigabytes:,.2f} GB x {MONTH_HOURS} h x ${stored}, and ${units * 1e6:g} a million ECPUs"
        " in addition: the ECPUs of a script were never measured",
    )


def _lambda(load: Load, busy: float) -> Figure:
    price, call = _price(f"lambda {load.architecture}"), _price("lambda invocation")
    ticks = MONTH_SECONDS / TICK_SECONDS
    loader_seconds = busy * MONTH_SECONDS + ticks * START_SECONDS
    files = load.files_per_second * TICK_SECONDS
    archiver, checker = files * ARCHIVER_FILE_SECONDS, files * CHECKER_FILE_SECONDS
    small_seconds = ticks * (2 * START_SECONDS + archiver + checker)
    gigabyte_seconds = (loader_seconds * LOADER_MB + small_seconds * SMALL_MB) / 1024
    return Figure(
        gigabyte_seconds * price + 3 * ticks * call,
        "$",
        f"{gigabyte_seconds:,.0f} GB-s ({busy:,.2f} loaders all month, archiver {archiver:,.1f} s,"
        f" checker {checker:,.1f} s a tick of {files:,.0f} files, {START_SECONDS:g} s to start each"
        f" of 3 x {ticks:,.0f} ticks) x ${price:.10f}",
    )


def _cloudwatch(claims: float) -> Figure:
    gigabytes = claims * CLAIM_LINE_BYTES / _GIGABYTE
    logs, metric, alarm, dashboard = map(_price, ("logs", "metric", "alarm", "dashboard"))
    return Figure(
        gigabytes * logs + CLOUDWATCH_METRICS * metric + CLOUDWATCH_ALARMS * alarm + dashboard,
        "$",
        f"{gigabytes:,.1f} GB of log, a line of {CLAIM_LINE_BYTES} B a claim, x ${logs};"
        f" {CLOUDWATCH_METRICS} metrics, {CLOUDWATCH_ALARMS} alarm metrics, a dashboard",
    )


def _notes(load: Load, figures: Mapping[str, Figure]) -> list[str]:
    notes: list[str] = []
    batch_rate, loaders = figures["batches"].value, figures["loaders"].value
    if load.queue == "fifo" and batch_rate > FIFO_CALLS_PER_SECOND:
        notes.append(
            f"{batch_rate:,.0f} batches a second exceed a FIFO queue's {FIFO_CALLS_PER_SECOND}"
            " without high throughput; the template turns that on; for a queue of your own, turn it"
            " on, or send many records per message"
        )
    if load.records_per_message == 1:
        notes.append("collections (--records-per-message many) send the same for less")
    if loaders > 1:
        notes.append(f"a tick starts one loader; allow more (MaxLoaders {loaders + 1:.0f})")
    return notes
