"""What becomes of each file of a claim."""

import json

from penstock.ledger.outcome import RECORDS_LISTED_MAX, ClaimOutcome
from penstock.model import Message, MessageReject, RecordReject, Sent, Transformed


def message(index: int, first_record: int, records: int) -> Message:
    """Return a message that holds so many of the claim's records."""
    return Message(index, "0" * 64, b"[]", records, 0, 0, first_record, "f", "t", "c", 100)


def left(
    position: int, indexes: list[int], filtered: int = 0, *rejects: RecordReject
) -> Transformed:
    """Return what is left of the file at a position: records of these indexes."""
    of_file = [(position, reject) for reject in rejects]
    count = len(indexes)
    return Transformed([position] * count, [b"{}"] * count, indexes, filtered, of_file)


def test_every_file_has_one_fate() -> None:
    """Processed is what nothing else became of; the counters add up to the claim."""
    outcome = ClaimOutcome(["a", "b", "c", "d", "e"])
    outcome.vanish("a")
    outcome.retry("b", 1.5)
    outcome.reject("c", "no JSON")
    outcome.pack(left(3, [0, 2], 1), [])
    outcome.pack(left(4, [0]), [])
    settled = outcome.settled(attempt=2, now="2026-11-23T00:00:00+00:00")
    assert (settled.vanished, settled.retry_seconds) == (["a"], {"b": 1.5})
    story = json.loads(settled.rejected["c"])
    assert (story["file"], story["reason"], story["attempt"]) == ("c", "no JSON", 2)
    counted = settled.counters
    fates = ("files_processed", "files_rejected", "files_vanished", "files_retried")
    assert [counted[fate] for fate in fates] == [2, 1, 1, 1]
    assert counted["records_filtered"] == 1


def test_a_refused_message_is_traced_to_its_records() -> None:
    """Across files, with filtered records between them."""
    outcome = ClaimOutcome(["a", "b", "c"])
    outcome.pack(left(0, [0, 3]), [])
    outcome.pack(left(1, []), [])
    outcome.pack(left(2, [1, 2]), [])
    refused = MessageReject(message(0, first_record=1, records=2), "too odd")
    outcome.sent(Sent([], [refused], batches=1, possible_repeats=0))
    rejected = outcome.settled(attempt=1, now="").rejected
    indexes = {
        name: [record["index"] for record in json.loads(story)["records"]]
        for name, story in rejected.items()
    }
    assert indexes == {"a": [3], "c": [1]}


def test_a_record_too_large_for_any_message_is_rejected_by_its_index() -> None:
    """The others keep theirs, so that one which the queue refuses is traced to its file too."""
    outcome = ClaimOutcome(["a", "b", "c"])
    run = Transformed([0, 1, 2], [b"{}"] * 3, [0, 4, 2], 0)
    outcome.pack(run, [RecordReject(1, "too large")])
    refused = MessageReject(message(0, first_record=1, records=1), "too odd")
    outcome.sent(Sent([], [refused], batches=1, possible_repeats=0))
    rejected = outcome.settled(attempt=1, now="").rejected
    told = {name: json.loads(story)["records"] for name, story in rejected.items()}
    assert told == {
        "b": [{"index": 4, "reason": "too large"}],
        "c": [{"index": 2, "reason": "refused by the queue: too odd"}],
    }


def test_a_file_with_a_million_bad_records_has_a_short_story() -> None:
    """All are counted, the first thousand are listed."""
    outcome = ClaimOutcome(["a"])
    bad = [RecordReject(i, "no object") for i in range(RECORDS_LISTED_MAX + 5)]
    outcome.pack(left(0, [], 0, *bad), [])
    story = json.loads(outcome.settled(attempt=1, now="").rejected["a"])
    assert len(story["records"]) == RECORDS_LISTED_MAX
    assert story["records_rejected"] == RECORDS_LISTED_MAX + 5


def test_a_row_of_bad_records_is_told_as_one() -> None:
    """All of them are counted; of a single one no count is told, as before there were rows."""
    outcome = ClaimOutcome(["a"])
    outcome.pack(left(0, [0], 0, RecordReject(1, "no object", 5), RecordReject(7, "odd")), [])
    settled = outcome.settled(attempt=1, now="")
    story = json.loads(settled.rejected["a"])
    assert story["records"] == [
        {"index": 1, "reason": "no object", "count": 5},
        {"index": 7, "reason": "odd"},
    ]
    assert story["records_rejected"] == 6
    assert (settled.counters["records_read"], settled.counters["records_rejected"]) == (7, 6)
