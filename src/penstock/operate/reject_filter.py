"""Choose files by name, pattern, reason or time, as an operator asks."""

import fnmatch
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock.operate.spool_files import RejectedFile

_PATTERN = re.compile(r"[*?\[]")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def moment(text: str) -> float:
    """Return Unix seconds for ISO 8601 (UTC by default), or `2h` ago. Raises ValueError."""
    if ago := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])(?: ago)?", text.strip()):
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time; use 2026-11-25T14:30, 2026-11-25, or 90m, 2h, 1d for ago"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def kind_of(reason: str) -> str:
    """Return a reason without what varies from file to file, for counting."""
    return re.sub(r"\d[\d,]*", "N", re.sub(r'"[^"]*"', '"…"', reason))


def is_pattern(name: str) -> bool:
    """Tell whether a name on the command line is a pattern."""
    return _PATTERN.search(name) is not None


@dataclass(frozen=True, slots=True)
class RejectFilter:
    """What to choose; all must match: `names` (shell patterns), `reason`, `since`, `until`."""

    names: Sequence[str] = ()
    reason: str = ""
    since: float | None = None
    until: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it chooses everything."""
        return self == RejectFilter()

    def missing(self, rejected: Collection[str]) -> list[str]:
        """Return the names, without patterns, that are not rejected files."""
        return [name for name in self.names if name not in rejected and not is_pattern(name)]

    def takes(self, file: RejectedFile) -> bool:
        """Tell whether it chooses a rejected file, whose time is that of its rejection."""
        named = not self.names or any(fnmatch.fnmatchcase(file.name, one) for one in self.names)
        texts = [file.reason, *(str(record["reason"]) for record in file.story.get("records", ()))]
        because = any(self.reason.casefold() in text.casefold() for text in texts)
        at = file.at_seconds
        return (
            named
            and because
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )
