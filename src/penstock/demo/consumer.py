"""The demo's consumer: receives from the queue, deletes, and compares with what was written.

It expects what the corpus says, and reads bodies with the standard library's json: it shares no
code with what it checks. A record counts as received once it is right to the last character; a
wrong one is unexpected, and its record stays lost.
"""

import json
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any, cast

from penstock.demo.corpus import ID_BASE, Corpus, broken_files
from penstock.embedded.sqs import EmbeddedSqs

_SAMPLES_MAX = 100
_RECEIVE = {
    "MaxNumberOfMessages": 10,
    "WaitTimeSeconds": 1,
    "MessageSystemAttributeNames": ["SentTimestamp"],
}


class Comparison:
    """Counts each of the first `records_max` records as it arrives, in a byte of memory each.

    `received` counts all that came, `distinct` the records that came correctly at least once.
    """

    def __init__(self, corpus: Corpus, records_max: int) -> None:
        self._corpus = corpus
        self._seen = bytearray(records_max)
        self._duplicated = 0
        self._unexpected = 0
        self.received = 0
        self.distinct = 0
        self.unexpected_samples: list[str] = []

    def take(self, body: str) -> None:
        """Take the body of one message: a collection of records, or a single one."""
        try:
            value = json.loads(body)
        except ValueError:
            self._wrong(body)
            return
        for record in cast("list[Any]", value) if isinstance(value, list) else [value]:
            self.received += 1
            self._take(record)

    def discrepancies(self, files: int) -> tuple[int, int, int]:
        """Return how many records are lost, came twice, and were never expected.

        The first `files` files are all that was written.
        """
        lost = self._here(files).count(0)
        never = self.distinct - (self._corpus.records_expected(files) - lost)  # never written
        return lost, self._duplicated, self._unexpected + never

    def lost_ids(self, files: int) -> list[int]:
        """Return the ids of the lost records, at most a hundred of them."""
        lost = (ID_BASE + record for record, seen in enumerate(self._here(files)) if not seen)
        return [*islice(lost, _SAMPLES_MAX)]

    def _here(self, files: int) -> bytearray:
        """Return 0 for each lost record; records of broken files are not expected."""
        per_file = self._corpus.records_per_file
        here = self._seen[: files * per_file].ljust(files * per_file, b"\0")
        for file in broken_files(files):
            here[file * per_file : (file + 1) * per_file] = b"\1" * per_file
        return here

    def _take(self, record: object) -> None:
        number = _number(record)
        if not 0 <= number < len(self._seen):
            self._wrong(record)
            return
        expected = self._corpus.expected(number)
        # As lists: JMESPath keeps the keys in the order they are written.
        if list(cast("Mapping[str, Any]", record).items()) != list(expected.items()):
            self._wrong(record)
        elif self._seen[number]:
            self._duplicated += 1
        else:
            self._seen[number] = 1
            self.distinct += 1

    def _wrong(self, what: object) -> None:
        self._unexpected += 1
        if len(self.unexpected_samples) < _SAMPLES_MAX:
            self.unexpected_samples.append(json.dumps(what, ensure_ascii=False))


def _number(record: object) -> int:
    """Return which record this claims to be, or -1."""
    if not isinstance(record, dict):
        return -1
    tweet_id = cast("dict[str, Any]", record).get("id")
    return tweet_id - ID_BASE if type(tweet_id) is int else -1


class Consumer:
    """Drains one queue of an embedded SQS into a comparison, each message once."""

    def __init__(self, sqs: EmbeddedSqs, queue_url: str, comparison: Comparison) -> None:
        self._sqs = sqs
        self._queue_url = queue_url
        self._comparison = comparison
        self._taken: set[str] = set()
        self.last_message_at = time.monotonic()

    @property
    def messages(self) -> int:
        """The number of messages received."""
        return len(self._taken)

    async def run(self) -> None:
        """Receive until cancelled. Raises Again or Halt if the queue is away."""
        queue = {"QueueUrl": self._queue_url}
        while True:
            answer = await self._sqs.call("ReceiveMessage", {**queue, **_RECEIVE})
            entries: list[Mapping[str, str]] = []
            for message in answer.get("Messages", []):
                if message["MessageId"] not in self._taken:
                    self._taken.add(message["MessageId"])
                    self._comparison.take(message["Body"])
                handle = message["ReceiptHandle"]
                entries.append({"Id": str(len(entries)), "ReceiptHandle": handle})
            if entries:
                self.last_message_at = time.monotonic()
                request = {**queue, "Entries": entries}
                await self._sqs.call("DeleteMessageBatch", request)
