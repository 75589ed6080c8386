"""Words for people: how many of what."""


def plural(count: int, one: str, many: str = "") -> str:
    """Return "1 file" or "2 files"; `many` where more of them are not `one` and an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
