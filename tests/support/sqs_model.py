"""What Amazon SQS answers, as far as Penstock and a consumer can see: the stub's memory and rules.

Written from AWS's own documentation and from answers recorded of the real service
(tests/data/sqs_cases.json), independently of the product: it shares no code with it.
"""

import functools
import hashlib
import re
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

Json = dict[str, Any]

SERVICE_BYTES_MAX: Final = 1_048_576
ENTRIES_MAX: Final = 10
DEDUPLICATION_SECONDS: Final = 300.0

_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_GROUP_OR_DEDUPLICATION_ID = re.compile(r"[!-~]{1,128}")
_BAD_CHARACTER = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ATTRIBUTE_NAME = re.compile(r"(?!(?:aws|amazon)\.)(?!\.)[\w.-]{1,256}(?<!\.)", re.IGNORECASE)
_LEGACY: Final = {
    code: f"AWS.SimpleQueueService.{legacy}"
    for code, legacy in (
        ("QueueDoesNotExist", "NonExistentQueue"),
        ("TooManyEntriesInBatchRequest", "TooManyEntriesInBatchRequest"),
        ("EmptyBatchRequest", "EmptyBatchRequest"),
        ("BatchEntryIdsNotDistinct", "BatchEntryIdsNotDistinct"),
        ("BatchRequestTooLong", "BatchRequestTooLong"),
        ("InvalidBatchEntryId", "InvalidBatchEntryId"),
        ("UnsupportedOperation", "UnsupportedOperation"),
    )
}


