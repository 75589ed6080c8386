"""Decode JSON bytes to records with one parser. Each element is sent, filtered, or rejected alone.

    [{…}, {…}]          each element is a record
    {…}                 one record
    {…} {…} {…}         each is a record: objects one after another, one a line or not
    {"statuses": […]}   with records = "statuses", each element of that array is a record

Among objects one a line, a line that is not JSON is rejected alone, or skipped if it is declared as
a comment and no object begins in it. The other lines are sent. This is safe: if the line were part
of a record of several lines, a neighbouring line would look like neither a record nor prose.

The parser, msgspec, is strict to the last byte: NaN, trailing commas, lone surrogates and control
characters in strings are errors. Numbers that it need not understand are copied. If a key is given
twice, the last one counts.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final

import msgspec
from pydantic import Field, TypeAdapter, ValidationError

from penstock.errors import Reject
from penstock.model import Document, RecordReject
from penstock.records import json_errors
from penstock.records.compile import Find, compiled
from penstock.records.expression import EVALUATION_ERRORS, failure, parsed
from penstock.records.headers import toml
from penstock.records.json_errors import OBJECT_BEGINS, UNREADABLE, is_prose, reject, type_name
from penstock.records.preamble import bytes_pattern

# Python's own check makes a str, up to four bytes a character. pydantic's does not, and is two to
# ten times faster. But it reports success by raising an error: that pays on more than this.
_UTF8_BYTES_SMALL: Final = 16_384
_one_character: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(max_length=1)])

_BOM: Final = b"\xef\xbb\xbf"
_BLANKS: Final = b" \t\r"
_LINE: Final = re.compile(rb"[^\n]++")
_COMMENT: Final = re.compile(rb"//|#|;|--|%")
_NOT_SKIPPED: Final = (
    "an object begins %s, so decode.skip_lines does not skip the line;"
    " if it is a record, correct the line; if not, remove it"
)
_LINES_TOLD_MAX: Final = 100  # with place and cause; more would fill the memory

_raw = msgspec.json.Decoder(msgspec.Raw)
_raw_array = msgspec.json.Decoder(list[msgspec.Raw])

_Element = msgspec.Raw | str | None
"""A possible record; or why it is not one; or None for a skipped line, which keeps its index."""


class Decoder:
    """Decodes the records of a file to `record_type`.

    `record_type` is a msgspec struct of the wanted fields, or `msgspec.Raw`. `records` is a
    JMESPath expression for the place of the records in an envelope; each document of a file is an
    envelope. A line between records that `skip`, a regular expression, matches whole is not a
    record, unless an object begins in it. `advise` returns which setting would make a malformed
    file readable: a header that begins with a bracket may be the cause.

    Raises Halt if `records` is not an expression, or `skip` not one over bytes.
    """

    def __init__(
        self,
        record_type: type,
        *,
        records: str | None = None,
        skip: str | None = None,
        advise: Callable[[bytes], str] = lambda _: "",
    ) -> None:
        self._raw_wanted = record_type is msgspec.Raw
        self._record: msgspec.json.Decoder[object] = msgspec.json.Decoder(record_type)
        tree = parsed(records) if records else None
        self._records = records
        self._find = compiled(tree, None, whole=True).run if tree else None
        self._all = self._decoder(record_type, tree)
        self._skip = bytes_pattern(skip, "decode.skip_lines") if skip else None
        self._advise = advise

    def decode(self, json: bytes) -> Document:
        """Return the records of a file's JSON bytes.

        Raises Reject if they are not UTF-8, are not JSON to the last byte, or hold no records. Its
        `truncated` is set if they only end too early.
        """
        try:
            _check_utf8(json)
            return self._decoded(json)
        except UNREADABLE as error:
            wrong = reject(json, error)
        if not wrong.truncated:
            elements = self._lines(json)
            if elements:
                return self._one_by_one(elements)
            wrong = Reject(wrong.reason + self._advise(json))
        raise wrong

    def decode_ones(self, texts: Sequence[bytes]) -> Sequence[object] | None:
        """Return the records of files that hold one each, all decoded at once; None if unsure.

        Each of `texts` begins with `{` and ends with `}`; if this returns None, `decode` tells what
        it is. No record can run over into the next text. After the line end between two texts no
        string is open, because no string holds a line end. An object still open after a `}` goes on
        with a comma or another brace, never with `{`. So each text holds at least one whole record;
        if there are as many records as texts, exactly one.
        """
        if self._records:
            return None
        lines = b"\n".join(texts)
        try:
            _check_utf8(lines)
            records = (_raw if self._raw_wanted else self._record).decode_lines(lines)
        except UNREADABLE:
            return None
        return records if len(records) == len(texts) else None

    def _decoded(self, json: bytes) -> Document:
        try:
            if self._all:
                try:
                    return Document(self._all(json))
                except msgspec.ValidationError:
                    pass
            return self._one_by_one(self._elements(_documents(json)))
        except msgspec.DecodeError:
            if b"\x1e" not in json:
                raise
        return self._one_by_one(self._elements(_sequence(json)))

    def _decoder(
        self, record_type: type, tree: Mapping[str, Any] | None
    ) -> Callable[[bytes], Sequence[object]] | None:
        """Return a decoder of all records at once, or None; odd ones raise ValidationError."""
        if tree:
            path = None if self._raw_wanted else _path(tree)  # Raw accepts anything as a record
            return _envelope(path, record_type) if path else None
        if self._raw_wanted:
            return _objects
        array: msgspec.json.Decoder[list[object]] = msgspec.json.Decoder(list[record_type])
        of_array, of_lines = array.decode, self._record.decode_lines
        return lambda json: of_array(json) if json[:1] == b"[" else of_lines(json)

    def _elements(self, documents: Sequence[msgspec.Raw]) -> Sequence[msgspec.Raw]:
        if (find := self._find) is None:
            if len(documents) == 1 and bytes(documents[0])[:1] == b"[":
                return _raw_array.decode(documents[0])
            return documents
        return [element for document in documents for element in self._enveloped(document, find)]

    def _enveloped(self, document: msgspec.Raw, find: Find) -> Sequence[msgspec.Raw]:
        try:
            (found,), _ = find([document], [0])
        except EVALUATION_ERRORS as error:
            raise Reject(f"decode.records = {self._records!r} fails: {failure(error)}") from None
        if found[:1] == b"[":
            return _raw_array.decode(found)
        if found[:1] == b"{":
            return [msgspec.Raw(found)]
        raise Reject(f"decode.records = {self._records!r} finds {type_name(found)}, not records")

    def _lines(self, json: bytes) -> Sequence[_Element]:
        """Return the elements if some lines are not JSON; [] if line by line is not safe.

        Raises Reject if the last line ends too early.
        """
        elements: list[_Element] = []
        if json[:1] != b"{" or b"\x1e" in json:
            return elements
        bad = 0
        for start, end in _line_places(json):
            line = json[start:end]
            try:
                _check_utf8(line)
                documents = _raw.decode_lines(line)
            except UNREADABLE as error:
                element = self._bad_line(json, start, end, error, told=bad < _LINES_TOLD_MAX)
                if element == "" or not (elements or OBJECT_BEGINS.match(line)):
                    return []
                bad += element is not None
                elements.append(element)
                continue
            if b'"' not in line:
                return []  # such as `{}` or `7`: it may stand in a string of several lines
            elements += self._elements(documents) if self._records else documents
        return elements if any(isinstance(element, msgspec.Raw) for element in elements) else []

    def _bad_line(
        self, json: bytes, start: int, end: int, error: Exception, *, told: bool
    ) -> str | None:
        """Return why a bad line is rejected alone: "" if that is not safe, None if it is skipped.

        Raises Reject if it is the last one and ends too early.
        """
        line = json[start:end]
        if self._skip and self._skip.fullmatch(line) and not OBJECT_BEGINS.match(line):
            begun = OBJECT_BEGINS.search(line)
            if not begun:
                return None
            place = json_errors.place(json, start + begun.start()) if told else ""
            return _NOT_SKIPPED % (f"at {place}" if told else "in the line")
        reason = "the line is not JSON"
        if told or end == len(json):
            wrong = reject(json, error, start, end)
            if wrong.truncated:
                raise wrong
            reason = wrong.reason
        if OBJECT_BEGINS.match(line) and line.endswith(b"}"):
            return reason
        comment = _COMMENT.match(line)
        if comment:
            skip = f"{self._skip.pattern.decode()}|" if self._skip else ""
            skip = toml(f"{skip}{comment[0].decode()}.*")
            reason += f"; if it is a comment, set decode.skip_lines = {skip}"
        return reason if is_prose(line) else ""

    def _one_by_one(self, elements: Iterable[_Element]) -> Document:
        """Decode each record alone, because some are not what the selection expects."""
        records: list[object] = []
        indexes: list[int] = []
        rejects: list[RecordReject] = []
        for index, element in enumerate(elements):
            if element is None:
                continue
            text = bytes(element) if isinstance(element, msgspec.Raw) else b""
            if text[:1] != b"{":
                RecordReject.note(rejects, index, _no_object(text[:1]) if text else str(element))
                continue
            try:
                record = element if self._raw_wanted else self._record.decode(element)
            except msgspec.ValidationError:
                record = element
            records.append(record)
            indexes.append(index)
        in_place = not indexes or indexes[-1] == len(indexes) - 1  # no skipped line before one
        all_fit = self._raw_wanted and not rejects and in_place
        return Document(records, None if all_fit else indexes, rejects)


@cache  # one string for a million such records
def _no_object(begin: bytes) -> str:
    return f"a record is an object, not {type_name(begin)}"


def _objects(json: bytes) -> Sequence[object]:
    """Return the bytes of all records. Raises ValidationError if one is not an object."""
    found = _raw_array.decode(json) if json[:1] == b"[" else _raw.decode_lines(json)
    if all(bytes(raw)[:1] == b"{" for raw in found):
        return found
    raise msgspec.ValidationError


def _documents(json: bytes) -> Sequence[msgspec.Raw]:
    if json.lstrip()[:1] == b"{":
        return _raw.decode_lines(json)
    return [_raw.decode(json)]


def _sequence(json: bytes) -> Sequence[msgspec.Raw]:
    """Return the values of a file with a record separator before each (RFC 7464)."""
    found: list[msgspec.Raw] = []
    offset = 0
    for text in json.split(b"\x1e"):
        try:
            found.extend(_raw.decode_lines(text))
        except msgspec.DecodeError as error:
            raise reject(json, error, offset, offset + len(text)) from None
        offset += len(text) + 1
    return found


def _path(tree: Mapping[str, Any]) -> list[str] | None:
    """Return the keys of an expression that is only a path of fields, else None."""
    if tree["type"] == "field":
        return [tree["value"]]
    if tree["type"] != "subexpression" or any(node["type"] != "field" for node in tree["children"]):
        return None
    return [node["value"] for node in tree["children"]]


def _envelope(path: Sequence[str], record_type: type) -> Callable[[bytes], Sequence[object]] | None:
    """Return a decoder of all records in envelopes; None if msgspec cannot name one of the keys."""
    inner: Any = list[record_type]
    try:
        for key in reversed(path):
            inner = msgspec.defstruct("Envelope", [("inner", inner)], rename={"inner": key})
    except ValueError:
        return None
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(inner)

    def decode(json: bytes) -> Sequence[object]:
        records: list[object] = []
        for envelope in decoder.decode_lines(json):
            found = envelope
            for _ in path:
                found = found.inner
            records.extend(found)
        return records

    return decode


def _line_places(json: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each line that is not blank, without the blanks around it."""
    for found in _LINE.finditer(json):
        line = found[0].rstrip(_BLANKS)
        text = line.lstrip(_BLANKS).removeprefix(_BOM)
        if text:
            yield found.start() + len(line) - len(text), found.start() + len(line)


def _check_utf8(json: bytes) -> None:
    """Raise an error unless all of `json` is UTF-8: the parser does not check what it skips."""
    if not json.isascii() and (len(json) <= _UTF8_BYTES_SMALL or not _is_long_text(json)):
        json.decode()


def _is_long_text(json: bytes) -> bool:
    """Tell whether `json` is UTF-8 of several characters; False also if that is unsure."""
    try:
        _one_character.validate_python(json)
    except ValidationError as error:
        # If it could count the characters, they are UTF-8.
        return error.errors(include_input=False, include_url=False)[0]["type"] == "string_too_long"
    return False
