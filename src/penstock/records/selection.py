"""The part of a record that is sent, and which records are sent at all, as JMESPath says.

Two ways to one result: *compiled*, where the records are decoded to no more than the selection
needs and a function made for it writes the bodies; or *interpreted* by the jmespath library, for an
expression the compiler does not cover, and for the odd record its types do not fit.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from penstock.model import Document, RecordReject, Selected
from penstock.records import expression
from penstock.records.compile import Code, Uncompiled, compiled
from penstock.records.expression import EVALUATION_ERRORS, Expression, failure

# What SQS refuses in a body and JSON can hold only inside strings, where it may be escaped.
_NONCHARACTER: Final = re.compile(rb"\xef\xbf[\xbe\xbf]")
_BETWEEN: Final = b"\x00"  # is in no JSON

check_expression = expression.check


class Selection:
    """`select` is sent of each record for which `where` is true; None is true of all.

    `record_type` is what a record is to be decoded into, a struct made for the selection or
    `msgspec.Raw`. `why` says why the selection is not compiled; None if it is.

    Raises Halt if an expression is none.
    """

    def __init__(self, select: str, where: str | None = None) -> None:
        self._select = Expression(select)
        self._where = Expression(where) if where else None
        self._keys = _keys(self._select, self._where)
        self.record_type: type = msgspec.Raw
        self.why: str | None = None
        self._code: Code | None = None
        try:
            self._code = compiled(self._select.tree, self._where.tree if self._where else None)
            self.record_type = self._code.record_type
        except Uncompiled as error:
            self.why = str(error)

    def select(self, document: Document) -> Selected:
        """Return the selections of a document's records, in their order, ready for an SQS body.

        A record for which an expression cannot be evaluated (a function given a type it does not
        take) is a record reject.
        """
        records = document.records
        indexes = document.indexes if document.indexes is not None else range(len(records))
        if self._code and document.indexes is None:
            try:
                bodies, kept = self._code.run(records, indexes)
            except EVALUATION_ERRORS:
                return self._one_by_one(document, records, indexes)
            filtered = len(records) - len(bodies)
            return Selected(_sendable(bodies), kept, filtered, document.rejects)
        return self._one_by_one(document, records, indexes)

    def _one_by_one(
        self, document: Document, records: Sequence[object], indexes: Sequence[int]
    ) -> Selected:
        bodies: list[bytes] = []
        kept: list[int] = []
        fails: list[RecordReject] = []
        for index, record in zip(indexes, records, strict=True):
            try:
                body = self._one(record)
            except EVALUATION_ERRORS as error:
                RecordReject.note(fails, index, f"the selection fails: {failure(error)}")
                continue
            if body is not None:
                bodies.append(body)
                kept.append(index)
        filtered = len(records) - len(bodies) - RecordReject.total(fails)
        return Selected(_sendable(bodies), kept, filtered, sorted([*document.rejects, *fails]))

    def _one(self, record: object) -> bytes | None:
        """Return the selection of one record; None if it is filtered out."""
        if self._code and isinstance(record, self.record_type):
            bodies, _ = self._code.run([record], [0])
            return bodies[0] if bodies else None
        json = bytes(cast(Any, record))
        keys = self._keys
        value = expression.read(json) if keys is None else expression.read_members(json, keys)
        if self._where and not expression.is_true(self._where.search(value)):
            return None
        return expression.write(self._select.search(value))


def _keys(*expressions: Expression | None) -> frozenset[str] | None:
    """Return the members of a record that some expressions can see; None for all."""
    seen: frozenset[str] = frozenset()
    for each in expressions:
        if each is None:
            continue
        if each.keys is None:
            return None
        seen |= each.keys
    return seen


def _sendable(bodies: list[bytes]) -> list[bytes]:
    """Escape U+FFFE and U+FFFF; every other character SQS refuses is one JSON refuses too."""
    joined = _BETWEEN.join(bodies)
    if b"\xef" not in joined or not _NONCHARACTER.search(joined):
        return bodies
    escaped = joined.replace(b"\xef\xbf\xbe", rb"\ufffe").replace(b"\xef\xbf\xbf", rb"\uffff")
    return escaped.split(_BETWEEN)
