"""The part of a record that is sent, and which records are sent at all, as JMESPath says.

The records are decoded to no more than the selection needs, and a function made for it writes the
bodies. For the odd record that the decoded types do not fit, another one reads it whole.
"""

import re
from contextlib import suppress
from typing import Final

from penstock.model import Document, RecordReject, Selected
from penstock.records.compile import compiled
from penstock.records.expression import EVALUATION_ERRORS, failure, parsed

# What SQS refuses in a body and JSON can hold only inside strings, where it may be escaped.
_NONCHARACTER: Final = re.compile(rb"\xef\xbf[\xbe\xbf]")
_BETWEEN: Final = b"\x00"  # is in no JSON


class Selection:
    """`select` is sent of each record for which `where` is true; None is true of all.

    `record_type` is what a record is to be decoded into, a struct made for the selection or
    `msgspec.Raw`. Raises Halt if an expression is none.
    """

    def __init__(self, select: str, where: str | None = None) -> None:
        trees = parsed(select), parsed(where) if where else None
        self._code = compiled(*trees)
        self._code_of_json = compiled(*trees, whole=True)
        self.record_type: type = self._code.record_type

    def select(self, document: Document) -> Selected:
        """Return the selections of a document's records, in their order, ready for an SQS body.

        A record for which an expression cannot be evaluated (a function given a type it does not
        take) is a record reject.
        """
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
    """Escape U+FFFE and U+FFFF; every other character SQS refuses is one JSON refuses too."""
    joined = _BETWEEN.join(bodies)
    if b"\xef" not in joined or not _NONCHARACTER.search(joined):
        return bodies
    escaped = joined.replace(b"\xef\xbf\xbe", rb"\ufffe").replace(b"\xef\xbf\xbf", rb"\uffff")
    return escaped.split(_BETWEEN)
