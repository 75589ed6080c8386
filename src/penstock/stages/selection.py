"""The part of a record that is sent, and which records are sent at all, as JMESPath says."""

from typing import cast

import jmespath
import msgspec
from jmespath import exceptions

from penstock.errors import Halt
from penstock.model import Document, RecordReject, Selected

_NONCHARACTERS = ((b"\xef\xbf\xbe", b"\\ufffe"), (b"\xef\xbf\xbf", b"\\uffff"))


def check_expression(text: str) -> str | None:
    """Say in one line what is wrong with a JMESPath expression; None if nothing is."""
    try:
        jmespath.compile(text)
    except exceptions.JMESPathError as error:
        return " ".join(str(error).split())
    return None


class Selection:
    """`select` is sent of each record for which `where` is true.

    `record_type` is what a record is to be decoded into. Raises Halt if an expression is wrong.
    """

    def __init__(self, select: str, where: str | None = None) -> None:
        for expression in filter(None, (select, where)):
            if error := check_expression(expression):
                raise Halt(f"{expression!r} is not a JMESPath expression: {error}")
        self.record_type: type = msgspec.Raw
        self._select = None if select.strip() == "@" else jmespath.compile(select)
        self._where = jmespath.compile(where) if where else None

    def select(self, document: Document) -> Selected:
        """Return the encoded selections of a document's records, in their order."""
        indexes = document.indexes or range(len(document.records))
        records: list[bytes] = []
        kept: list[int] = []
        rejects = list(document.rejects)
        filtered = 0
        for index, record in zip(indexes, document.records, strict=True):
            try:
                selected = self._one(record)
            except (exceptions.JMESPathError, msgspec.ValidationError) as error:
                rejects.append(RecordReject(index, f"the selection fails: {error}"))
                continue
            if selected is None:
                filtered += 1
            else:
                records.append(selected)
                kept.append(index)
        return Selected(records, kept, filtered, sorted(rejects))

    def _one(self, record: object) -> bytes | None:
        if self._select is None and self._where is None:
            return bytes(cast(msgspec.Raw, record))
        value = msgspec.json.decode(cast(msgspec.Raw, record))
        if self._where is not None and _false(self._where.search(value)):
            return None
        if self._select is None:
            return bytes(cast(msgspec.Raw, record))
        body = msgspec.json.encode(self._select.search(value))
        for raw, escaped in _NONCHARACTERS:
            body = body.replace(raw, escaped)
        return body


def _false(value: object) -> bool:
    """JMESPath's falsehood, in which 0 is true."""
    return value is None or value is False or value in ("", [], {})
