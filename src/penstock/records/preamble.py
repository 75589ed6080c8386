"""Remove what stands before the JSON of a file, by a declared grammar.

    preamble = lines? pattern? (junk* opener)* junk*      then the JSON, then the openers' closers,
                                                          then the declared suffixes

    junk     byte order mark, white space, RS, comments, guards against cross-site inclusion
    opener   `window.x =` with an optional `;`, `callback(` with its `)`, `&&&START&&&` with its
             `&&&END&&&`, `/*-secure-` with its `*/`, and the declared literals with their suffixes

The JSON is everything after it, to the last byte. The code never searches for a first brace: in
`{}&&{"a":1}` it is not the document's, and after a cut-off header it may belong to any record.
"""

import re
from collections.abc import Sequence
from operator import methodcaller
from typing import Any, Final, cast

from penstock.errors import Halt, Reject
from penstock.records import headers
from penstock.records.json_errors import OBJECT_BEGINS, OTHER_ENCODINGS, is_json, quoted

PREAMBLE_BYTES_MAX: Final = 65_536
"""More is not a comment but a file of another kind. This also bounds the work per file."""

# An alternative never gives back what it matched, and no two begin alike: the time is linear.
# No group is possessive: CPython before 3.11.5, as in Debian 12, matches those wrongly (gh-106052).
_SPACE = rb"[ \t\r\n\f\v\x1e]++"
_BLOCK = rb"/\*(?!-secure-)[^*]*+(?:\*(?!/)[^*]*+)*\*/|<!--[^-]*+(?:-(?!->)[^-]*+)*-->"
_COMMENT = rb"(?://|\#|;|--|%(?!%%BREAK%%%))[^\r\n]*+"
_MEDIUM = b"])}while(1);</x>"
_GUARD = (
    rb"\)\]\}'?+,?+|while\s*+\((?:1|true)\)\s*+;|for\s*+\(;;\)\s*+;|%%%BREAK%%%"
    rb"|throw\s++1\s*+;(?:\s*+<[^>\r\n]*+>)?"
    rb"|\{\}\s*+&&(?!&(?!&&START&&&))"
    b"|" + re.escape(_MEDIUM)
)
_JUNK = b"%b|\xef\xbb\xbf|%b|%b|%b" % (_SPACE, _BLOCK, _COMMENT, _GUARD)
_NAME = rb"[A-Za-z_$][\w$]*+(?:\.[A-Za-z_$][\w$]*+|\[(?:\d++|\"[^\"\r\n]*+\"|'[^'\r\n]*+')\])*"
_VAR = b"(?:var|let|const)"
_OPENERS = (
    rb"(?P<start>&&&START&&&)",
    rb"(?P<secure>/\*-secure-)",
    rb"(?P<assignment>(?:%b\s++|(?!%b\s))%b\s*+=(?!=))" % (_VAR, _VAR, _NAME),
    rb"(?P<call>(?!(?:while|for|if|switch|catch|function)\b)%b\s*+\()" % _NAME,
)
# What closes each opener, and the characters that may follow that.
_BLANKS: Final = b" \t\r\n"
_CLOSERS: Final = {
    "start": (b"&&&END&&&", _BLANKS),
    "secure": (b"*/", _BLANKS),
    "assignment": (b"", _BLANKS + b";"),
    "call": (b")", _BLANKS + b";"),
}

# The rest of a file that ends inside one of the above: not wrong, only incomplete.
_PART = _NAME + rb"(?:\.|\[(?:\"[^\"\r\n]*+\"?|'[^'\r\n]*+'?|\d*+))?"
_UNFINISHED = re.compile(
    rb"""(?: /(?:\*.*+)? | <(?:!--.*+|[^>\r\n]*+) | - | \xef\xbb? | \)(?:\]\}?)?
    | (?:while|for)\s*+(?:\((?:[1;]{0,2}+|t|tr|tru|true)\)?\s*+)? | throw\s++1?\s*+
    | (?:var|let|const)\s++(?:%b)?\s*+ | %b\s*+ )\Z"""
    % (_PART, _PART),
    re.DOTALL | re.VERBOSE,
)
_SCALAR = re.compile(rb"(?:-?\d[\d.eE+-]*+|\"(?:[^\"\\]|\\.)*\"|true|false|null)\s*+\Z", re.DOTALL)
_OTHER_FILES = (
    *OTHER_ENCODINGS,
    (rb"\0(?s:.{4})[\[{]", "Confluent's Kafka format: a zero and a schema id come first"),
    (rb"\0", "NUL bytes: did its machine stop while writing it?"),
    (rb"\x1f\x8b", "compressed with gzip"),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (rb"\xfd7zXZ\0", "compressed with xz"),
    (rb"PK(?:\x03\x04|\x05\x06)", "a zip archive"),
    (rb"(?i:<(?:!doctype\s+)?html\b)", "HTML: was an error page saved in its place?"),
    (rb"<\?xml\b", "XML"),
)  # fmt: skip
_OTHER_FILE = re.compile(b"|".join(b"(%b)" % signature for signature, _ in _OTHER_FILES))
_BEGINS: Final = frozenset((b"[", b"{"))
_LINE_END = re.compile(rb"\r\n|\r|\n")
_CUT: Final = (b"&&&START&&&", _MEDIUM)


