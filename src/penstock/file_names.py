"""File names: which are safe to use, and the time stamp in a name."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby

REASON_SUFFIX = ".reason.json"
"""The suffix of a rejected file's name in the name of its reason."""

HOUR_FOLDER = "[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]/[0-9][0-9]"
HOUR_DIGITS = (4, 2, 2, 2)
"""YYYY/MM/DD/HH, the folders of the archive: a glob pattern, and the digits of each part."""

# 240 characters at most: NAME.reason.json must fit the 255 bytes that file systems allow.
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.:+,=@~ -]{0,239}"
_SAFE = re.compile(rf"{_PLAIN}(?<!\.tmp)(?<!{re.escape(REASON_SUFFIX)})", re.ASCII)
_ALL_SAFE = re.compile(rf"(?:{_PLAIN}/)*+", re.ASCII)

_EPOCH_DIGITS_UNITS = {10: 1, 13: 1_000, 16: 1_000_000, 19: 1_000_000_000}
_EPOCH = re.compile(r"(?<!\d)(\d{10}|\d{13}|\d{16}|\d{19})(?!\d)")
_DATE = re.compile(
    r"(?<!\d)(19[7-9]\d|2[01]\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])"
    r"(?:[T_ .-]?([01]\d|2[0-3]))?"
)

# What may follow the hour of a date: minute, second, fraction.
_CLOCK = re.compile(r"[-:_.]?([0-5]\d)(?:[-:_.]?([0-5]\d)(?:[.,_-]?(\d{1,9}))?)?(?!\d)")


def is_safe(name: str) -> bool:
    """Tell whether a file may have this name. Check every name, wherever it comes from."""
    return _SAFE.fullmatch(name) is not None


def rule_broken(name: str) -> str:
    """Say why a name cannot be a file's; empty if it can."""
    if is_safe(name):
        return ""
    odd = [one for one in name if not re.fullmatch("[A-Za-z0-9_.:+,=@~ -]", one)]
    if odd:
        return f"its name contains {odd[0]!r}; allowed are A-Z a-z 0-9 _ . : + , = @ ~ - and space"
    if not re.match("[A-Za-z0-9_]", name):
        return f"its name begins with {name[:1]!r}; allowed are a letter, a digit and _"
    if name.endswith((".tmp", REASON_SUFFIX)):
        return f"its name ends in .tmp or {REASON_SUFFIX}, which are reserved"
    return f"its name has {len(name)} characters; the maximum is 240"


def are_safe(names: Sequence[str]) -> bool:
    """Tell whether all names are safe, many at once."""
    joined = "/".join(names) + "/"
    plain = _ALL_SAFE.fullmatch(joined) is not None and joined.count("/") == len(names)
    return plain and ".tmp/" not in joined and f"{REASON_SUFFIX}/" not in joined


def is_draft(name: str) -> bool:
    """Tell whether an entry is a writer's draft: hidden, or `*.tmp`."""
    return name.startswith(".") or name.endswith(".tmp")


def hour_of(name: str) -> str | None:
    """Return `YYYY/MM/DD/HH`, a file's archive folder, from the time stamp in its name, or None.

    A time stamp is a date, or seconds, milli-, micro- or nanoseconds since 1970, in UTC.
    """
    if match := _DATE.search(name):
        year, month, day, hour = match.groups()
        return f"{year}/{month}/{day}/{hour or '00'}"
    if match := _EPOCH.search(name):
        return hour_of_time(int(match[1]) / _EPOCH_DIGITS_UNITS[len(match[1])])
    return None


def by_hour(names: Sequence[str]) -> Iterator[tuple[str | None, Sequence[str]]]:
    """Yield runs of names with their `hour_of`."""
    for hour, run in groupby(names, hour_of):
        yield hour, [*run]


def time_of(name: str) -> float | None:
    """Return the time stamp in a name, in seconds since 1970; midnight without an hour.

    None if the name has none, or there is no such day.
    """
    if match := _DATE.search(name):
        rest = _CLOCK.match(name, match.end()) if match[4] else None
        minute, second, fraction = rest.groups() if rest else (None, None, None)
        year, month, day, hour = (int(part or 0) for part in match.groups())
        try:
            at = datetime(year, month, day, hour, int(minute or 0), int(second or 0), tzinfo=UTC)
        except ValueError:
            return None
        return at.timestamp() + float(f"0.{fraction or 0}")
    if match := _EPOCH.search(name):
        return int(match[1]) / _EPOCH_DIGITS_UNITS[len(match[1])]
    return None


def beginning_of_second(name: str) -> str:
    """Return a prefix of a name; all names with it have the same whole second of `time_of`.

    It ends after the second, with a character that is not a digit, because more digits could be
    read differently. Empty if there is no such prefix.
    """
    match = _DATE.search(name)
    clock = _CLOCK.match(name, match.end()) if match and match[4] else None
    end = clock.end(2) if clock else -1
    behind = name[end : end + 1] if end > 0 else ""
    return name[: end + 1] if behind and not behind.isdecimal() else ""


def hour_of_time(seconds: float) -> str:
    """Return `YYYY/MM/DD/HH` in UTC of a time in seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y/%m/%d/%H")
