"""Words for people: how many of what, and what a terminal can show."""


def plural(count: int, one: str, many: str = "") -> str:
    """Return "1 file" or "2 files"; `many` where more of them are not `one` and an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def printable(text: str) -> str:
    """Return a text that a terminal can show: what is in files and names may steer it."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
