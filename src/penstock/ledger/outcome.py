"""What becomes of each file of a claim: collected while it is carried, said once at its commit."""

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from penstock.model import Message, MessageReject, RecordReject, Selected, Sent, Settled

RECORDS_LISTED_MAX = 1_000
"""So many rejects of a file are listed, a row of alike records as one; all are counted."""


_FIRST = (0,)  # the index of an only record


class ClaimOutcome:
    """The fate of one claim's files, told file by file in the claim's order.

    A file with no other fate is processed. A file of which some records were rejected is rejected
    as a file, so that it is kept with the reasons; its other records are sent all the same.
    """

    def __init__(self, names: Sequence[str], *, after_loss: bool = False) -> None:
        self._names = names
        self._vanished: list[str] = []
        self._retry_seconds: dict[str, float] = {}
        self._reasons: dict[str, str] = {}
        self._records: dict[str, list[RecordReject]] = {}
        self._first_records: list[int] = []  # per file with records: its first record in the claim
        self._files: list[int] = []  # parallel: its position in the claim
        self._indexes: list[Sequence[int]] = []  # parallel: the indexes of its records
        self._positions: list[int] = []  # parallel: its position again; -1 if it has rejects
        self._packed = 0
        self._counted: Counter[str] = Counter(files_after_loss=len(names) if after_loss else 0)

    def vanish(self, name: str) -> None:
        """Drop a file from the claim that is not there any more."""
        self._vanished.append(name)

    def wait(self, name: str, seconds: float) -> None:
        """Have the file looked at again after `seconds`."""
        self._retry_seconds[name] = seconds

    def reject(self, name: str, reason: str) -> None:
        """Keep the whole file out of the queue for ever, with the reason."""
        self._reasons[name] = reason

    def reject_record(self, name: str, reject: RecordReject) -> None:
        """Keep records of the file out of the queue for ever."""
        self._records.setdefault(name, []).append(reject)
        self._counted["records_rejected"] += reject.count

    def pack(self, position: int, selected: Selected, packed: Sequence[int]) -> None:
        """Note that records of the file at `position` in the claim went into messages.

        `packed` holds their indexes, in that order.
        """
        name = self._names[position]
        self._counted["records_read"] += (
            len(selected.records) + selected.filtered + RecordReject.total(selected.rejects)
        )
        self._counted["records_filtered"] += selected.filtered
        for reject in selected.rejects:
            self.reject_record(name, reject)
        if packed:
            self._first_records.append(self._packed)
            self._files.append(position)
            self._indexes.append(packed)
            self._positions.append(-1 if name in self._records else position)
            self._packed += len(packed)

    def pack_ones(self, positions: Sequence[int], *, read: int, filtered: int) -> None:
        """Note `read` files of one record each: those at `positions` went into messages.

        The same as `pack` for each.
        """
        self._counted["records_read"] += read
        self._counted["records_filtered"] += filtered
        self._first_records += range(self._packed, self._packed + len(positions))
        self._files += positions
        self._indexes += [_FIRST] * len(positions)
        self._positions += positions
        self._packed += len(positions)

    def journal_entry(self, message: Message) -> str:
        """Return what the journal is to keep of a confirmed message: `ID 0-41,43-43`.

        The ranges are the positions of the files whose last record it holds: all of such a file is
        confirmed once this message and all before it are. Files with rejected records are left out,
        because they have another fate than being processed.
        """
        end = message.first_record + message.records
        if message.records == 1 and len(self._first_records) == self._packed:
            position = self._positions[message.first_record]  # one record a file: no search
            return f"{message.id} {position}-{position}" if position >= 0 else f"{message.id} "
        first = bisect_right(self._first_records, message.first_record) - 1
        last = bisect_left(self._first_records, end) - 1
        following = last + 1
        file_end = (
            self._first_records[following] if following < len(self._first_records) else self._packed
        )
        positions = self._positions[first : last + (file_end == end)]
        return f"{message.id} {_ranges(positions)}"

    def confirm(self, messages: Sequence[Message]) -> None:
        """Note messages that SQS has."""
        self._counted["messages"] += len(messages)
        self._counted["records_sent"] += sum(message.records for message in messages)
        self._counted["bytes_sent"] += sum(message.size_bytes for message in messages)

    def divide(
        self, messages: Sequence[Message], journal: Mapping[int, str]
    ) -> tuple[Sequence[Message], Sequence[Message]]:
        """Return the messages that were confirmed under an earlier owner, and those still to send.

        `journal` maps index to id. Both must agree: another id is another message.
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
        """Note how a call to the queue ended; what was confirmed has been told already."""
        self._counted["messages_submitted"] += len(sent.confirmed) + len(sent.rejected)
        self._counted["messages_failed"] += len(sent.rejected)
        self._counted["batches"] += sent.batches
        self._counted["possible_repeats"] += sent.possible_repeats
        self._counted["throttled"] += sent.throttled
        self._refuse(sent.rejected)

    def _refuse(self, rejected: Sequence[MessageReject]) -> None:
        """Reject the records of messages that SQS will never take, each in its file."""
        for message, reason in rejected:
            for record in range(message.first_record, message.first_record + message.records):
                file = bisect_right(self._first_records, record) - 1
                index = self._indexes[file][record - self._first_records[file]]
                refused = RecordReject(index, f"refused by the queue: {reason}")
                self.reject_record(self._names[self._files[file]], refused)

    def count(self, name: str, by: int) -> None:
        """Add to a counter of this claim."""
        self._counted[name] += by

    def settled(self, *, attempt: int, now: str) -> Settled:
        """Return what the commit is to say; `now` is an ISO 8601 time for the rejects."""
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
        self._counted["files_processed"] += len(self._names) - other
        return Settled(self._vanished, rejected, self._retry_seconds, dict(self._counted))


def _ranges(positions: Sequence[int]) -> str:
    """Return ascending positions as ranges, those below 0 left out: [0, 1, -1, 3] is `0-1,3-3`."""
    if positions and -1 not in positions and positions[-1] - positions[0] == len(positions) - 1:
        return f"{positions[0]}-{positions[-1]}"
    ranges: list[list[int]] = []
    for position in positions:
        if position < 0:
            continue
        if ranges and ranges[-1][1] == position - 1:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return ",".join(f"{first}-{last}" for first, last in ranges)
