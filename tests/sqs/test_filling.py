"""How many files a claim asks for, so that its messages are full."""

import random

import pytest

from penstock.model import QueueLimits
from penstock.sqs.filling import Filling

MIB = 1_048_576


def filling(message_bytes: int = MIB, files_max: int = 6_000, *, alone: bool = False) -> Filling:
    """Return the estimate of a worker that has seen nothing."""
    limits = QueueLimits(message_bytes_max=MIB)
    return Filling(limits, message_bytes, 1 if alone else "many", files_max)


@pytest.mark.parametrize(
    ("file_bytes", "files"), [(500, 2_098), (2_000, 525), (200_000, 42), (2_000_000, 5)]
)
def test_a_claim_is_a_few_files_more_than_fill_whole_messages(file_bytes: int, files: int) -> None:
    """One message of small files; of large ones several, so that what is over is little."""
    subject = filling()
    for _ in range(50):
        subject.learn(100, 100, 100 * file_bytes)
    assert files <= subject.files_wanted() <= files * 1.03 + 1


def test_small_messages_fill_a_call() -> None:
    """A call takes ten messages, or 1 MiB of them."""
    assert filling(262_144).call_bytes == MIB
    assert filling(65_536).call_bytes == 10 * 65_536


def test_files_that_give_less_and_less_are_followed() -> None:
    """An estimate that was wrong asks for more at once, and is exact again after some claims."""
    subject = filling()
    random_ = random.Random(1)
    for _ in range(20):
        subject.learn(2_000, 2_000, 2_000 * 500)
    for _ in range(20):
        files = subject.files_wanted()
        subject.learn(files, files, sum(random_.choice([100, 400]) for _ in range(files)))
    assert MIB < subject.files_wanted() * 250 < 1.1 * MIB


def test_bounds() -> None:
    """At most files_max, where next to nothing is selected, too; at least one; 50 at first."""
    subject = filling(files_max=1_000)
    assert subject.files_wanted() == 50
    subject.learn(10, 0, 0)
    assert subject.files_wanted() == 1_000
    for _ in range(100):
        subject.learn(1, 1, 50 * MIB)
    assert subject.files_wanted() == 1
    subject.learn(0, 0, 0)
    assert filling(files_max=3).files_wanted() == 3


def test_where_a_record_is_a_message_records_are_counted() -> None:
    """Nothing is to be filled; a claim of files with many records shall not be endless."""
    subject = filling(alone=True)
    assert subject.files_wanted() == 500
    for _ in range(50):
        subject.learn(10, 1_000, 10)
    assert 4 < subject.files_wanted() < 7
