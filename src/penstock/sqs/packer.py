"""Pack selected records into messages: pure, so that a successor makes the same bytes and ids.

    record record record | record record …        greedy, in record order
    └──── message 0 ───┘ └── message 1 …          body: [record,record,record]

SQS counts the UTF-8 bytes of a message's body plus, for each attribute, those of its name, DataType
and value. The batch and its entry ids cost nothing. Source: the SendMessageBatch page of the SQS
API reference; recorded cases in tests/data/sqs_cases.json.
"""

import functools
import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from penstock.errors import Halt, Reject
from penstock.model import (
    ATTRIBUTE_DATA_TYPE,
    BILLED_BYTES,
    CONTENT_TYPE_MANY,
    CONTENT_TYPE_ONE,
    Attributes,
    Message,
    QueueLimits,
    RecordReject,
)

_FEW = 16  # records that are not worth halving again
_SQS_BYTES_MAX = 1_048_576  # of a message
_RAISE = ", or raise queue.message_bytes or the queue's MaximumMessageSize"
_FULL = 0.95  # of a message: filling it further is not worth reading a file twice
_ID_BYTES = hashlib.sha256().digest_size * 2
# The size of the attributes without four values: records, file, content type, claim.
_ATTRIBUTES_FIXED_BYTES = _ID_BYTES + sum(
    len(field.encode_name) + len(ATTRIBUTE_DATA_TYPE)
    for field in msgspec.structs.fields(Attributes)
)


def _framed(part: bytes) -> bytes:
    """Put a length before a part, so that no two sequences of parts hash alike."""
    return len(part).to_bytes(8, "big") + part


class _Packed(NamedTuple):
    """A future message: its records, the file of each, and its size as SQS counts it."""

    records: Sequence[bytes]
    files: Sequence[int]
    size_bytes: int


