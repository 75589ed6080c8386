"""Estimate how many files a claim must hold to fill whole messages, from recent files."""

import math
from typing import Final, Literal

from penstock.model import QueueLimits

_FIRST_FILES: Final = 50  # of a claim while nothing is known of any file
_ALONE_RECORDS: Final = 500  # of a claim where each record is a message: fifty calls of ten
_FILES_MIN: Final = 100  # of a claim with few messages: what fits none of them is read twice
_MESSAGES_MAX: Final = 8  # of a claim: all are in memory before the first is sent
_TURN: Final = 0.3  # weight of the latest claim in a running mean


class Filling:
    """One worker's running estimate; its lanes share it.

    `message_bytes` is the largest message to make. A claim should fill one call to the queue, or a
    few messages if files are large. It holds at most `files_max` files.
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
        # A call holds ten messages, or fewer if they are large.
        self._messages_min = max(
            1, min(limits.batch_entries_max, limits.batch_bytes_max // message_bytes)
        )
        self._file_bytes: float | None = None  # running mean of a file's bytes in messages
        self._file_records = 1.0
        self._error = 0.02  # running mean of the estimate's relative error

    @property
    def is_known(self) -> bool:
        """Whether it has learned from any file, or does not need to."""
        return self._file_bytes is not None or not self._many

    @property
    def call_bytes(self) -> int:
        """How many bytes a claim should give, as SQS counts them: a number of full messages."""
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
        """Learn from the first `files` files of a claim: their records and bytes."""
        if not files:
            return
        file_bytes = size_bytes / files
        known, self._file_bytes = self._file_bytes, file_bytes
        self._file_records += _TURN * (records / files - self._file_records)
        if known is not None:
            self._file_bytes = known + _TURN * (file_bytes - known)
            wrong = abs(file_bytes - known) / max(known, 1)
            self._error += _TURN * (wrong - self._error)
