"""Select the part of each record that is sent, and which records are sent, by JMESPath.

Records are decoded to only what the selection needs, and a function compiled for it writes the
bodies. If a record does not fit the decoded types, another function reads it whole.
"""

import re
from contextlib import suppress
from typing import Final

from penstock.model import Document, RecordReject, Selected
from penstock.records.compile import compiled
from penstock.records.expression import EVALUATION_ERRORS, failure, parsed

# SQS refuses these in a body. JSON holds them only in strings, where they may be escaped.
_NONCHARACTER: Final = re.compile(rb"\xef\xbf[\xbe\xbf]")
_BETWEEN: Final = b"\x00"  # never occurs in JSON


class Selection:
    """`select` is sent of each record for which `where` is true; None is always true.

    Decode records into `record_type`, a struct made for the selection or `msgspec.Raw`. Raises Halt
    if an expression is wrong.
    """

    def __init__(self, select: str, where: str | None = None) -> None:
        trees = parsed(select), parsed(where) if where else None
        self._code = compiled(*trees)
        self._code_of_json = compiled(*trees, whole=True)
        self.record_type: type = self._code.record_type

    def select(self, document: Document) -> Selected:
        """Return the selections in order, ready for SQS; rejects records on which one fails."""
        records, indexes = document.records, document.indexes
        if indexes is None:
            indexes = range(len(records))
            with suppress(*EVALUATION_ERRORS):  # then one by one
                bodies, kept = self._code.run(records, indexes)
                filtered = len(records) - len(bodies)
                return Selected(_sendable(bodies), kept, filtered, document.rejects)
        bodies, kept = list[bytes](), list[int]()
        fails: list[RecordReject] = []
        for index, record in zip(indexes, records, strict=True):
            fits = isinstance(record, self.record_type)
            try:
                found = (self._code if fits else self._code_of_json).run([record], [index])
            except EVALUATION_ERRORS as error:
                RecordReject.note(fails, index, f"the selection fails: {failure(error)}")
                continue
            bodies += found[0]
            kept += found[1]
        filtered = len(records) - len(bodies) - RecordReject.total(fails)
        return Selected(_sendable(bodies), kept, filtered, sorted([*document.rejects, *fails]))


def _sendable(bodies: list[bytes]) -> list[bytes]:
    """Escape U+FFFE and U+FFFF; JSON itself refuses every other character that SQS refuses."""
    joined = _BETWEEN.join(bodies)
    if b"\xef" not in joined or not _NONCHARACTER.search(joined):
        return bodies
    escaped = joined.replace(b"\xef\xbf\xbe", rb"\ufffe").replace(b"\xef\xbf\xbf", rb"\uffff")
    return escaped.split(_BETWEEN)