class Packer:
    """Packs the records of one claim; owned by one lane, used for one claim.

    `limits` come from the queue. `message_bytes` (None: the queue's maximum) is the largest message
    to make, attributes included. With `records_per_message` "many" a body is a JSON array of
    records, with 1 the record itself. `fingerprint` stands for the settings that shape messages.
    `names` are all the claim's files, in order. Both go into every message's id, except names that
    `keep` removed. `claim` is the claim's id: an attribute, which leads from a message to the log,
    and not part of the message's id.

    Raises Halt if `message_bytes` is more than the queue accepts.
    """

    def __init__(
        self,
        *,
        limits: QueueLimits,
        message_bytes: int | None,
        records_per_message: Literal["many", 1],
        fingerprint: str,
        names: Sequence[str],
        claim: str,
    ) -> None:
        self._limit = limits.message_bytes_max if message_bytes is None else message_bytes
        if self._limit > limits.message_bytes_max:
            raise Halt(
                f"queue.message_bytes is {self._limit}, but the queue's MaximumMessageSize is "
                f"{limits.message_bytes_max}: lower the first or raise the second"
            )
        self._many = records_per_message == "many"
        self._content_type = CONTENT_TYPE_MANY if self._many else CONTENT_TYPE_ONE
        # A limit of whole billed units is filled to within one record, so a cut cannot save.
        self._cuts = self._limit > BILLED_BYTES and self._limit % BILLED_BYTES != 0
        self._names = names
        self._fingerprint = fingerprint
        self._claim = claim
        self._index = 0
        self._first_record = 0
        self._begins = (-1, 0)  # a file's position, and how many of its records were sent
        self._passed = 0
        self.sent_before = 0
        """How many of the added records an earlier owner of the claim has sent."""
        self._done: list[_Packed] = []
        self._records: list[bytes] = []  # of the open message
        self._files: list[int] = []  # parallel: the file of each
        self._body_bytes = 1  # its body so far: "[", then each record and its "," or "]"
        self._overhead_bytes = 0  # its attributes, without the digits of the record count

    def go_on(self, index: int, file: int, records: int) -> None:
        """Begin with message `index`, after `records` of file `file`; all before it was sent."""
        self._index, self._begins = index, (file, records)

    def add(self, file: int, record: bytes) -> None:
        """Add the next record of the claim, from the file `names[file]`.

        Raises Reject, with the sizes, if the record fits no message. It is then left out and does
        not count for `Message.first_record`.
        """
        if self._was_sent(file, record):
            return
        if not self._many:
            size = len(record) + self._attributes_bytes(file) + 1
            self._refuse_too_large(record, size)
            self._done.append(_Packed((record,), (file,), size))
            return
        if not self._take_whole((file,), (record,)):
            # Refuse it before closing a message for it, which would make that smaller.
            self._refuse_too_large(record, len(record) + 2 + self._attributes_bytes(file) + 1)
            while not self._take_whole((file,), (record,)):
                self._close(cut=self._cuts)

    def add_file(self, file: int, records: Sequence[bytes]) -> list[RecordReject]:
        """Add all records of one file; see `add_all`."""
        return self.add_all([file] * len(records), records)

    def add_all(self, files: Sequence[int], records: Sequence[bytes]) -> list[RecordReject]:
        """Add records, each from its file; return those that fit no message, by position."""
        if not records:
            return []
        if self._many and files[0] > self._begins[0] and self._take_whole(files, records):
            return []
        if self._many and len(records) > _FEW:
            half = len(records) // 2
            first = self.add_all(files[:half], records[:half])
            second = self.add_all(files[half:], records[half:])
            return first + [RecordReject(half + one.index, one.reason) for one in second]
        rejects: list[RecordReject] = []
        for position, (file, record) in enumerate(zip(files, records, strict=True)):
            try:
                self.add(file, record)
            except Reject as reject:
                rejects.append(RecordReject(position, reject.reason))
        return rejects

    def _take_whole(self, files: Sequence[int], records: Sequence[bytes]) -> bool:
        """Add all records to the open message, or to a new one, if they fit together."""
        body_bytes, overhead_bytes = self._body_bytes, self._overhead_bytes
        if not self._records:
            body_bytes, overhead_bytes = 1, self._attributes_bytes(files[0])
        body_bytes += sum(map(len, records)) + len(records)
        count = len(self._records) + len(records)
        if body_bytes + overhead_bytes + len(str(count)) > self._limit:
            return False
        self._records += records
        self._files += files
        self._body_bytes, self._overhead_bytes = body_bytes, overhead_bytes
        return True

    @property
    def waiting_bytes(self) -> int:
        """The size of all messages that `full` and `rest` would return now."""
        return sum(one.size_bytes for one in self._done) + self._open_bytes

    @property
    def _open_bytes(self) -> int:
        """The size of the open message, except the digits of its record count."""
        return self._body_bytes + self._overhead_bytes if self._records else 0

    def fullest(self, files: int) -> int:
        """Return how many of the first `files` files to keep, so that messages are full.

        0 if all files make less than one message. Ask before any message was returned.
        """
        if self._open_bytes >= _FULL * self._limit or not (self._many and self._records):
            return files
        if not self._done:
            return 0
        sizes = [one.size_bytes for one in self._done]
        starts = [one.files[0] for one in self._done[1:]] + [self._files[0]]
        options = [(files, (sum(sizes) + self._open_bytes) / (len(sizes) + 1))]
        held_bytes = 0
        for count, (one, start) in enumerate(zip(self._done, starts, strict=True), 1):
            kept = bisect_left(one.files, start)  # the rest belongs to a file that goes on after it
            lost_bytes = sum(len(record) + 1 for record in one.records[kept:])
            held_bytes += one.size_bytes
            options.append((start, (held_bytes - lost_bytes) / count))
        best_bytes = max(size for kept, size in options if kept)
        enough_bytes = min(_FULL * self._limit, 0.99 * best_bytes)
        return max(kept for kept, size in options if size >= enough_bytes)

    def keep(self, files: int) -> None:
        """Keep only the first `files` files. Call it before any message was returned."""
        whole = sum(one.files[-1] < files for one in self._done)
        if self._cuts and whole:
            whole -= 1  # it was cut because more records followed
        again = [*self._done[whole:], _Packed(self._records, self._files, 0)]
        records = [record for one in again for record in one.records]
        of = [file for one in again for file in one.files]
        kept = bisect_left(of, files)
        self._names, self._done = self._names[:files], self._done[:whole]
        self._records, self._files = [], []
        self.add_all(of[:kept], records[:kept])

    def _was_sent(self, file: int, record: bytes) -> bool:
        """Skip a record that was sent. Raises Reject if it fits no message: so it was not sent."""
        begin_file, begin_records = self._begins
        if file > begin_file or (file == begin_file and self._passed == begin_records):
            return False
        around = 3 if self._many else 1
        self._refuse_too_large(record, len(record) + around + self._attributes_bytes(file))
        self._passed += file == begin_file
        self._first_record += 1
        self.sent_before += 1
        return True

    def full(self) -> list[Message]:
        """Return the complete messages, each once, in order."""
        done, self._done = self._done, []
        return [self._message(one) for one in done]

    def rest(self) -> list[Message]:
        """Close the open message and return all messages not yet returned, in order."""
        if self._records:
            self._close(cut=False)
        return self.full()

    def _attributes_bytes(self, file: int) -> int:
        """Return the size of a message's attributes without the digits of its record count."""
        name_bytes = len(self._names[file].encode())
        return _ATTRIBUTES_FIXED_BYTES + name_bytes + len(self._content_type) + len(self._claim)

    def _refuse_too_large(self, record: bytes, size: int) -> None:
        if size > self._limit:
            raise Reject(
                f"a selected record of {len(record)} bytes makes a message of {size} bytes, "
                f"attributes included; the largest allowed is {self._limit}: select less of it"
                + (_RAISE if self._limit < _SQS_BYTES_MAX else "")
            )

    def _close(self, *, cut: bool) -> None:
        """Complete the open message; with `cut`, keep back records that would cost a request."""
        count = self._count_to_close() if cut else len(self._records)
        records, self._records = self._records[:count], self._records[count:]
        files, self._files = self._files[:count], self._files[count:]
        body_bytes = 1 + sum(map(len, records)) + len(records)
        size = body_bytes + self._attributes_bytes(files[0]) + len(str(len(records)))
        self._refuse_too_large(records[0], size)
        self._done.append(_Packed(records, files, size))
        if self._records:
            self._body_bytes = 1 + sum(map(len, self._records)) + len(self._records)
            self._overhead_bytes = self._attributes_bytes(self._files[0])

    def _count_to_close(self) -> int:
        """Return how many records to close the message with, for the most bytes a request.

        A message of 100,000 bytes is billed as two requests. Cut at 65,536 bytes it is one, and the
        rest begins the next message. The only cut considered is at the last multiple of 64 KiB.
        """
        count, body_bytes = len(self._records), self._body_bytes
        size = whole = body_bytes + self._overhead_bytes + len(str(count))
        requests = whole // BILLED_BYTES  # of the cut message; the whole one costs one more
        while size > requests * BILLED_BYTES:
            count -= 1
            body_bytes -= len(self._records[count]) + 1
            size = body_bytes + self._overhead_bytes + len(str(count))
        saves = count > 0 and size * (requests + 1) > whole * requests
        return count if saves else len(self._records)

    @functools.cached_property
    def _identity(self) -> Any:
        """The part of all message ids that is the same, hashed once."""
        return hashlib.sha256(
            _framed(self._fingerprint.encode())
            + len(self._names).to_bytes(8, "big")
            + b"".join([_framed(name.encode()) for name in self._names])
        )

    def _message(self, packed: _Packed) -> Message:
        records, files, size = packed
        body = b"[" + b",".join(records) + b"]" if self._many else records[0]
        digest = self._identity.copy()
        digest.update(self._index.to_bytes(8, "big") + len(body).to_bytes(8, "big"))
        digest.update(body)
        message = Message(
            index=self._index,
            id=digest.hexdigest(),
            body=body,
            records=len(records),
            first_file=files[0],
            last_file=files[-1],
            first_record=self._first_record,
            file=self._names[files[0]],
            content_type=self._content_type,
            claim=self._claim,
            size_bytes=size,
        )
        self._index += 1
        self._first_record += len(records)
        return message