class Preamble:
    """The grammar of `docs/preamble.md`, with what the settings add to it.

    The first `lines` lines of every file are preamble. So is what `pattern`, a regular expression,
    matches once, at the start or after comments. No object may begin in either. `literals` are
    pairs of a prefix and the suffix that must then end the file ("" for none). A suffix without a
    prefix may end any file.

    Raises Halt if `pattern` is not a regular expression over bytes.
    """

    def __init__(
        self,
        *,
        lines: int = 0,
        pattern: str | None = None,
        literals: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._declared: dict[str, Any] = {"lines": lines, "pattern": pattern, "literals": literals}
        self._lines = lines
        self._pattern = bytes_pattern(pattern, "decode.preamble_pattern") if pattern else None
        self._closers = _CLOSERS | {
            f"literal_{number}": (suffix.encode().rstrip(), _BLANKS)
            for number, (_, suffix) in enumerate(literals)
        }
        self._footers = [suffix.encode().strip() for prefix, suffix in literals if not prefix]
        self._prefixes = [prefix.encode() for prefix, _ in literals if prefix]
        numbered = enumerate(prefix.encode() for prefix, _ in literals)
        prefixes = [b"(?P<literal_%d>%b)" % (n, re.escape(text)) for n, text in numbered if text]
        openers = b"|".join([*prefixes, *_OPENERS])
        # Try declared texts before known ones, because a declared text may begin like a comment.
        declared = b"(?!%b)" % b"|".join(map(re.escape, self._prefixes)) if prefixes else b""
        junk = b"(?:%b(?:%b))*" % (declared, _JUNK)
        self._head = re.compile(b"%b(?:%b)?%b" % (junk, openers, junk))
        self._plain = not (lines or pattern or literals)
        self._tried = False  # made only to test a proposed setting
        # The last preamble, and the brace or bracket after it; nothing comes before the first one.
        self._last: bytes | None = b"{" if self._plain else None

    def strip(self, data: bytes) -> bytes:
        """Return a file's JSON: its bytes without preamble and without what closes the preamble.

        Raises Reject if what follows the preamble is not the beginning of an array or an object.
        Its `truncated` is set if the bytes only end too early.
        """
        if self._plain and data[:1] in _BEGINS and data[1:2] != b"}":
            return data  # `{}` may be the guard `{}&&`
        last = self._last
        if last and data.startswith(last) and data[len(last) : len(last) + 1] != b"}":
            return data[len(last) - 1 :]
        start, end = self.span(data)
        return data[start:end]

    def strip_alike(self, files: Sequence[bytes]) -> list[bytes] | None:
        """Return what `strip` returns for each of many files; None if one may need a closer look.

        All begin as the last file did whose preamble was found, and an object follows.
        """
        last = self._last
        if last is None or last[-1:] != b"{":
            return None
        begin_alike = all(map(methodcaller("startswith", last), files))
        if not begin_alike or any(map(methodcaller("startswith", last + b"}"), files)):
            return None
        start = len(last) - 1
        return [data[start:] for data in files] if start else [*files]

    def span(self, data: bytes) -> tuple[int, int]:
        """Return where the JSON begins and ends in `data`. Raises Reject as `strip` does."""
        start, openers = self._openers(data)
        if start >= PREAMBLE_BYTES_MAX:
            raise _too_much()
        if start == len(data):
            reason = "the file holds only preamble, no JSON" if data else "the file is empty"
            raise Reject(reason, truncated=True)
        if data[start : start + 1] not in _BEGINS:
            raise self._unknown(data, start)
        if self._plain and not openers:
            # Without an opener, no rule looks past the byte after the brace: the same bytes before
            # another such document are the same preamble.
            self._last = data[: start + 1]
        end = len(data)
        for footer in self._footers:
            while data[end - 1] in _BLANKS:
                end -= 1
            end -= len(footer) if data.endswith(footer, start, end) else 0
        for opener in openers:
            end = self._closed(data, opener, start, end)
        return start, end

    def advice(self, data: bytes, start: int = 0) -> str:
        """Quote a possible header or footer of `data`, with the setting that removes it.

        The line at `start` is not JSON. Returns "" if no setting helps.
        """
        if self._lines and not start:
            return ""  # they are already removed
        for found in headers.proposals(data, start):
            if setting := self._setting(data, found.key, found.value):
                first = _LINE_END.split(found.text.encode(), maxsplit=1)[0]
                return f": {quoted(first)}; if this is your files' {found.what}, {setting}"
        return ""

    def _setting(self, data: bytes, key: str, value: str | headers.Literals) -> str:
        """Return how to add a proposal to the settings; "" if it does not make `data` readable."""
        if self._tried:
            return ""
        before, setting = self._declared[key], cast("Any", value)
        if before:
            setting = f"{before}|{value}" if key == "pattern" else [*before, *value]
        made = Preamble(**cast("dict[str, Any]", self._declared | {key: setting}))
        made._tried = True
        return f"set decode.preamble_{key} = {headers.toml(setting)}" if made.reads(data) else ""

    def reads(self, data: bytes) -> bool:
        """Tell whether a file is JSON to the last byte once this preamble is removed."""
        try:
            return is_json(self.strip(data))
        except Reject:
            return False

    def _openers(self, data: bytes) -> tuple[int, list[re.Match[bytes]]]:
        """Return where the preamble ends, and the openers in it, outermost first."""
        position = self._end_of_lines(data) if self._lines else 0
        pattern = self._pattern
        openers: list[re.Match[bytes]] = []
        while True:
            before = position
            found = pattern.match(data, position, PREAMBLE_BYTES_MAX) if pattern else None
            if found and found.end() > position:
                _check_taken(data, position, found.end(), "decode.preamble_pattern")
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
        _check_taken(data, 0, position, "decode.preamble_lines")
        return position

    def _closed(self, data: bytes, opener: re.Match[bytes], start: int, end: int) -> int:
        """Return where an opener's content ends. Raises Reject if its closer is not at `end`."""
        name = str(opener.lastgroup)
        closer, trailing = self._closers[name]
        while data[end - 1] in trailing:  # the JSON begins with none of these
            end -= 1
        if not data.endswith(closer, start, end):
            reason = f"the file does not end with the {quoted(closer)} that belongs to"
            alone = [(opener[name].decode("utf-8", "replace"), "")]
            setting = self._setting(data, "literals", alone) if name in _CLOSERS else ""
            without = setting and f"; if your files have none, {setting}"
            raise Reject(f"{reason} {quoted(opener[name])}{without}", truncated=True)
        return end - len(closer)

    def _unknown(self, data: bytes, start: int) -> Reject:
        """Return a reject for something else than JSON, with the setting that would accept it."""
        other = _OTHER_FILE.match(data, start) or _OTHER_FILE.match(data)
        if other:
            setting = self._setting(data, "pattern", r"\x00(?s:.{4})")
            kind = _OTHER_FILES[cast(int, other.lastindex) - 1][1]
            return Reject(f"the file is not JSON but {kind}{setting and '; '}{setting}")
        number = _line_ends(data, start) + 1
        rest = data[start : start + PREAMBLE_BYTES_MAX]
        cut = any(text.startswith(rest) for text in (*self._prefixes, *_CUT))
        if _SCALAR.match(data, start) and not cut:
            return Reject("the document is a single value, not an object or an array of objects")
        if cut or _UNFINISHED.match(data, start):
            if len(data) >= PREAMBLE_BYTES_MAX:
                return _too_much()
            return Reject(f"the file ends inside its preamble, on line {number}", truncated=True)
        line = _LINE_END.split(rest, maxsplit=1)[0]
        what = self.advice(data, start) or f": {quoted(line)}"
        return Reject(f"line {number} is neither JSON nor a comment Penstock knows{what}")


def _check_taken(data: bytes, start: int, end: int, setting: str) -> None:
    """Raise Reject if an object begins in what a setting removes: it may be a record."""
    found = OBJECT_BEGINS.search(data, start, end)
    if found:
        raise Reject(
            f"line {_line_ends(data, found.start()) + 1} holds JSON, which {setting} would remove"
            " as preamble; if it is not a record, declare it in decode.preamble_literals"
        )


def bytes_pattern(pattern: str, setting: str) -> re.Pattern[bytes]:
    """Compile a setting's regular expression over bytes. Raises Halt if it is not one."""
    try:
        return re.compile(pattern.encode())
    except re.error as error:  # \u00e9, for example, is right only for text
        raise Halt(
            f"{setting}: {pattern!r} is not allowed ({error});"
            " allowed: a regular expression over bytes"
        ) from None


def _line_ends(data: bytes, end: int) -> int:
    return len(_LINE_END.findall(data, 0, end))


def _too_much() -> Reject:
    return Reject("more than 64 KiB of preamble: is this a file of another kind?")
