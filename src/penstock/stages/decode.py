"""From JSON bytes to records: one parser, and every record is sent, filtered or rejected by name.

[{…}, {…}]      each element a record
{…}             one record
{…} {…} {…}     each a record: objects one after another, one a line or not
{"statuses": […]}   with records = "statuses", each element of that array a record
"""

import re
from collections.abc import Sequence
from typing import Any, Final, cast

import jmespath
import msgspec

from penstock.errors import Reject
from penstock.model import Document, RecordReject

_NONCHARACTERS: Final = ((b"\xef\xbf\xbe", b"\\ufffe"), (b"\xef\xbf\xbf", b"\\uffff"))
"""What SQS refuses and JSON can hold only in strings, where it may be escaped."""


class Decoder:
    """Decodes the records of a file to `record_type`.

    `record_type` is a msgspec struct of the fields that are wanted, or `msgspec.Raw`. `records` is
    a JMESPath expression that says where the records are in a document that is an envelope.
    """

    def __init__(self, record_type: type, *, records: str | None = None) -> None:
        self._array = msgspec.json.Decoder(list[record_type])
        self._record = msgspec.json.Decoder(record_type)
        self._raw_array = msgspec.json.Decoder(list[msgspec.Raw])
        self._raw = msgspec.json.Decoder(msgspec.Raw)
        self._any = msgspec.json.Decoder()
        self._records = jmespath.compile(records) if records else None

    def decode(self, json: bytes) -> Document:
        """Return the records of a file's JSON bytes.

        Raises Reject if they are not UTF-8 or not JSON, to the last byte, with `truncated` where
        they merely end too early.
        """
        _check_utf8(json)
        document = self._document(json)
        if json.isascii() or not any(raw in json for raw, _ in _NONCHARACTERS):
            return document
        # Only after the parser has accepted the bytes as they are.
        for raw, escaped in _NONCHARACTERS:
            json = json.replace(raw, escaped)
        return self._document(json)

    def _document(self, json: bytes) -> Document:
        try:
            if self._records is not None:
                return self._enveloped(json)
            lines = json.lstrip()[:1] == b"{"
            if self._record.type is not msgspec.Raw:  # Raw would take any value for a record
                try:
                    decode = self._record.decode_lines if lines else self._array.decode
                    return Document(cast("list[object]", decode(json)))
                except msgspec.ValidationError:
                    pass
            return self._one_by_one(
                self._raw.decode_lines(json) if lines else self._raw_array.decode(json)
            )
        except RecursionError:
            raise Reject("the JSON is nested deeper than the parser's bound") from None
        except msgspec.DecodeError as error:
            raise _reject(json, error) from None

    def _enveloped(self, json: bytes) -> Document:
        if self._records is None:
            return Document([])
        found = self._records.search(self._any.decode(json))
        elements = cast("list[object]", found) if isinstance(found, list) else [found]
        return self._one_by_one([msgspec.Raw(msgspec.json.encode(element)) for element in elements])

    def _one_by_one(self, elements: Sequence[msgspec.Raw]) -> Document:
        """Decode each record alone, because not all of them are what the selection expects."""
        records: list[Any] = []
        indexes: list[int] = []
        rejects: list[RecordReject] = []
        for index, element in enumerate(elements):
            if bytes(element)[:1] != b"{":
                rejects.append(RecordReject(index, "a record is a JSON object, this is none"))
                continue
            try:
                records.append(self._record.decode(element))
            except msgspec.ValidationError:
                records.append(element)
            indexes.append(index)
        return Document(records, indexes, rejects)


def _check_utf8(json: bytes) -> None:
    """Raise Reject unless all of `json` is UTF-8: the parser does not look at what it skips."""
    if json.isascii():
        return
    try:
        json.decode()
    except UnicodeDecodeError as error:
        raise Reject(
            f"the JSON is not UTF-8: {error.reason} at byte {error.start}",
            truncated=error.reason == "unexpected end of data",
        ) from None


_LONE_SURROGATE = re.compile(
    rb"\\u(?:[dD][89aAbB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u)[dD][c-fC-F])"
)


def _reject(json: bytes, error: msgspec.DecodeError) -> Reject:
    text = str(error)
    if text == "Input data was truncated":
        if lone := _LONE_SURROGATE.search(json):
            return Reject(f"lone surrogate at byte {lone.start()} of the JSON")
        return Reject("the JSON ends too early", truncated=True)
    return Reject(text.removeprefix("JSON is malformed: "))
