"""For consumers: from a received message to its records, each message once.

    message ─▶ read ─▶ Received ─▶ Deduplicator.handling ─▶ your handler
                                    done before: skipped; in progress elsewhere: Again

Penstock itself does not use this module. It needs no settings, and Redis only for the
Deduplicator. Examples: docs/consumer.md.
"""

import json
import math
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from penstock import telemetry
from penstock.errors import Again, Reject
from penstock.model import (
    ATTRIBUTE_CLAIM,
    ATTRIBUTE_CONTENT_TYPE,
    ATTRIBUTE_FILE,
    ATTRIBUTE_ID,
    ATTRIBUTE_RECORDS,
    CONTENT_TYPE_MANY,
    CONTENT_TYPE_ONE,
)

if TYPE_CHECKING:
    import redis  # 0.25 s of imports, which only the Deduplicator needs

RETENTION_SECONDS_MAX: Final = 1_209_600
"""The longest time that SQS keeps a message: 14 days. Source: MessageRetentionPeriod, SQS API."""

_DONE = b"done"


class Received(NamedTuple):
    """One parsed message of Penstock's.

    `id` is the same in every copy; `sqs_id` is SQS's own. `file` is that of the first record.
    `claim` is as in Penstock's log; empty from an earlier version. A number too large for Python's
    float (`1e400`) or int (5,000 digits) is a `decimal.Decimal`.
    """

    id: str
    records: list[Any]
    file: str
    sqs_id: str
    receipt_handle: str
    claim: str = ""


def read(message: Mapping[str, Any]) -> Received:
    """Parse a message from boto3 or a Lambda event. Raises Reject for an invalid one.

    An invalid message never becomes valid: let it go to the dead-letter queue.
    """
    boto3 = "Body" in message
    body = _text(message, "Body" if boto3 else "body")
    attributes: Mapping[str, Mapping[str, Any]]
    attributes = message.get("MessageAttributes" if boto3 else "messageAttributes") or {}
    value = "StringValue" if boto3 else "stringValue"
    values = {name: str(attribute.get(value, "")) for name, attribute in attributes.items()}
    for name in (ATTRIBUTE_ID, ATTRIBUTE_RECORDS, ATTRIBUTE_FILE, ATTRIBUTE_CONTENT_TYPE):
        if not values.get(name):
            raise Reject(
                f"the message has no attribute {name}: it is not Penstock's, or it was received "
                'without MessageAttributeNames=["All"]'
            )
    records = _records(body, values[ATTRIBUTE_CONTENT_TYPE])
    if str(len(records)) != values[ATTRIBUTE_RECORDS]:
        raise Reject(
            f"the message holds {len(records)} records, but says {values[ATTRIBUTE_RECORDS]}"
        )
    return Received(
        id=values[ATTRIBUTE_ID],
        records=records,
        file=values[ATTRIBUTE_FILE],
        sqs_id=_text(message, "MessageId" if boto3 else "messageId"),
        receipt_handle=_text(message, "ReceiptHandle" if boto3 else "receiptHandle"),
        claim=values.get(ATTRIBUTE_CLAIM, ""),
    )


def _text(message: Mapping[str, Any], name: str) -> str:
    if not isinstance(message.get(name), str):
        raise Reject(f"the message has no {name}: pass it as boto3 or a Lambda event delivers it")
    return message[name]


def _records(body: str, content_type: str) -> list[Any]:
    if content_type not in (CONTENT_TYPE_ONE, CONTENT_TYPE_MANY):
        raise Reject(f"content type {content_type!r} is not known to this version of Penstock")
    try:
        value = _decoded(body)
    except RecursionError:
        # The loader could read it, so a new thread, with an empty stack, can read it too.
        with ThreadPoolExecutor(1) as thread:
            value = thread.submit(_decoded, body).result()
    except ValueError as error:
        raise Reject(f"the body is not JSON: {error}") from None
    if content_type == CONTENT_TYPE_ONE:
        return [value]
    if not isinstance(value, list):
        raise Reject("the body is not an array, as its content type says")
    return value  # pyright: ignore[reportUnknownVariableType]


