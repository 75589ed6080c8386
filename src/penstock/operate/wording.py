"""Wording for people: counts with their nouns, and text that is safe on a terminal."""


def plural(count: int, one: str, many: str = "") -> str:
    """Return "1 file" or "2 files"; `many` is for plurals that do not just add an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def printable(text: str) -> str:
    """Return a text that is safe on a terminal: names and file contents may hold control codes."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
