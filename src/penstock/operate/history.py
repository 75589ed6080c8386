"""The last day by the minute, as a console saw it; the ledger itself keeps only an hour."""

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.operate.snapshot import Snapshot

HOUR_MINUTES, DAY_MINUTES = 60, 1_440
_BARS_MAX = 96  # bars for a day, a quarter of an hour each

Sample = dict[str, float]
"""Counts of files and rejects in a minute or more; the maximum of waiting and age_seconds."""

_COUNTED = {"files": "files_processed", "rejects": "files_rejected"}


class History:
    """What each minute was like; a minute without a snapshot has only the counts."""

    def __init__(self) -> None:
        self._minutes: dict[int, Sample] = {}

    def note(self, seen: Snapshot) -> None:
        """Add one snapshot."""
        now = int((seen.ledger.at_seconds if seen.ledger else seen.at) // 60)
        for back, counts in enumerate(reversed(seen.minutes)):
            sample = self._minutes.setdefault(now - back, {})
            sample.update({name: counts[of] for name, of in _COUNTED.items()})
        sample = self._minutes.setdefault(now, {})
        if seen.waiting is not None and seen.spool is not None:
            sample["waiting"] = max(seen.waiting, sample.get("waiting", 0))
            age = seen.spool.oldest_waiting_seconds if seen.waiting else 0.0
            sample["age_seconds"] = max(age, sample.get("age_seconds", 0.0))
        for old in [minute for minute in self._minutes if minute <= now - DAY_MINUTES]:
            del self._minutes[old]

    def bars(self, now_seconds: float, minutes: int) -> Mapping[str, Any]:
        """Return the last `minutes` as bars of one minute or more, oldest first."""
        step = -(-minutes // _BARS_MAX)
        end = int(now_seconds // 60) // step * step + step
        starts = range(end - minutes, end, step)
        return {
            "step_minutes": step,
            "bars": [
                {"at": 60 * start} | self._bar(range(start, start + step)) for start in starts
            ],
        }

    def _bar(self, minutes: Sequence[int]) -> Sample:
        bar: Sample = {}
        for sample in (self._minutes.get(minute, {}) for minute in minutes):
            for name, value in sample.items():
                known = bar.get(name, 0)
                bar[name] = known + value if name in _COUNTED else max(known, value)
        return bar