class SqsError(Exception):
    """An answer other than 200: the shape's code, the HTTP status, the text."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.status = status

    @property
    def legacy_code(self) -> str:
        """Return the code as the Query protocol spelt it."""
        return _LEGACY.get(self.code, self.code)


@dataclass
class Stored:
    """One message in a queue; `receives` counts how often it was handed out."""

    id: str
    body: str
    md5: str
    attributes: dict[str, dict[str, str]]
    group: str | None
    deduplication_id: str | None
    sequence: int
    sent_at: float
    receives: int = 0


@dataclass
class Queue:
    """One queue: what waits (`visible`), what was handed out (`in_flight`, by receipt handle)."""

    name: str
    url: str
    attributes: dict[str, str]
    visible: deque[Stored] = field(default_factory=deque[Stored])
    in_flight: dict[str, tuple[float, Stored]] = field(
        default_factory=dict[str, tuple[float, Stored]]
    )
    accepted: int = 0
    deduplicated: int = 0
    deduplication: dict[tuple[str, str], tuple[float, Stored]] = field(
        default_factory=dict[tuple[str, str], tuple[float, Stored]]
    )

    @property
    def fifo(self) -> bool:
        """Return whether it is a FIFO queue."""
        return self.attributes.get("FifoQueue") == "true"

    def messages(self) -> list[Stored]:
        """Return all that is in the queue, waiting or handed out."""
        return [*self.visible, *(stored for _, stored in self.in_flight.values())]


def size_of(body: str, attributes: dict[str, dict[str, str]]) -> int:
    """Count a message as SQS does: UTF-8 bytes of body, attribute names, types and values."""
    size = len(body) if body.isascii() else len(body.encode("utf-8", "surrogatepass"))
    for name, value in attributes.items():
        size += len(name.encode()) + len(value["DataType"].encode())
        size += len(value.get("StringValue", "").encode("utf-8", "surrogatepass"))
        size += len(value.get("BinaryValue", ""))
    return size


class Examined(NamedTuple):
    """What there is to know of a text: its MD5, its size in UTF-8 bytes, whether SQS takes it."""

    md5: str
    size_bytes: int
    is_valid: bool


def examine(text: str) -> Examined:
    """Look at a text once."""
    data = text.encode("utf-8", "surrogatepass")
    # Printable ASCII, which most bodies are, needs no search.
    valid = (text.isascii() and text.isprintable()) or not _BAD_CHARACTER.search(text)
    return Examined(hashlib.md5(data, usedforsecurity=False).hexdigest(), len(data), valid)


class SqsModel:
    """All queues of one pretended account and region. `clock` is in seconds; any origin.

    With `keep` false, messages are counted and forgotten: a sink for benchmarks.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        keep: bool = True,
        base_url: str = "http://127.0.0.1",
    ) -> None:
        self.queues: dict[str, Queue] = {}
        self.base_url = base_url
        self._clock = clock
        self._keep = keep
        self._sequence = 0
        # A benchmark sends the same messages again and again; hashing them is not what it measures.
        self._examine = examine if keep else functools.lru_cache(512)(examine)
        self._actions: dict[str, Callable[[Json], Json]] = {
            "CreateQueue": self._create,
            "GetQueueUrl": self._url,
            "ListQueues": lambda _: {"QueueUrls": [queue.url for queue in self.queues.values()]},
            "DeleteQueue": self._delete_queue,
            "GetQueueAttributes": self._get_attributes,
            "SetQueueAttributes": self._set_attributes,
            "PurgeQueue": self._purge,
            "SendMessage": self._send_one,
            "SendMessageBatch": self._send_batch,
            "ReceiveMessage": self._receive,
            "DeleteMessage": self._delete,
            "DeleteMessageBatch": self._delete_batch,
            "ChangeMessageVisibility": self._change_visibility,
        }

    def call(self, action: str, request: Json) -> Json:
        """Perform one action; raise SqsError where SQS answers with an error."""
        perform = self._actions.get(action)
        if perform is None:
            raise SqsError("InvalidAction", f"The stub does not know the action {action}.")
        return perform(request)

    def create(self, name: str, **attributes: str) -> Queue:
        """Make a queue, FIFO if its name ends in .fifo, or return the one of that name."""
        if name not in self.queues:
            fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
            defaults = {
                "QueueArn": f"arn:aws:sqs:us-east-1:000000000000:{name}",
                "MaximumMessageSize": str(SERVICE_BYTES_MAX),
                "MessageRetentionPeriod": "345600",
                "VisibilityTimeout": "30",
                "DelaySeconds": "0",
                "SqsManagedSseEnabled": "true",
            }
            url = f"{self.base_url}/000000000000/{name}"
            self.queues[name] = Queue(name, url, defaults | fifo | attributes)
        return self.queues[name]

    def _queue(self, request: Json) -> Queue:
        name = str(request.get("QueueUrl") or request.get("QueueName", "")).rpartition("/")[2]
        if name not in self.queues:
            raise SqsError("QueueDoesNotExist", "The specified queue does not exist.")
        return self.queues[name]

    def _create(self, request: Json) -> Json:
        return {"QueueUrl": self.create(request["QueueName"], **request.get("Attributes", {})).url}

    def _url(self, request: Json) -> Json:
        return {"QueueUrl": self._queue(request).url}

    def _delete_queue(self, request: Json) -> Json:
        del self.queues[self._queue(request).name]
        return {}

    def _get_attributes(self, request: Json) -> Json:
        queue = self._queue(request)
        self._return_expired(queue)
        counts = {
            "ApproximateNumberOfMessages": str(len(queue.visible)),
            "ApproximateNumberOfMessagesNotVisible": str(len(queue.in_flight)),
        }
        asked = set(request.get("AttributeNames", []))
        return {
            "Attributes": {
                name: value
                for name, value in (queue.attributes | counts).items()
                if "All" in asked or name in asked
            }
        }

    def _set_attributes(self, request: Json) -> Json:
        self._queue(request).attributes.update(request["Attributes"])
        return {}

    def _purge(self, request: Json) -> Json:
        queue = self._queue(request)
        queue.visible.clear()
        queue.in_flight.clear()
        return {}

    def _send_one(self, request: Json) -> Json:
        queue = self._queue(request)
        if not request.get("MessageBody"):
            raise SqsError(
                "MissingParameter", "The request must contain the parameter MessageBody."
            )
        self._check_fifo(queue, request)
        refusal = self._refusal(queue, request)
        if refusal is not None:
            raise refusal
        return self._accept(queue, request)

    def _send_batch(self, request: Json) -> Json:
        queue = self._queue(request)
        entries: list[Json] = request.get("Entries") or []
        self._check_batch(queue, entries)
        successful: list[Json] = []
        failed: list[Json] = []
        for entry in entries:
            refusal = self._refusal(queue, entry)
            if refusal is None:
                successful.append({"Id": entry["Id"], **self._accept(queue, entry)})
            else:
                failed.append(
                    {
                        "Id": entry["Id"],
                        "SenderFault": True,
                        "Code": refusal.code,
                        "Message": refusal.text,
                    }
                )
        reply: Json = {"Successful": successful}
        return reply | {"Failed": failed} if failed else reply

    def _check_batch(self, queue: Queue, entries: list[Json]) -> None:
        """Refuse a whole batch for what AWS refuses a whole batch for."""
        if not entries:
            raise SqsError(
                "EmptyBatchRequest",
                "There should be at least one SendMessageBatchRequestEntry in the request.",
            )
        if len(entries) > ENTRIES_MAX:
            raise SqsError(
                "TooManyEntriesInBatchRequest",
                f"Maximum number of entries per request are 10. You have sent {len(entries)}.",
            )
        seen: set[str] = set()
        for entry in entries:
            if not _ENTRY_ID.fullmatch(entry.get("Id", "")):
                raise SqsError(
                    "InvalidBatchEntryId",
                    "A batch entry id can only contain alphanumeric characters, hyphens and "
                    "underscores. It can be at most 80 letters long.",
                )
            if entry["Id"] in seen:
                raise SqsError("BatchEntryIdsNotDistinct", f"Id {entry['Id']} repeated.")
            seen.add(entry["Id"])
            if not entry.get("MessageBody"):
                raise SqsError(
                    "MissingParameter", "The request must contain the parameter MessageBody."
                )
            self._check_fifo(queue, entry)
        size = sum(
            self._examine(entry["MessageBody"]).size_bytes
            + size_of("", entry.get("MessageAttributes") or {})
            for entry in entries
        )
        if size > SERVICE_BYTES_MAX:
            raise SqsError(
                "BatchRequestTooLong",
                f"Batch requests cannot be longer than {SERVICE_BYTES_MAX} bytes. "
                f"You have sent {size} bytes.",
            )

    def _check_fifo(self, queue: Queue, entry: Json) -> None:
        """Refuse the whole call for a group or deduplication id that is missing or malformed."""
        for name in ("MessageGroupId", "MessageDeduplicationId"):
            value = entry.get(name)
            if value is not None and not _GROUP_OR_DEDUPLICATION_ID.fullmatch(value):
                raise SqsError("InvalidParameterValue", f"Value {value} for {name} is invalid.")
        if not queue.fifo:
            return
        if "MessageGroupId" not in entry:
            raise SqsError(
                "InvalidParameterValue", "The request must contain the parameter MessageGroupId."
            )
        content_based = queue.attributes.get("ContentBasedDeduplication") == "true"
        if "MessageDeduplicationId" not in entry and not content_based:
            raise SqsError(
                "InvalidParameterValue",
                "The queue should either have ContentBasedDeduplication enabled or "
                "MessageDeduplicationId provided explicitly",
            )

    def _refusal(self, queue: Queue, entry: Json) -> SqsError | None:
        """Return why this entry alone is refused, or None."""
        attributes: dict[str, dict[str, str]] = entry.get("MessageAttributes") or {}
        body = self._examine(entry["MessageBody"])
        values = [value.get("StringValue", "-") for value in attributes.values()]
        if not body.is_valid or any(map(_BAD_CHARACTER.search, values)):
            return SqsError(
                "InvalidMessageContents", "Invalid characters found. Valid unicode characters are …"
            )
        if len(attributes) > ENTRIES_MAX:
            return SqsError("InvalidParameterValue", "Number of message attributes is over 10.")
        for name, value in attributes.items():
            if not _ATTRIBUTE_NAME.fullmatch(name):
                return SqsError("InvalidParameterValue", f"Attribute name {name!r} is invalid.")
            if value["DataType"].startswith("String") and not value.get("StringValue"):
                return SqsError(
                    "InvalidParameterValue",
                    f"Message (user) attribute '{name}' must contain a non-empty value of type "
                    "'String'.",
                )
        limit = int(queue.attributes["MaximumMessageSize"])
        if body.size_bytes + size_of("", attributes) > limit:
            return SqsError(
                "InvalidParameterValue",
                "One or more parameters cannot be validated. Reason: Message must be shorter than "
                f"{limit} bytes.",
            )
        return None

    def _accept(self, queue: Queue, entry: Json) -> Json:
        """Store a message, or recognise it as a repeat; return its receipt."""
        now = self._clock()
        key = ("", "")
        if queue.fifo:
            key = self._deduplication_key(queue, entry)
            first = queue.deduplication.get(key)
            if first is not None and now - first[0] < DEDUPLICATION_SECONDS:
                queue.deduplicated += 1
                return self._receipt(first[1])
        self._sequence += 1
        stored = Stored(
            id=str(uuid.UUID(int=self._sequence)),
            body=entry["MessageBody"] if self._keep else "",
            md5=self._examine(entry["MessageBody"]).md5,
            attributes=entry.get("MessageAttributes") or {},
            group=entry.get("MessageGroupId"),
            deduplication_id=entry.get("MessageDeduplicationId"),
            sequence=self._sequence,
            sent_at=time.time(),
        )
        queue.accepted += 1
        if self._keep:
            queue.visible.append(stored)
        if queue.fifo:
            queue.deduplication[key] = (now, stored)
        return self._receipt(stored)

    def _deduplication_key(self, queue: Queue, entry: Json) -> tuple[str, str]:
        """Return what a repeat is recognised by: queue-wide, or per message group."""
        per_group = queue.attributes.get("DeduplicationScope") == "messageGroup"
        own = entry.get("MessageDeduplicationId")
        by_content = hashlib.sha256(entry["MessageBody"].encode()).hexdigest()
        return (entry["MessageGroupId"] if per_group else "", own or by_content)

    def _receipt(self, stored: Stored) -> Json:
        receipt = {"MessageId": stored.id, "MD5OfMessageBody": stored.md5}
        return receipt | {"SequenceNumber": f"{stored.sequence:020}"} if stored.group else receipt

    def _return_expired(self, queue: Queue) -> None:
        now = self._clock()
        for handle in [handle for handle, (until, _) in queue.in_flight.items() if until <= now]:
            queue.visible.appendleft(queue.in_flight.pop(handle)[1])

    def _receive(self, request: Json) -> Json:
        queue = self._queue(request)
        self._return_expired(queue)
        wanted = min(int(request.get("MaxNumberOfMessages", 1)), ENTRIES_MAX)
        timeout = float(request.get("VisibilityTimeout", queue.attributes["VisibilityTimeout"]))
        # On FIFO a group waits until what was handed out of it is deleted; None is no group.
        busy = {stored.group for _, stored in queue.in_flight.values()}
        taken: list[Json] = []
        skipped: list[Stored] = []
        while queue.visible and len(taken) < wanted:
            stored = queue.visible.popleft()
            if stored.group is not None and stored.group in busy:
                skipped.append(stored)
                continue
            handle = uuid.uuid4().hex
            stored.receives += 1
            queue.in_flight[handle] = (self._clock() + timeout, stored)
            taken.append(self._delivery(stored, handle))
        queue.visible.extendleft(reversed(skipped))
        return {"Messages": taken} if taken else {}

    def _delivery(self, stored: Stored, handle: str) -> Json:
        attributes = {
            "ApproximateReceiveCount": str(stored.receives),
            "SentTimestamp": str(int(stored.sent_at * 1000)),
        }
        if stored.group is not None:
            attributes["MessageGroupId"] = stored.group
            attributes["MessageDeduplicationId"] = stored.deduplication_id or ""
        return {
            "MessageId": stored.id,
            "ReceiptHandle": handle,
            "Body": stored.body,
            "MD5OfBody": stored.md5,
            "Attributes": attributes,
            "MessageAttributes": stored.attributes,
        }

    def _delete(self, request: Json) -> Json:
        self._queue(request).in_flight.pop(request["ReceiptHandle"], None)
        return {}

    def _delete_batch(self, request: Json) -> Json:
        queue = self._queue(request)
        for entry in request["Entries"]:
            queue.in_flight.pop(entry["ReceiptHandle"], None)
        return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]]}

    def _change_visibility(self, request: Json) -> Json:
        queue = self._queue(request)
        _, stored = queue.in_flight[request["ReceiptHandle"]]
        until = self._clock() + float(request["VisibilityTimeout"])
        queue.in_flight[request["ReceiptHandle"]] = (until, stored)
        return {}
