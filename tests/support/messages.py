"""Messages for tests of the sender, made by the real packer."""

from collections.abc import Sequence
from typing import Literal

from penstock.model import (
    ATTRIBUTE_CLAIM,
    ATTRIBUTE_CONTENT_TYPE,
    ATTRIBUTE_FILE,
    ATTRIBUTE_ID,
    ATTRIBUTE_RECORDS,
    Message,
    QueueLimits,
)
from penstock.sqs.packer import Packer

NAMES = ("20261123T062745.000001.json", "20261123T062745.000002.json")
CLAIM = "0123456789abcdef01234567"
LIMITS = QueueLimits(message_bytes_max=1_048_576)


def packed(
    records: Sequence[bytes],
    *,
    records_per_message: Literal["many", 1] = 1,
    limits: QueueLimits = LIMITS,
    names: Sequence[str] = NAMES,
    claim: str = CLAIM,
) -> list[Message]:
    """Return the messages of one claim whose first file holds all these records."""
    packer = Packer(
        limits=limits,
        message_bytes=None,
        records_per_message=records_per_message,
        fingerprint="test",
        names=names,
        claim=claim,
    )
    packer.add_file(0, records)
    return packer.rest()


def numbered(count: int, size_bytes: int = 20) -> list[bytes]:
    """Return so many records, each of the size at least, no two alike."""
    return [b'{"n":%d,"t":"%s"}' % (n, b"x" * (size_bytes - 12)) for n in range(count)]


def attributes_of(message: Message) -> dict[str, str]:
    """Return the attributes that a message has at SQS, name to value."""
    return {
        ATTRIBUTE_ID: message.id,
        ATTRIBUTE_RECORDS: str(message.records),
        ATTRIBUTE_FILE: message.file,
        ATTRIBUTE_CONTENT_TYPE: message.content_type,
        ATTRIBUTE_CLAIM: message.claim,
    }
