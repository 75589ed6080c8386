"""What docs/monitoring.md says of each verdict, as a page that the console links to."""

import html
import re
from pathlib import Path

# In a wheel it lies beside this module, in a checkout where it is written.
_PLACES = (
    Path(__file__).parent / "monitoring.md",
    Path(__file__).parents[3] / "docs/monitoring.md",
)
_ROW = re.compile(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| (.+) \| (.+) \|$", re.MULTILINE)
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Penstock: verdicts</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/console.css"></head>
<body><header><h1>Verdicts</h1><p><a href="/">Back to the console</a></p></header><main>
"""


def page() -> bytes:
    """Return the page; it is read when the server starts, as the console's own files are."""
    text = next((place.read_text() for place in _PLACES if place.is_file()), "")
    parts = [
        f'<section id="{code}"><h2><code>{code}</code></h2><p>{_plain(wrong)}.</p>'
        f"<p>What to do: {_plain(remedy)}.</p></section>"
        for codes, wrong, remedy in _ROW.findall(text)
        for code in re.findall("`([^`]+)`", codes)
    ]
    return "\n".join([_HEAD, *parts, "</main></body></html>\n"]).encode()


def _plain(text: str) -> str:
    """Return a cell of a table in Markdown as HTML: code as it is, links as their text."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
