"""How many files a claim must hold to fill whole messages, by what files gave of late."""

import math
from typing import Final, Literal

from penstock.model import QueueLimits

_FIRST_FILES: Final = 50  # of a claim while nothing is known of any file
_ALONE_RECORDS: Final = 500  # of a claim where each record is a message: fifty calls of ten
_FILES_MIN: Final = 20  # of a claim, where messages are few: a cut falls between two files
_MESSAGES_MAX: Final = 8  # of a claim, all of them held in memory before the first is sent
_TURN: Final = 0.3  # how fast a mean follows what comes: the part that the last claim has in it


class Filling:
    """One worker's running estimate; its lanes share it.

    `message_bytes` is the largest message to make. A claim is to fill one call to the queue, or a
    few messages where files are large, and holds at most `files_max` files.
    """

    def __init__(
        self,
        limits: QueueLimits,
        message_bytes: int,
        records_per_message: Literal["many", 1],
        files_max: int,
    ) -> None:
        self.message_bytes = message_bytes
        self._many = records_per_message == "many"
        self._files_max = files_max
        # A call takes ten messages, or fewer where they are large.
        self._messages_min = max(
            1, min(limits.batch_entries_max, limits.batch_bytes_max // message_bytes)
        )
        self._file_bytes: float | None = None  # what a file adds to messages, the mean of late
        self._file_records = 1.0
        self._error = 0.02  # by what part the estimate was wrong of late

    @property
    def is_known(self) -> bool:
        """Whether it has learned from any file, or need not."""
        return self._file_bytes is not None or not self._many

    @property
    def call_bytes(self) -> int:
        """How much a claim is to give: messages that are full, in bytes as SQS counts them."""
        wanted = math.ceil(_FILES_MIN * (self._file_bytes or 0) / self.message_bytes)
        return self.message_bytes * max(self._messages_min, min(wanted, _MESSAGES_MAX))

    def files_wanted(self) -> int:
        """Return how many files the next claim should hold: a few more than fill its messages."""
        if not self._many:
            wanted = _ALONE_RECORDS / max(self._file_records, 1)
        elif self._file_bytes is None:
            wanted = _FIRST_FILES
        elif self._file_bytes == 0:
            wanted = self._files_max
        else:
            wanted = self.call_bytes / self._file_bytes * (1 + min(2 * self._error, 0.3))
        return max(1, min(math.ceil(wanted), self._files_max))

    def learn(self, files: int, records: int, size_bytes: int) -> None:
        """Learn from a claim, or the front of one: what so many of its files gave."""
        if not files:
            return
        file_bytes = size_bytes / files
        known, self._file_bytes = self._file_bytes, file_bytes
        self._file_records += _TURN * (records / files - self._file_records)
        if known is not None:
            self._file_bytes = known + _TURN * (file_bytes - known)
            wrong = abs(file_bytes - known) / max(known, 1)
            self._error += _TURN * (wrong - self._error)
