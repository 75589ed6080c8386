"""The fate of each file of a claim: collected while the claim is processed, told at its commit."""

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from penstock.ledger.begun import ranges
from penstock.model import (
    BILLED_BYTES,
    Message,
    MessageReject,
    RecordReject,
    Sent,
    Settled,
    Transformed,
)

RECORDS_LISTED_MAX = 1_000
"""Rejects of one file that are listed; adjacent equal records are one reject. All are counted."""

AGES_SECONDS = (1, 2, 5, 10, 30, 60, 300, 1800)
"""Bounds of the buckets that count the age of each claim's oldest file at its commit."""


def age_counters(age_seconds: float) -> Mapping[str, int]:
    """Return the counters of that age: its bucket, and a sum; none if no file was read."""
    if not math.isfinite(age_seconds):
        return {}
    bucket = next((bound for bound in AGES_SECONDS if age_seconds <= bound), "inf")
    return {f"age_{bucket}": 1, "age_ms": max(0, round(1000 * age_seconds))}


class ClaimOutcome:
    """The fate of one claim's files, noted file by file in the claim's order.

    A file without another fate is processed. A file with some rejected records is rejected, so that
    it is kept with the reasons; its other records are sent. The fate of `done` files was settled
    before. `message_bytes` is the largest message allowed.
    """

    def __init__(
        self,
        names: Sequence[str],
        done: int = 0,
        *,
        message_bytes: int = 0,
        after_loss: bool = False,
    ) -> None:
        self._names = names
        self._done = done
        self._message_bytes = message_bytes
        self.files = len(names)
        self._vanished: list[str] = []
        self._retry_seconds: dict[str, float] = {}
        self._reasons: dict[str, str] = {}
        self._records: dict[str, list[RecordReject]] = {}
        self._files: list[int] = []  # per packed record: the position of its file in the claim
        self._indexes: list[int] = []  # parallel: its index in that file
        self.oldest_at_seconds = math.inf
        """When the oldest file read last changed, on the caller's clock; infinite if none was."""
        self._counted: Counter[str] = Counter(files_after_loss=len(names) if after_loss else 0)

    def vanish(self, name: str) -> None:
        """Note that a file does not exist any more."""
        self._vanished.append(name)

    def retry(self, name: str, seconds: float) -> None:
        """Have the file claimed again after `seconds`."""
        self._retry_seconds[name] = seconds

    def reject(self, name: str, reason: str) -> None:
        """Never send the file; keep it with the reason."""
        self._reasons[name] = reason

    def reject_record(self, name: str, reject: RecordReject) -> None:
        """Never send these records of the file."""
        self._records.setdefault(name, []).append(reject)
        self._counted["records_rejected"] += reject.count

    def pack(self, done: Transformed, too_large: Sequence[RecordReject]) -> None:
        """Note which records were packed; `too_large`, by position in `done.records`, were not."""
        self._counted["records_read"] += (
            len(done.records)
            + done.filtered
            + RecordReject.total([reject for _, reject in done.rejects])
        )
        self._counted["records_filtered"] += done.filtered
        files, indexes = done.files, done.indexes
        for one in too_large:
            reject = RecordReject(indexes[one.index], one.reason)
            self.reject_record(self._names[files[one.index]], reject)
        for position, reject in done.rejects:
            self.reject_record(self._names[position], reject)
        if too_large:
            left_out = {one.index for one in too_large}
            packed = [at for at in range(len(files)) if at not in left_out]
            files, indexes = [files[at] for at in packed], [indexes[at] for at in packed]
        self._files += files
        self._indexes += indexes

    def journal_entry(self, message: Message) -> str:
        """Return a confirmed message's journal entry: `ID 0-41,43-43 44:7 42-42`.

        The first ranges are positions of files whose last record is in it: such a file is complete
        once this message and all before it are confirmed. Then comes where the next message
        begins: the position of its file, and how many of that file's records were sent before. The
        last ranges are like the first, of files with rejected records, which are not processed.
        """
        end, last = message.first_record + message.records, message.last_file
        positions = [last]
        if message.first_file != last:
            positions = [*dict.fromkeys(self._files[message.first_record : end])]
        follows = f"{last + 1}:0"
        if end < len(self._files) and self._files[end] == last:
            positions.pop()  # its next record is in the next message
            follows = f"{last}:{end - bisect_left(self._files, last)}"
        if not self._records:
            return f"{message.id} {ranges(positions)} {follows} "
        rejected = [at for at in positions if self._names[at] in self._records]
        positions = [at for at in positions if self._names[at] not in self._records]
        return f"{message.id} {ranges(positions)} {follows} {ranges(rejected)}"

    def sent_before(self, records: int) -> None:
        """Count packed records that an earlier owner sent; no message is made of them."""
        self._counted["records_sent"] += records

    def confirm(self, messages: Sequence[Message]) -> None:
        """Count messages of one call that SQS has confirmed."""
        self._counted["messages"] += len(messages)
        self._counted["records_sent"] += sum(message.records for message in messages)
        size_bytes = sum(message.size_bytes for message in messages)
        self._counted["bytes_sent"] += size_bytes
        self._counted["bytes_room"] += len(messages) * self._message_bytes
        self._counted["requests_billed"] += math.ceil(size_bytes / BILLED_BYTES)

    def divide(
        self, messages: Sequence[Message], journal: Mapping[int, str]
    ) -> tuple[Sequence[Message], Sequence[Message]]:
        """Return the messages confirmed under an earlier owner, and those still to send.

        `journal` maps index to id. Another id is another message, which must be sent.
        """
        if not journal:
            return (), messages
        earlier = [message for message in messages if journal.get(message.index) == message.id]
        unsent = [message for message in messages if journal.get(message.index) != message.id]
        self._counted["messages_skipped"] += len(earlier)
        self._counted["records_sent"] += sum(message.records for message in earlier)
        self._counted["messages"] += len(earlier)
        self._counted["journal_mismatches"] += sum(message.index in journal for message in unsent)
        return earlier, unsent

    def sent(self, sent: Sent) -> None:
        """Count how a call to the queue ended, except what `confirm` has counted."""
        self._counted["messages_submitted"] += len(sent.confirmed) + len(sent.rejected)
        self._counted["messages_failed"] += len(sent.rejected)
        self._counted["batches"] += sent.batches
        self._counted["possible_repeats"] += sent.possible_repeats
        self._counted["throttled"] += sent.throttled
        self._refuse(sent.rejected)

    def _refuse(self, rejected: Sequence[MessageReject]) -> None:
        for message, reason in rejected:
            for record in range(message.first_record, message.first_record + message.records):
                refused = RecordReject(self._indexes[record], f"refused by the queue: {reason}")
                self.reject_record(self._names[self._files[record]], refused)

    def settled(self, *, attempt: int, now: str) -> Settled:
        """Return what to commit; `now` is an ISO 8601 time for the rejects."""
        rejected: dict[str, str] = {}
        for name in self._reasons.keys() | self._records.keys():
            records = self._records.get(name, [])
            count = RecordReject.total(records)
            story = {
                "file": name,
                "reason": self._reasons.get(name)
                or f"{count} of its records cannot be sent; the others were",
                "records": msgspec.to_builtins(records[:RECORDS_LISTED_MAX]),
                "records_rejected": count,
                "attempt": attempt,
                "rejected_at": now,
            }
            rejected[name] = json.dumps(story, ensure_ascii=False)
        other = len(self._vanished) + len(self._retry_seconds) + len(rejected)
        self._counted["files_vanished"] += len(self._vanished)
        self._counted["files_rejected"] += len(rejected)
        self._counted["files_retried"] += len(self._retry_seconds)
        self._counted["files_processed"] += len(self._names) - self._done - other
        return Settled(self._vanished, rejected, self._retry_seconds, dict(self._counted))
