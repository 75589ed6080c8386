"""The result of a demo run: counted on disk and in the queue, then compared."""

from dataclasses import dataclass
from pathlib import Path

REASON_SUFFIX = ".reason.json"


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of `penstock demo --json`; counts, unless their name says otherwise.

    `records_written` includes those in files broken on purpose, `records_expected` does not.
    `messages_full` is the mean fill of messages, 1 being SQS's limit. `seconds` run from the first
    file to the last record's arrival.
    """

    files_written: int
    records_written: int
    records_expected: int
    records_received: int
    records_lost: int
    records_duplicated: int
    records_unexpected: int
    files_archived: int
    files_rejected: int
    files_rejected_expected: int
    files_left_in_spool: int
    seconds: float
    files_per_second: float
    records_per_second: float
    oldest_waiting_seconds_max: float
    messages: int
    batches: int
    messages_full: float

    def disagreements(self) -> list[str]:
        """Return what does not agree, and where to look; empty if all agrees."""
        lost, twice, wrong = self.records_lost, self.records_duplicated, self.records_unexpected
        left, written = self.files_left_in_spool, self.files_written
        rejected, broken = self.files_rejected, self.files_rejected_expected
        on_disk = self.files_archived + rejected + left
        found = {
            f"{lost:,} records never arrived: see lost.txt, penstock.log": lost,
            f"{twice:,} records arrived twice: see penstock.log": twice,
            f"{wrong:,} records that arrived were never written: see unexpected.jsonl": wrong,
            f"{left:,} files are left: see spool/, penstock.log": left,
            f"{rejected:,} files were rejected, {broken:,} are broken: see rejected/": (
                rejected != broken
            ),
            f"{written:,} files were written, {on_disk:,} are in archive/, rejected/ and spool/:"
            " see there": on_disk != written,
        }
        return [text for text, is_so in found.items() if is_so]


def count_archived(archive: Path) -> int:
    """Count the files in ARCHIVE/YYYY/MM/DD/HH/, and nowhere else."""
    return sum(path.is_file() for path in archive.glob("[0-9]*/[0-9]*/[0-9]*/[0-9]*/*.json"))


def count_rejected(rejected: Path) -> int:
    """Count the rejected files that have their reason beside them."""
    names = {path.name for path in rejected.iterdir()} if rejected.is_dir() else set[str]()
    return sum(name + REASON_SUFFIX in names for name in names if not name.endswith(REASON_SUFFIX))
