"""From JSON bytes to records: one parser, and every element is sent, filtered or rejected by name.

    [{…}, {…}]          each element a record
    {…}                 one record
    {…} {…} {…}         each a record: objects one after another, one a line or not
    {"statuses": […]}   with records = "statuses", each element of that array a record

The parser, msgspec, is strict to the last byte: NaN, trailing commas, lone surrogates, control
characters in strings are errors. It takes numbers it does not have to understand as they are. Of a
key given twice the last one counts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, cast

import msgspec
from pydantic import Field, TypeAdapter, ValidationError

from penstock.errors import Reject
from penstock.model import Document, RecordReject
from penstock.records import expression
from penstock.records.expression import EVALUATION_ERRORS, Expression, failure
from penstock.records.json_errors import place, reject, type_name

# Python's own check makes the text, up to four bytes a character. pydantic's does not and is two to
# ten times faster, but has to raise an error to say so: it pays on more than this.
_UTF8_BYTES_SMALL: Final = 16_384
_one_character: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(max_length=1)])

_raw = msgspec.json.Decoder(msgspec.Raw)
_raw_array = msgspec.json.Decoder(list[msgspec.Raw])
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Decoder:
    """Decodes the records of a file to `record_type`.

    `record_type` is a msgspec struct of the fields that are wanted, or `msgspec.Raw`. `records` is
    a JMESPath expression that says where the records are in a document that is an envelope; of
    several documents in a file, each is one.

    Raises Halt if `records` is no expression.
    """

    def __init__(self, record_type: type, *, records: str | None = None) -> None:
        self._raw_wanted = record_type is msgspec.Raw
        self._record: msgspec.json.Decoder[object] = msgspec.json.Decoder(record_type)
        self._records = Expression(records) if records else None
        self._path = _path(self._records.tree) if self._records else None
        self._all = self._decoder(record_type)

    def decode(self, json: bytes) -> Document:
        """Return the records of a file's JSON bytes.

        Raises Reject if they are not UTF-8, not JSON to the last byte, or hold no records, with
        `truncated` where they merely end too early.
        """
        _check_utf8(json)
        try:
            return self._decoded(json)
        except RecursionError:
            raise Reject("the JSON is nested deeper than the parser goes") from None
        except msgspec.DecodeError as error:
            raise reject(json, error) from None

    def decode_ones(self, texts: Sequence[bytes]) -> Sequence[object] | None:
        """Return the records of files that hold one each, all decoded at once; None if unsure.

        Each of `texts` begins with `{` and ends with `}`; `decode` tells what it is if this does
        not. None can run over into the next: behind the line end that is put between two, no string
        is open (none holds a line end), and behind a `}` an object that is still open goes on with
        a comma or another brace, never with `{`. So there is at least one whole record in each, and
        where there are as many records as texts, one.
        """
        if self._records:
            return None
        lines = b"\n".join(texts)
        try:
            _check_utf8(lines)
            records = (_raw if self._raw_wanted else self._record).decode_lines(lines)
        except (Reject, RecursionError, msgspec.DecodeError):
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

    def _decoder(self, record_type: type) -> Callable[[bytes], Sequence[object]] | None:
        """Return what decodes all records of a file at once, if something can.

        It raises ValidationError if one of them is not what is expected.
        """
        if self._records:
            fits = self._path and not self._raw_wanted  # Raw would take any value for a record
            return _envelope(self._path or (), record_type) if fits else None
        if self._raw_wanted:
            return _objects
        array: msgspec.json.Decoder[list[object]] = msgspec.json.Decoder(list[record_type])
        of_array, of_lines = array.decode, self._record.decode_lines
        return lambda json: of_array(json) if json[:1] == b"[" else of_lines(json)

    def _elements(self, documents: Sequence[msgspec.Raw]) -> Sequence[msgspec.Raw]:
        """Return what should be records, each as its bytes."""
        if self._records is None:
            if len(documents) == 1 and bytes(documents[0])[:1] == b"[":
                return _raw_array.decode(documents[0])
            return documents
        return [element for document in documents for element in self._enveloped(document)]

    def _enveloped(self, document: msgspec.Raw) -> Sequence[msgspec.Raw]:
        records = cast(Expression, self._records)
        try:
            found = (
                _step(document, self._path)
                if self._path
                else expression.write(records.search(expression.read(bytes(document))))
            )
        except EVALUATION_ERRORS as error:
            raise Reject(f"decode.records = {records.text!r} fails: {failure(error)}") from None
        if found[:1] == b"[":
            return _raw_array.decode(found)
        if found[:1] == b"{":
            return [msgspec.Raw(found)]
        raise Reject(f"decode.records = {records.text!r} finds no records but {type_name(found)}")

    def _one_by_one(self, elements: Sequence[msgspec.Raw]) -> Document:
        """Decode each record alone, because not all of them are what the selection expects."""
        records: list[object] = []
        indexes: list[int] = []
        rejects: list[RecordReject] = []
        for index, element in enumerate(elements):
            text = bytes(element)
            if text[:1] != b"{":
                rejects.append(RecordReject(index, f"a record is an object, not {type_name(text)}"))
                continue
            try:
                record = element if self._raw_wanted else self._record.decode(element)
            except msgspec.ValidationError:
                record = element
            records.append(record)
            indexes.append(index)
        all_fit = self._raw_wanted and not rejects
        return Document(records, None if all_fit else indexes, rejects)


def _objects(json: bytes) -> Sequence[object]:
    """Return the bytes of all records. Raises ValidationError if one is no object."""
    found = _raw_array.decode(json) if json[:1] == b"[" else _raw.decode_lines(json)
    if all(bytes(raw)[:1] == b"{" for raw in found):
        return found
    raise msgspec.ValidationError


def _documents(json: bytes) -> Sequence[msgspec.Raw]:
    """Return the values of a file: one, or objects one after another."""
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
    """Return the keys of an expression that is a path of fields; None if it is another."""
    if tree["type"] == "field":
        return [tree["value"]]
    if tree["type"] != "subexpression" or any(node["type"] != "field" for node in tree["children"]):
        return None
    return [node["value"] for node in tree["children"]]


def _step(document: msgspec.Raw, path: Sequence[str]) -> bytes:
    """Follow a path of fields; JMESPath's null where it ends."""
    for key in path:
        if bytes(document)[:1] != b"{":
            return b"null"
        document = _raw_members.decode(document).get(key, msgspec.Raw(b"null"))
    return bytes(document)


def _envelope(path: Sequence[str], record_type: type) -> Callable[[bytes], Sequence[object]] | None:
    """Return what decodes the records of envelopes in one pass; None if a key is beyond msgspec."""
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


def _check_utf8(json: bytes) -> None:
    """Raise Reject unless all of `json` is UTF-8: the parser does not look at what it skips."""
    if json.isascii() or (len(json) > _UTF8_BYTES_SMALL and _is_long_text(json)):
        return
    try:
        json.decode()
    except UnicodeDecodeError as error:
        raise Reject(
            f"the JSON is not UTF-8: {error.reason}, {place(json, error.start)}",
            truncated=error.reason == "unexpected end of data",
        ) from None


def _is_long_text(json: bytes) -> bool:
    """Tell whether `json` is UTF-8 of more than one character; False also if that is not sure."""
    try:
        _one_character.validate_python(json)
    except ValidationError as error:
        # What it counted the characters of is text.
        return error.errors(include_input=False, include_url=False)[0]["type"] == "string_too_long"
    return False
