"""What came of a run of the demo: counted on disk and in the queue, then compared."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

REASON_SUFFIX = ".reason.json"


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of `penstock demo --json`; counts unless their name says otherwise.

    `records_written` includes what stands in files broken on purpose, `records_expected` does not.
    `records_received` counts everything received. `files_archived` and `files_rejected` are what
    lies in the archive and rejects directories. `messages_full` is how full messages were on
    average, 1 being all that SQS takes. `seconds` run from the first file to the last
    record's arrival.
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

    def as_dict(self) -> dict[str, int | float]:
        """Return the figures by name."""
        return dataclasses.asdict(self)

    def disagreements(self) -> list[str]:
        """Say what does not agree, and where to look; empty if all does."""
        found: list[str] = []
        if self.records_lost:
            found.append(f"{self.records_lost:,} records never arrived: see lost.txt, penstock.log")
        if self.records_duplicated:
            found.append(f"{self.records_duplicated:,} records arrived twice: see penstock.log")
        if self.records_unexpected:
            found.append(
                f"{self.records_unexpected:,} records arrived that nobody wrote so:"
                " see unexpected.jsonl"
            )
        if self.files_left_in_spool:
            found.append(f"{self.files_left_in_spool:,} files are left: see spool/, penstock.log")
        if self.files_rejected != self.files_rejected_expected:
            found.append(
                f"{self.files_rejected:,} files were rejected with a reason,"
                f" {self.files_rejected_expected:,} are broken on purpose: see rejected/"
            )
        on_disk = self.files_archived + self.files_rejected + self.files_left_in_spool
        if on_disk != self.files_written:
            found.append(
                f"{self.files_written:,} files were written and {on_disk:,} are on disk:"
                " see archive/, rejected/, spool/"
            )
        return found


def count_archived(archive: Path) -> int:
    """Count the files in ARCHIVE/YYYY/MM/DD/HH/, and nowhere else."""
    return sum(path.is_file() for path in archive.glob("[0-9]*/[0-9]*/[0-9]*/[0-9]*/*.json"))


def count_rejected(rejected: Path) -> int:
    """Count the rejected files that have their reason beside them."""
    names = {path.name for path in rejected.iterdir()} if rejected.is_dir() else set[str]()
    return sum(name + REASON_SUFFIX in names for name in names if not name.endswith(REASON_SUFFIX))
