"""What stands before the JSON in a file and is not JSON: found by a declared grammar, taken off.

    preamble = lines? pattern? (junk* opener)* junk*      then the JSON, then the openers' closers

    junk     byte order mark, white space, RS, comments, guards against cross-site inclusion
    opener   `window.x =` with an optional `;`, `callback(` with its `)`, `&&&START&&&` with its
             `&&&END&&&`, and the declared literals with their suffixes

The JSON is whatever follows, to the last byte. Its beginning is never searched for: on
`{}&&{"a":1}` the first brace is not the document's, and behind a head that was cut off the first
brace may be that of any record.
"""

import re
from collections.abc import Sequence
from typing import Final

from penstock.errors import Reject

PREAMBLE_BYTES_MAX: Final = 65_536
"""More than this is no comment but a file of another kind; it also bounds the work per file."""

# Possessive throughout: what an alternative has taken it keeps, so the time is linear in the bytes.
_COMMENT = rb"(?://|\#|;|--|%)[^\r\n]*+"
_BLOCK = rb"/\*[^*]*+(?:\*(?!/)[^*]*+)*+\*/|<!--[^-]*+(?:-(?!->)[^-]*+)*+-->"
_GUARD = rb"\)\]\}',?+|while\s*+\(1\);|for\s*+\(;;\);|throw\s++1;(?:\s*+<[^>\r\n]*+>)?+|\{\}\s*+&&"
_JUNK = rb"(?:[ \t\r\n\x1e]++|\xef\xbb\xbf|" + _BLOCK + rb"|" + _COMMENT + rb"|" + _GUARD + rb")*+"
_NAME = rb"[A-Za-z_$][\w$]*+(?:\.[A-Za-z_$][\w$]*+|\[(?:\d++|\"[^\"\r\n]*+\"|'[^'\r\n]*+')\])*+"
_ASSIGNMENT = rb"(?:(?:var|let|const)\s++)?+" + _NAME + rb"\s*+=(?!=)"
_CALL = _NAME + rb"\s*+\("

_QUOTE_BYTES = 60

# The rest of a file that ended inside one of the above: not wrong, only not all there.
_UNFINISHED = re.compile(
    rb"(?:/(?:\*.*+)?|<(?:!-?|!--.*+)?|-|\xef\xbb?|\)(?:\]\}?)?|\{\}\s*+&?|&{1,3}[A-Z]*+&{0,2}"
    rb"|(?:var|let|const)\s++(?:" + _NAME + rb")?+\s*+|" + _NAME + rb"(?:\.|\s*+)"
    rb"|(?:while|for)\s*+\([1;]{0,2}\)?|throw\s++1?(?:;\s*+<[^>]*+)?)\Z",
    re.DOTALL,
)


class Preamble:
    """The grammar of `docs/preamble.md`, with what the settings add to it.

    `lines` first lines of every file are preamble, whatever they hold. `pattern`, a regular
    expression, may match once, at the start or behind comments. `literals` are pairs of a prefix
    and the suffix that then must end the file ("" for none).
    """

    def __init__(
        self,
        *,
        lines: int = 0,
        pattern: str | None = None,
        literals: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._lines = re.compile(rb"(?:[^\n]*+\n){%d}" % lines) if lines else None
        self._lines_count = lines
        self._pattern = re.compile(pattern.encode()) if pattern else None
        self._suffixes = [suffix.encode() for _, suffix in literals]
        openers = [
            *(
                b"(?P<literal_%d>%s)" % (number, re.escape(prefix.encode()))
                for number, (prefix, _) in enumerate(literals)
            ),
            rb"(?P<start>&&&START&&&)",
            b"(?P<assignment>%s)" % _ASSIGNMENT,
            b"(?P<call>%s)" % _CALL,
        ]
        self._head = re.compile(_JUNK + rb"(?:" + rb"|".join(openers) + rb")?+")
        self._plain = not (lines or pattern or literals)

    def strip(self, data: bytes) -> bytes:
        """Return a file's JSON: its bytes without preamble and without what closes the preamble.

        Raises Reject if what follows the preamble does not begin an array or an object, with
        `truncated` where the bytes merely end too early.
        """
        if self._plain and data[:1] in (b"[", b"{") and data[1:2] != b"}":
            return data
        start, end = self.span(data)
        return data[start:end]

    def span(self, data: bytes) -> tuple[int, int]:
        """Return where the JSON begins and ends in `data`: what is before and after is not JSON.

        Raises Reject as `strip` does.
        """
        position, openers = self._openers(data)
        if position >= len(data):
            reason = "the file is empty" if not data else "the file holds only preamble, no JSON"
            raise Reject(reason, truncated=True)
        if position >= PREAMBLE_BYTES_MAX:
            raise Reject("more than 64 KiB of preamble: is this a file of another kind?")
        if data[position : position + 1] not in (b"[", b"{"):
            raise _unknown(data, position)
        end = len(data)
        for opener in openers:
            end = self._close(data, opener, position, end)
        return position, end

    def _openers(self, data: bytes) -> tuple[int, list[str]]:
        """Return where the grammar ends, and the openers it went through."""
        position = 0
        if self._lines:
            lines = self._lines.match(data)
            if not lines:
                raise Reject(
                    f"the file has no more than the {self._lines_count} lines that"
                    " decode.preamble_lines declares preamble",
                    truncated=True,
                )
            position = lines.end()
        limit = position + PREAMBLE_BYTES_MAX
        pattern = self._pattern
        openers: list[str] = []
        while True:
            declared = pattern.match(data, position, limit) if pattern else None
            if declared:
                position, pattern = declared.end(), None
            head = self._head.match(data, position, limit)
            if head is None or head.end() == position:
                return position, openers
            position = head.end()
            if head.lastgroup:
                openers.append(head.lastgroup)

    def _close(self, data: bytes, opener: str, start: int, end: int) -> int:
        """Return where the JSON ends if `opener` is closed before `end`."""
        end = len(data[start:end].rstrip()) + start
        if opener in {"assignment", "call"} and data[end - 1 : end] == b";":
            end = len(data[start : end - 1].rstrip()) + start
        closer = b""
        if opener == "call":
            closer = b")"
        elif opener == "start":
            closer = b"&&&END&&&"
        elif opener.startswith("literal_"):
            closer = self._suffixes[int(opener.removeprefix("literal_"))].rstrip()
        if not data.endswith(closer, start, end):
            raise Reject(
                f"the file does not end with the {closer!r} its preamble needs", truncated=True
            )
        return end - len(closer)


def _unknown(data: bytes, position: int) -> Reject:
    """Say what stands where JSON should, and which setting would accept it."""
    rest = data[position:]
    line_number = data.count(b"\n", 0, position) + 1
    line = rest.split(b"\n", 1)[0].rstrip(b"\r")
    if _UNFINISHED.match(rest):
        return Reject(f"the file ends inside its preamble, on line {line_number}", truncated=True)
    text = line[:_QUOTE_BYTES].decode("utf-8", "replace") + "…" * (len(line) > _QUOTE_BYTES)
    return Reject(
        f'line {line_number} is neither JSON nor a comment Penstock knows: "{text}"; if this is'
        f" your files' header, set decode.preamble_lines = {line_number}"
    )
