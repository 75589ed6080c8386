"""What the demo's producer writes and its consumer expects, both derived from three numbers.

Seed, records per file and record number determine everything, so the two agree without talking:
record `n` is tweet `ID_BASE + n`, made of template `n mod 48`, and file `f` holds the records from
`f * records_per_file` on.
"""

import random
from collections.abc import Callable

from penstock.demo.tweets import Template

ID_BASE = 1_900_000_000_000_000_000  # 19 digits, beyond what a float holds exactly
BROKEN_EVERY = 1000

_BROKEN_AT = 400  # not the first file, and early enough for a short run to have one
_TEMPLATES = 48

_PREAMBLES = (
    b"",
    b"\xef\xbb\xbf",
    b"\n\n",
    b"// exported by sluice 3.1, do not edit\n",
    b"# shard 7 of 12\n#\n",
    b"/* generated 2026-11-23 */ ",
    b"\xef\xbb\xbf// with a mark before it\r\n",
    b"\r\n\t /* two\n * lines { } [ ] \" '\n */\n\n",
    b'// first\n// second {"id": 1}\n\n# third\n',
    b"/**/ /***/ /* * / */\n",
    b"#!/usr/bin/env sluice\n/* then */ // this\n",
    b"   \n\n\n   // spaces\n   # around\n   ",
    b"/* \xf0\x9f\x9a\xb0 \xe6\xb0\xb4\xe9\x96\x80 */\n",
    b"//\n#\n/**/\n",
)


def _document(records: list[bytes]) -> bytes:
    return b"[" + b",\n".join(records) + b"]"


# A broken file is bytes, or a function of its records. None of them is JSON after comments.
_DEFECTS: tuple[bytes | Callable[[list[bytes]], bytes], ...] = (
    b"",
    lambda records: _document(records)[: sum(map(len, records)) // 2],  # cut
    lambda records: _document(records).replace(b":", b':"\xff\xfe"', 1),  # not UTF-8
    b"// nothing yet\n/* or ever */\n# at all\n",
    lambda records: b"Exported by Sluice on Monday\n" + _document(records),
    lambda records: b"[" + b",".join(records) + b",]",
    b"\xef\xbb\xbf \r\n\t\n",
    lambda records: _document(records)[:-1],  # only the last bracket is missing
    lambda records: b"/* never closed " + _document(records),
    lambda records: _document(records) + b"\nend of export\n",
    lambda records: _document(records).decode().encode("utf-16"),
    lambda records: b'[{"score": NaN},' + b",".join(records) + b"]",
    b"{'id': 1}\n",
)


def _defect(file: int) -> bytes | Callable[[list[bytes]], bytes]:
    return _DEFECTS[file // BROKEN_EVERY % len(_DEFECTS)]


class Corpus:
    """All files and records of one run of the demo."""

    def __init__(self, seed: int, records_per_file: int) -> None:
        random_ = random.Random(seed)  # noqa: S311  invented tweets are not secret
        self.records_per_file = records_per_file
        self._templates = [Template(random_, number) for number in range(_TEMPLATES)]

    def expected(self, record: int) -> dict[str, object]:
        """Return what the selection must give for record number `record`, as Python values."""
        return self._templates[record % _TEMPLATES].expected(ID_BASE + record)

    def file(self, file: int) -> bytes:
        """Return the bytes of file number `file`: an array, lines or one object, or broken."""
        shape = ("array", "lines", "object")[file % 3]
        first = file * self.records_per_file
        records = [
            self._templates[record % _TEMPLATES].encoded(
                ID_BASE + record, in_one_line=shape == "lines"
            )
            for record in range(first, first + self.records_per_file)
        ]
        if is_broken(file):
            defect = _defect(file)
            return defect if isinstance(defect, bytes) else defect(records)
        preamble = _PREAMBLES[file % len(_PREAMBLES)]
        if shape == "lines" or (shape == "object" and len(records) == 1):
            return preamble + b"\n".join(records) + b"\n"
        return preamble + _document(records)

    def records_written(self, files: int) -> int:
        """Return how many records the first `files` files hold, broken ones included."""
        without = sum(isinstance(_defect(file), bytes) for file in broken_files(files))
        return (files - without) * self.records_per_file

    def records_expected(self, files: int) -> int:
        """Return how many records of the first `files` files must arrive in the queue."""
        return (files - len(broken_files(files))) * self.records_per_file


def is_broken(file: int) -> bool:
    """Tell whether file number `file` is broken on purpose, as one in a thousand is."""
    return file % BROKEN_EVERY == _BROKEN_AT


def broken_files(files: int) -> range:
    """Return the numbers of the broken files among the first `files`."""
    return range(_BROKEN_AT, files, BROKEN_EVERY)
