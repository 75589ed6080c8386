"""The console's help page: what docs/monitoring.md says of each verdict."""

import html
import re
from pathlib import Path

# A wheel has it beside this module, a checkout in docs/.
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
    """Return the page; the server reads it at its start, like the console's own files."""
    text = next((place.read_text() for place in _PLACES if place.is_file()), "")
    parts = [
        f'<section id="{code}"><h2><code>{code}</code></h2><p>{_plain(wrong)}.</p>'
        f"<p>What to do: {_plain(remedy)}.</p></section>"
        for codes, wrong, remedy in _ROW.findall(text)
        for code in re.findall("`([^`]+)`", codes)
    ]
    return "\n".join([_HEAD, *parts, "</main></body></html>\n"]).encode()


def _plain(text: str) -> str:
    """Return a table cell in Markdown as HTML: code as code, links as their text."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
