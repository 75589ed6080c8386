"""Build the body of a SendMessageBatch call, and sort its messages by the reply.

Pure. The wire format is AWS JSON 1.0 (the smithy page of that protocol); shapes as in botocore's
model of SQS. Entry ids are the messages' indexes: unique in a claim, the same when resent.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from penstock.model import Attribute, Attributes, Message, MessageReject, QueueLimits
from penstock.sqs.errors import Kind, kind_of_call, kind_of_entry, remedy_of, short_code

_HTTP_OK: Final = 200
_REASON_CHARACTERS_MAX: Final = 300  # SQS's texts are shorter; a proxy's page is not


class _Entry(msgspec.Struct, rename="pascal", omit_defaults=True, gc=False):
    id: str
    message_body: str
    message_attributes: Attributes
    message_group_id: str | None = None
    message_deduplication_id: str | None = None


class _Request(msgspec.Struct, rename="pascal"):
    queue_url: str
    entries: list[_Entry]


class _Receipt(msgspec.Struct, rename="pascal", gc=False):
    id: str
    md5: str = msgspec.field(name="MD5OfMessageBody", default="")


class _Refusal(msgspec.Struct, rename="pascal", gc=False):
    id: str
    code: str = ""
    message: str = ""
    sender_fault: bool = False


class _Reply(msgspec.Struct, rename="pascal"):
    successful: list[_Receipt] = []
    failed: list[_Refusal] = []


class _Error(msgspec.Struct):
    type: str = msgspec.field(name="__type", default="")
    lower: str = msgspec.field(name="message", default="")
    upper: str = msgspec.field(name="Message", default="")


_encoder = msgspec.json.Encoder()
_reply_decoder = msgspec.json.Decoder(_Reply)
_error_decoder = msgspec.json.Decoder(_Error)


class BatchOutcome(msgspec.Struct):
    """The outcome of one call; each message is in exactly one of the lists.

    `again` were not accepted; `unknown` may have been; `garbled` were stored with another MD5;
    `split` must be sent in halves. `halt` is a reason to stop, or empty. `cause` says why messages
    must be sent again. `throttled`: SQS asks for fewer calls.
    """

    confirmed: list[Message] = []
    rejected: list[MessageReject] = []
    again: list[Message] = []
    unknown: list[Message] = []
    garbled: list[Message] = []
    split: list[Message] = []
    throttled: bool = False
    halt: str = ""
    cause: str = ""


def batches(messages: Sequence[Message], limits: QueueLimits) -> Iterator[list[Message]]:
    """Yield the messages in order, each batch as full as the limits of one call allow."""
    batch: list[Message] = []
    size_bytes = 0
    for message in messages:
        size_bytes += message.size_bytes
        if len(batch) == limits.batch_entries_max or size_bytes > limits.batch_bytes_max:
            if batch:
                yield batch
            batch, size_bytes = [], message.size_bytes
        batch.append(message)
    if batch:
        yield batch


def request_body(queue_url: str, batch: Sequence[Message], group: str | None) -> bytes:
    """Return the JSON of one call; `group` is None on a standard queue."""
    entries = [
        _Entry(
            id=str(message.index),
            message_body=message.body.decode(),
            message_attributes=Attributes(
                Attribute(message.id),
                Attribute(str(message.records)),
                Attribute(message.file),
                Attribute(message.content_type),
                Attribute(message.claim),
            ),
            message_group_id=group,
            message_deduplication_id=None if group is None else message.id,
        )
        for message in batch
    ]
    return _encoder.encode(_Request(queue_url=queue_url, entries=entries))


def error_of(body: bytes, query_error: str) -> tuple[str, str]:
    """Return code and text of a failed call; `query_error` is its x-amzn-query-error header."""
    try:
        error = _error_decoder.decode(body)
    except msgspec.MsgspecError:  # a proxy's page, an empty body
        text = body[: 4 * _REASON_CHARACTERS_MAX].decode(errors="replace")
        # Other servers answer some errors in the format of the older protocol.
        found = [re.search(rf"<{name}>([^<]+)</{name}>", text) for name in ("Code", "Message")]
        code, said = (match[1] if match else "" for match in found)
        error = _Error(type=code, lower=said or " ".join(text.split()))
    code = short_code(error.type or query_error.partition(";")[0])
    return code, (error.lower or error.upper)[:_REASON_CHARACTERS_MAX]


def outcome_of(
    batch: Sequence[Message], status: int, query_error: str, body: bytes
) -> BatchOutcome:
    """Sort the messages of a call by its reply: HTTP status, x-amzn-query-error and body."""
    if status != _HTTP_OK:
        return _outcome_of_error(batch, status, *error_of(body, query_error))
    try:
        reply = _reply_decoder.decode(body)
    except msgspec.MsgspecError as error:
        return BatchOutcome(unknown=list(batch), cause=f"the reply is not SQS's ({error})")
    waiting = {str(message.index): message for message in batch}
    try:
        taken = [(waiting.pop(receipt.id), receipt.md5) for receipt in reply.successful]
        refused = [(waiting.pop(refusal.id), refusal) for refusal in reply.failed]
    except KeyError:
        # Somebody else's reply: so its receipts prove nothing about our messages.
        return BatchOutcome(
            unknown=list(batch),
            halt="the reply names an entry that was not sent, or names one twice; check what "
            "stands between here and SQS",
        )
    outcome = BatchOutcome()
    for message, md5 in taken:
        _take_receipt(outcome, message, md5)
    for message, refusal in refused:
        _take_refusal(outcome, message, refusal)
    if waiting:
        outcome.unknown += waiting.values()
        outcome.cause = "the reply omits entries"
    return outcome


def _outcome_of_error(batch: Sequence[Message], status: int, code: str, text: str) -> BatchOutcome:
    cause = f"HTTP {status} {code}: {text}" if code else f"HTTP {status}: {text}"
    messages = list(batch)
    match kind_of_call(code, status):
        case Kind.THROTTLED:
            return BatchOutcome(again=messages, throttled=True, cause=cause)
        case Kind.AGAIN:
            return BatchOutcome(again=messages, cause=cause)
        case Kind.UNKNOWN:
            return BatchOutcome(unknown=messages, cause=cause)
        case Kind.SPLIT | Kind.REJECT if len(messages) > 1:
            # One message may be the cause. Halving finds it, and lets the others through.
            return BatchOutcome(split=messages, cause=cause)
        case Kind.SPLIT | Kind.REJECT:
            return BatchOutcome(rejected=[MessageReject(messages[0], f"SQS refuses it: {cause}")])
        case Kind.HALT:
            return BatchOutcome(again=messages, halt=f"{cause}; {remedy_of(code)}")


def _take_receipt(outcome: BatchOutcome, message: Message, md5: str) -> None:
    if md5 == hashlib.md5(message.body, usedforsecurity=False).hexdigest():
        outcome.confirmed.append(message)
    else:
        outcome.garbled.append(message)
        outcome.cause = f"message {message.id} was stored with MD5 {md5 or '(none)'}, not its own"


def _take_refusal(outcome: BatchOutcome, message: Message, refusal: _Refusal) -> None:
    text = f"{short_code(refusal.code)}: {refusal.message[:_REASON_CHARACTERS_MAX]}"
    kind = kind_of_entry(refusal.code, sender_fault=refusal.sender_fault)
    if kind is Kind.REJECT:
        outcome.rejected.append(MessageReject(message, f"SQS refuses it: {text}"))
        return
    outcome.again.append(message)
    outcome.cause = text
    outcome.throttled |= kind is Kind.THROTTLED
    if kind is Kind.HALT:
        outcome.halt = f"{text}; {remedy_of(refusal.code)}"
