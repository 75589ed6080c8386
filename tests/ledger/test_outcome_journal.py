"""What becomes of a claim's files, and which of them a journal entry calls complete."""

from collections.abc import Sequence
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from penstock.ledger.outcome import ClaimOutcome
from penstock.model import Message, QueueLimits, RecordReject, Transformed
from penstock.sqs.packer import Packer
from support.messages import CLAIM

LIMITS = QueueLimits(message_bytes_max=1024)
NAMES = tuple(f"{n:03d}.json" for n in range(12))


def outcome_and_messages(
    sizes: Sequence[Sequence[int]], bad: set[int], per_message: Literal["many", 1] = "many"
) -> tuple[ClaimOutcome, list[Message], list[list[int]]]:
    """Pack one record per size in each file; return also whose records each message holds."""
    outcome = ClaimOutcome(NAMES)
    packer = Packer(
        limits=LIMITS,
        message_bytes=None,
        records_per_message=per_message,
        fingerprint="",
        names=NAMES,
        claim=CLAIM,
    )
    owners: list[int] = []
    for position, file in enumerate(sizes):
        records = [b'"' + b"x" * size + b'"' for size in file]
        for record in records:
            packer.add(position, record)
            owners.append(position)
        rejects = [(position, RecordReject(99, "no object"))] if position in bad else []
        positions, indexes = [position] * len(records), range(len(records))
        outcome.pack(Transformed(positions, records, indexes, 0, rejects), [])
    messages = packer.rest()
    return outcome, messages, [
        owners[m.first_record : m.first_record + m.records] for m in messages
    ]  # fmt: skip


def positions(entry: str, at: int = 1) -> set[int]:
    """Return the files that a journal entry names: complete, or sent but for rejects (at 3)."""
    ranges = entry.split(" ")[at]
    pairs = [part.split("-") for part in ranges.split(",") if part]
    return {n for first, last in pairs for n in range(int(first), int(last) + 1)}


@given(
    st.sampled_from([1, 6]).flatmap(
        lambda records: st.lists(
            st.lists(st.integers(0, 500), max_size=records), min_size=1, max_size=12
        )
    ),
    st.sets(st.integers(0, 11)),
    st.sampled_from(["many", 1]),
)
def test_a_file_is_complete_with_the_message_of_its_last_record(
    sizes: list[list[int]], bad: set[int], per_message: Literal["many", 1]
) -> None:
    """Against a plain count: an entry names the files that end in its message."""
    outcome, messages, owners = outcome_and_messages(sizes, bad, per_message)
    seen: list[int] = []
    for message, held in zip(messages, owners, strict=True):
        seen += held
        ended = {f for f in held if seen.count(f) == len(sizes[f])}
        entry = outcome.journal_entry(message)
        assert entry.startswith(f"{message.id} ")
        assert positions(entry) == ended - bad
        assert positions(entry, 3) == ended & bad
        follows = f"{held[-1] + 1}:0" if held[-1] in ended else f"{held[-1]}:{seen.count(held[-1])}"
        assert entry.split(" ")[2] == follows


def test_whole_claims_make_short_entries() -> None:
    """Five hundred files in one message are one range, whatever their number."""
    outcome, messages, _ = outcome_and_messages([[1]] * 12, set())
    assert outcome.journal_entry(messages[0]) == f"{messages[0].id} 0-11 12:0 "


def test_what_was_confirmed_earlier_is_not_sent_again() -> None:
    """Index and id must both agree; another id under the same index is sent, and counted."""
    outcome, messages, _ = outcome_and_messages([[400], [400], [400], [400]], set())
    journal = {messages[0].index: messages[0].id, messages[1].index: "another"}
    earlier, unsent = outcome.divide(messages, journal)
    counters = outcome.settled(attempt=2, now="").counters
    assert (list(earlier), list(unsent)) == (messages[:1], messages[1:])
    assert (counters["messages_skipped"], counters["journal_mismatches"]) == (1, 1)
    assert counters["records_sent"] == messages[0].records


def test_files_claimed_after_a_loss_are_counted_as_such() -> None:
    """What Redis had forgotten may have been sent before: the counter says how many files."""
    counters = ClaimOutcome(NAMES, after_loss=True).settled(attempt=1, now="").counters
    assert counters["files_after_loss"] == len(NAMES)
