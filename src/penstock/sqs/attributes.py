"""Read a queue's kind and limits from its attributes, so that nobody has to configure them."""

import msgspec

from penstock import telemetry
from penstock.errors import Again, Halt, own_trouble
from penstock.http1 import NoReplyError, NotSentError
from penstock.model import QueueDepth, QueueLimits
from penstock.sqs.batch import error_of
from penstock.sqs.client import SqsClient
from penstock.sqs.errors import Kind, kind_of_call, remedy_of

_HTTP_OK = 200


class _Attributes(msgspec.Struct, rename="pascal"):
    attributes: dict[str, str] = {}


async def read_limits(client: SqsClient, url: str) -> QueueLimits:
    """Read the queue's attributes, and log them. Raises Again (away) or Halt (missing, refused)."""
    attributes = await _read(client, url)
    limits = QueueLimits(
        message_bytes_max=int(attributes.get("MaximumMessageSize", "1048576")),
        fifo=attributes.get("FifoQueue") == "true",
    )
    telemetry.event(
        "queue.opened",
        queue=url,
        fifo=limits.fifo,
        # Both scopes work: a claim's successor sends under the claim's own group.
        deduplication_scope=attributes.get("DeduplicationScope", "queue"),
        message_bytes_max=limits.message_bytes_max,
        kms_key=attributes.get("KmsMasterKeyId", ""),
    )
    return limits


async def read_depth(client: SqsClient, url: str) -> QueueDepth:
    """Return SQS's estimate of how many messages the queue holds. Raises as `read_limits` does."""
    attributes = await _read(client, url)

    def count(suffix: str) -> int:
        return int(attributes.get(f"ApproximateNumberOfMessages{suffix}", "0"))

    return QueueDepth(count(""), count("NotVisible"), count("Delayed"))


async def _read(client: SqsClient, url: str) -> dict[str, str]:
    # Ask for all: a standard queue answers an error if asked for FifoQueue.
    ask = msgspec.json.encode({"QueueUrl": url, "AttributeNames": ["All"]})
    try:
        reply = await client.call("GetQueueAttributes", ask)
    except (NotSentError, NoReplyError) as error:
        raise Again(f"cannot reach the queue {url}: {own_trouble(error) or error}") from error
    if reply.status != _HTTP_OK:
        code, text = error_of(reply.body, reply.query_error)
        what = f"cannot read the attributes of the queue {url}: {code}: {text}"
        if kind_of_call(code, reply.status) in (Kind.AGAIN, Kind.THROTTLED, Kind.UNKNOWN):
            raise Again(what)
        raise Halt(f"{what}; {remedy_of(code)}")
    try:
        return msgspec.json.decode(reply.body, type=_Attributes).attributes
    except msgspec.MsgspecError as error:
        raise Halt(f"{url} does not answer as SQS: {error}; see queue.endpoint_url") from None
