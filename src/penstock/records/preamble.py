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

from penstock.errors import Halt, Reject

PREAMBLE_BYTES_MAX: Final = 65_536
"""More than this is no comment but a file of another kind; it also bounds the work per file."""

# Possessive throughout: what an alternative has taken it keeps, so the time is linear in the bytes.
_SPACE = rb"[ \t\r\n\f\v\x1e]++"
_BLOCK = rb"/\*[^*]*+(?:\*(?!/)[^*]*+)*+\*/|<!--[^-]*+(?:-(?!->)[^-]*+)*+-->"
_COMMENT = rb"(?://|\#|;|--|%)[^\r\n]*+"
_GUARD = (
    rb"\)\]\}',?+|while\s*+\(1\)\s*+;|for\s*+\(;;\)\s*+;|throw\s++1\s*+;(?:\s*+<[^>\r\n]*+>)?+"
    rb"|\{\}\s*+&&(?!&(?!&&START&&&))"
)
_JUNK = b"%b|\xef\xbb\xbf|%b|%b|%b" % (_SPACE, _BLOCK, _COMMENT, _GUARD)
_NAME = rb"[A-Za-z_$][\w$]*+(?:\.[A-Za-z_$][\w$]*+|\[(?:\d++|\"[^\"\r\n]*+\"|'[^'\r\n]*+')\])*+"
_OPENERS = (
    rb"(?P<start>&&&START&&&)",
    rb"(?P<assignment>(?:(?:var|let|const)\s++)?+%b\s*+=(?!=))" % _NAME,
    rb"(?P<call>(?!(?:while|for|if|switch|catch|function)\b)%b\s*+\()" % _NAME,
)
# What closes each, and what may stand behind that.
_BLANKS: Final = b" \t\r\n"
_CLOSERS: Final = {
    "start": (b"&&&END&&&", _BLANKS),
    "assignment": (b"", _BLANKS + b";"),
    "call": (b")", _BLANKS + b";"),
}