def _decoded(body: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError:  # a number is out of range
        return json.loads(body, parse_int=_integer, parse_float=_real)


def _integer(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:  # Python reads at most 4,300 digits
        return Decimal(text)


def _real(text: str) -> float | Decimal:
    number = float(text)
    if math.isfinite(number):
        return number
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of 19 digits or more
        return number


class Deduplicator:
    """Remembers in Redis which messages have been handled, to skip repeats.

    `client` is redis-py's blocking client, with any decoding. `in_progress_seconds` must be longer
    than a handler takes, and no longer than the queue's visibility timeout: for this time, no other
    consumer gets a dead handler's message. `done_seconds` must be at least the queue's retention
    (default: the longest), because a repeat can wait that long; each message takes about 150 bytes.
    """

    def __init__(
        self,
        client: "redis.Redis",
        *,
        in_progress_seconds: int = 30,
        done_seconds: int = RETENTION_SECONDS_MAX,
        prefix: str = "penstock:consumed:",
    ) -> None:
        self._client = client
        self._in_progress_seconds = in_progress_seconds
        self._done_seconds = done_seconds
        self._prefix = prefix
        script = resources.files("penstock").joinpath("consumer_release.lua").read_text()
        self._release = client.register_script(script)

    @contextmanager
    def handling(self, message_id: str) -> Generator[bool]:
        """Hold a message while it is handled; yield False if it was handled before.

        If the block raises, the message is free at once for a retry. Raises Again if another
        handler holds it: leave it in the queue. If a handler takes longer than
        `in_progress_seconds`, another one may start; that is logged.
        """
        key = self._prefix + message_id
        mark = secrets.token_bytes(16).hex().encode()
        # Each command may reach Redis twice: redis-py repeats it if the reply is lost.
        taken = self._client.set(key, mark, nx=True, ex=self._in_progress_seconds)
        holder = mark if taken else _bytes(self._client.get(key))
        if holder == _DONE:
            yield False
            return
        if holder != mark:
            raise Again(
                f"message {message_id} is being handled by another consumer, or was a moment ago:"
                " leave it in the queue"
            )
        try:
            yield True
        except BaseException:
            self._release(keys=[key], args=[mark])
            raise
        # Two calls, because a repeated SET … GET would return its own value. If another handler
        # takes the message between them, that handler logs the overlap.
        holder = _bytes(self._client.get(key))
        self._client.set(key, _DONE, ex=self._done_seconds)
        if holder != mark:
            telemetry.warn(
                "consumer.overlap", message=message_id,
                cause=f"handling took longer than {self._in_progress_seconds} s",
                remedy="raise in_progress_seconds and the queue's visibility timeout",
            )  # fmt: skip


def _bytes(value: Any) -> bytes | None:
    """Return bytes, also from a client with decode_responses."""
    return value.encode() if isinstance(value, str) else value


def handle_event(
    event: Mapping[str, Any],
    handle: Callable[[Received], object],
    *,
    deduplicator: Deduplicator | None = None,
) -> dict[str, list[dict[str, str]]]:
    """Handle each message of a Lambda event from SQS; return the partial-batch response.

    Calls `handle` with each message that was not handled before. If it raises, the message stays in
    the queue for a retry, and only the error's type is logged. For a FIFO queue, everything after a
    failure also stays, which keeps the order. The event source mapping must have
    FunctionResponseTypes: [ReportBatchItemFailures]; without it, Lambda deletes everything.
    """
    failed: list[dict[str, str]] = []
    records: Iterable[Mapping[str, Any]] = event["Records"]
    for record in records:
        fifo = str(record.get("eventSourceARN", "")).endswith(".fifo")
        if not (failed and fifo) and _handled(record, handle, deduplicator):
            continue
        failed.append({"itemIdentifier": str(record["messageId"])})
    return {"batchItemFailures": failed}


def _handled(
    record: Mapping[str, Any],
    handle: Callable[[Received], object],
    deduplicator: Deduplicator | None,
) -> bool:
    try:
        received = read(record)
        if deduplicator is None:
            handle(received)
            return True
        with deduplicator.handling(received.id) as is_new:
            if is_new:
                handle(received)
    except Exception as error:  # noqa: BLE001 - one failed message must not stop the others
        # Our own errors contain no message content; other errors may, so only log their type.
        cause = str(error) if isinstance(error, Again | Reject) else type(error).__name__
        telemetry.warn("consumer.failed", message=record.get("messageId"), cause=cause)
        return False
    return True