# The rest of a file that ended inside one of the above: not wrong, only not all there.
_PART = _NAME + rb"(?:\.|\[(?:\"[^\"\r\n]*+\"?|'[^'\r\n]*+'?|\d*+))?+"
_UNFINISHED = re.compile(
    rb"""(?: /(?:\*.*+)? | <(?:!--.*+|[^>\r\n]*+) | - | \xef\xbb? | \)(?:\]\}?)?
    | &{1,3} | &&&S(?:T(?:A(?:R(?:T&{0,2})?)?)?)?
    | (?:while|for)\s*+(?:\([1;]{0,2}+\)?\s*+)? | throw\s++1?\s*+
    | (?:var|let|const)\s++(?:%b)?+\s*+ | %b\s*+ )\Z"""
    % (_PART, _PART),
    re.DOTALL | re.VERBOSE,
)
_SCALAR = re.compile(rb"(?:-?\d[\d.eE+-]*+|\"(?:[^\"\\]|\\.)*+\"|true|false|null)\s*+\Z", re.DOTALL)
_OTHER_FILES = (
    (b"\xff\xfe", "UTF-16; Penstock reads UTF-8"),
    (b"\xfe\xff", "UTF-16; Penstock reads UTF-8"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x00", "NUL bytes: was it being written when its machine stopped?"),
)
_BEGINS: Final = frozenset((b"[", b"{"))
_LINE_END = re.compile(rb"\r\n|\r|\n")
_JSON_LINE = re.compile(rb"(?:^|(?<=\r))[ \t]*+[\[{]", re.MULTILINE)
_QUOTED_CHARACTERS_MAX: Final = 60


class Preamble:
    """The grammar of `docs/preamble.md`, with what the settings add to it.

    `lines` first lines of every file are preamble, whatever they hold. `pattern`, a regular
    expression, may match once, at the start or behind comments. `literals` are pairs of a prefix
    and the suffix that then must end the file ("" for none).

    Raises Halt if `pattern` is no regular expression over bytes.
    """

    def __init__(
        self,
        *,
        lines: int = 0,
        pattern: str | None = None,
        literals: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._lines = lines
        self._pattern = _compiled(pattern) if pattern else None
        self._closers = _CLOSERS | {
            f"literal_{number}": (suffix.encode().rstrip(), _BLANKS)
            for number, (_, suffix) in enumerate(literals)
        }
        self._prefixes = [prefix.encode() for prefix, _ in literals]
        prefixes = [re.escape(prefix) for prefix in self._prefixes]
        openers = b"|".join(
            [b"(?P<literal_%d>%b)" % pair for pair in enumerate(prefixes)] + [*_OPENERS]
        )
        # What is declared goes before what is known: a declared text may begin like a comment.
        declared = b"(?!%b)" % b"|".join(prefixes) if prefixes else b""
        junk = b"(?:%b(?:%b))*+" % (declared, _JUNK)
        self._head = re.compile(b"%b(?:%b)?+%b" % (junk, openers, junk))
        self._plain = not (lines or pattern or literals)
        self._last: bytes | None = None  # the last preamble, and the brace or bracket behind it

    def strip(self, data: bytes) -> bytes:
        """Return a file's JSON: its bytes without preamble and without what closes the preamble.

        Raises Reject if what follows the preamble does not begin an array or an object, with
        `truncated` where the bytes merely end too early.
        """
        if self._plain and data[:1] in _BEGINS and data[1:2] != b"}":
            return data  # `{}` may be the guard `{}&&`
        last = self._last
        if last and data.startswith(last) and data[len(last) : len(last) + 1] != b"}":
            return data[len(last) - 1 :]
        start, end = self.span(data)
        return data[start:end]

    def span(self, data: bytes) -> tuple[int, int]:
        """Return where the JSON begins and ends in `data`: the bytes before and after are not JSON.

        Raises Reject as `strip` does.
        """
        start, openers = self._openers(data)
        if start >= PREAMBLE_BYTES_MAX:
            raise _too_much()
        if start == len(data):
            reason = "the file holds only preamble, no JSON" if data else "the file is empty"
            raise Reject(reason, truncated=True)
        if data[start : start + 1] not in _BEGINS:
            raise self._unknown(data, start)
        if self._plain and not openers:
            # No rule without an opener looks further than the byte behind the brace: what stands
            # before another document like this is the same preamble again.
            self._last = data[: start + 1]
        end = len(data)
        for opener in openers:
            end = self._closed(data, opener, start, end)
        return start, end

    def _openers(self, data: bytes) -> tuple[int, list[re.Match[bytes]]]:
        """Return where the grammar ends, and the openers it went through, outermost first."""
        position = self._end_of_lines(data) if self._lines else 0
        pattern = self._pattern
        openers: list[re.Match[bytes]] = []
        while True:
            before = position
            found = pattern.match(data, position, PREAMBLE_BYTES_MAX) if pattern else None
            if found and found.end() > position:
                position, pattern = found.end(), None
            head = self._head.match(data, position, PREAMBLE_BYTES_MAX)
            if head:
                position = head.end()
                if head.lastgroup:
                    openers.append(head)
            if position == before or (self._plain and data[position : position + 1] in _BEGINS):
                return position, openers

    def _end_of_lines(self, data: bytes) -> int:
        position = 0
        for _ in range(self._lines):
            end = _LINE_END.search(data, position, PREAMBLE_BYTES_MAX)
            if end:
                position = end.end()
                continue
            if len(data) >= PREAMBLE_BYTES_MAX:
                raise _too_much()
            reason = f"the file ends in its first {self._lines} lines, decode.preamble_lines"
            raise Reject(reason, truncated=True)
        return position

    def _closed(self, data: bytes, opener: re.Match[bytes], start: int, end: int) -> int:
        """Return where what an opener closes around ends, given that the closing ends at `end`.

        Raises Reject if it is not closed there.
        """
        name = str(opener.lastgroup)
        closer, trailing = self._closers[name]
        while data[end - 1] in trailing:  # the JSON begins with none of these
            end -= 1
        if not data.endswith(closer, start, end):
            reason = f"the file does not end with the {_quoted(closer)} that belongs to"
            raise Reject(f"{reason} {_quoted(opener[name])}", truncated=True)
        return end - len(closer)

    def _unknown(self, data: bytes, start: int) -> Reject:
        """Say what stands where JSON should, and which setting would accept it."""
        for signature, kind in _OTHER_FILES:
            if data.startswith(signature, start):
                return Reject(f"the file is not JSON but {kind}")
        number = _line_ends(data, start) + 1
        cut = any(prefix.startswith(data[start:]) for prefix in self._prefixes)
        if cut or _UNFINISHED.match(data, start):
            if len(data) >= PREAMBLE_BYTES_MAX:
                return _too_much()
            return Reject(f"the file ends inside its preamble, on line {number}", truncated=True)
        if _SCALAR.match(data, start):
            return Reject("the document is a single value, not an object or an array of objects")
        line = _LINE_END.split(data[start:PREAMBLE_BYTES_MAX], maxsplit=1)[0]
        found = _JSON_LINE.search(data, start, PREAMBLE_BYTES_MAX)
        if not found and re.search(rb"[\[{]", line):
            setting = "declare it in decode.preamble_literals or decode.preamble_pattern"
        else:
            lines = _line_ends(data, found.start()) if found else number
            setting = f"set decode.preamble_lines = {lines}"
        return Reject(
            f"line {number} is neither JSON nor a comment Penstock knows: {_quoted(line)};"
            f" if this is your files' header, {setting}"
        )


def _compiled(pattern: str) -> re.Pattern[bytes]:
    try:
        return re.compile(pattern.encode())
    except re.error as error:  # what is right for text, such as \u00e9, may not be for bytes
        raise Halt(
            f"decode.preamble_pattern: {pattern!r} is not allowed ({error});"
            " allowed: a regular expression over bytes"
        ) from None


def _line_ends(data: bytes, end: int) -> int:
    """Return how many lines end before a place."""
    return len(_LINE_END.findall(data, 0, end))


def _too_much() -> Reject:
    return Reject("more than 64 KiB of preamble: is this a file of another kind?")


def _quoted(text: bytes) -> str:
    """Return the beginning of a text as a reason can show it."""
    shown = text.strip().decode("utf-8", "replace")
    shown = "".join(character if character.isprintable() else "\ufffd" for character in shown)
    cut = shown[:_QUOTED_CHARACTERS_MAX]
    return f'"{cut}…"' if cut != shown else f'"{cut}"'
