"""Turn files as they were read into selected records, or into another fate.

    file ──preamble──▶ JSON ──decode──▶ records ──select──▶ bodies
      └─────────┴───────────────┴──────── Fate: the file has nothing to send, and why

Most files hold one record. Up to 50 of those are stripped, decoded and selected together, at a
fraction of the cost. If any of them is not what it seems, each is handled alone, so a file's fate
does not depend on its neighbours.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import methodcaller
from typing import Final

from penstock.errors import Reject
from penstock.model import Document, Fate, FileRead, PutBack, Transformed, Unread
from penstock.records.decode import Decoder
from penstock.records.preamble import Preamble
from penstock.records.selection import Selection

_TOGETHER_FILES: Final = 50  # more would gain little; one bad file costs handling all alone
_ends_object: Final = methodcaller("endswith", (b"}", b"}\n", b"}\r\n"))
_line_end: Final = methodcaller("find", b"\n", 0, -2)  # -1 if there is none but the last


class Transform:
    """The pure middle of the path; a worker has one. Rejects files over `max_file_bytes`."""

    def __init__(
        self, preamble: Preamble, decoder: Decoder, selection: Selection, *, max_file_bytes: int
    ) -> None:
        self._preamble = preamble
        self._decoder = decoder
        self._selection = selection
        self._max_file_bytes = max_file_bytes

    def run(
        self, files: Sequence[FileRead], first: int, put_back: Mapping[str, PutBack]
    ) -> Iterator[Transformed | Fate]:
        """Yield the records of files, in order, and the fates of files without any.

        `first` is the first file's position in the claim. `put_back` holds the operator's notes on
        some of them, by name. Each file is in one result. A result is of one file, or of several
        that hold one record each.
        """
        for at in range(0, len(files), _TOGETHER_FILES):
            some = files[at : at + _TOGETHER_FILES]
            texts = None if put_back else self._alike(some)
            if texts is None:
                yield from self._mixed(some, first + at, put_back)
            else:
                yield from self._ones(range(first + at, first + at + len(some)), texts, some)

    def _alike(self, files: Sequence[FileRead]) -> list[bytes] | None:
        """Return the JSON of files that have one preamble, and look like a record in one line."""
        most = self._max_file_bytes
        data = [file.data for file in files if file.size_bytes <= most and type(file.data) is bytes]
        texts = self._preamble.strip_alike(data) if len(data) == len(files) else None
        if texts and all(map(_ends_object, texts)) and {*map(_line_end, texts)} == {-1}:
            return texts
        return None

    def _mixed(
        self, files: Sequence[FileRead], first: int, put_back: Mapping[str, PutBack]
    ) -> Iterator[Transformed | Fate]:
        positions: list[int] = []  # of files that look like one record
        texts: list[bytes] = []  # parallel: their JSON
        ones: list[FileRead] = []  # parallel
        for position, file in enumerate(files, first):
            json = self._json(file)
            if not isinstance(json, bytes):
                yield Fate(position, file, json)
                continue
            is_one = _may_be_one(json) and file.name not in put_back
            if is_one:
                positions.append(position)
                texts.append(json)
                ones.append(file)
            elif positions:
                yield from self._ones(positions, texts, ones)
                positions, texts, ones = [], [], []
            if not is_one:
                yield self._alone(position, file, json, put_back.get(file.name))
        if positions:
            yield from self._ones(positions, texts, ones)

    def _json(self, file: FileRead) -> bytes | Unread | Reject:
        if isinstance(file.data, Unread):
            return file.data
        if file.size_bytes > self._max_file_bytes:
            return Reject(
                f"{file.size_bytes} bytes; decode.max_file_bytes = {self._max_file_bytes}"
            )
        try:
            return self._preamble.strip(file.data)
        except Reject as reject:
            return reject

    def _ones(
        self, positions: Sequence[int], texts: Sequence[bytes], files: Sequence[FileRead]
    ) -> Iterator[Transformed | Fate]:
        """Handle files together if each holds one good record, else one by one."""
        records = self._decoder.decode_ones(texts)
        selected = None if records is None else self._selection.select(Document(records))
        if selected is not None and not selected.rejects:
            kept = positions
            if selected.filtered:
                kept = [positions[index] for index in selected.indexes]
            zeros = [0] * len(kept)
            yield Transformed(kept, selected.records, zeros, selected.filtered, of=positions)
            return
        for position, json, file in zip(positions, texts, files, strict=True):
            yield self._alone(position, file, json, None)

    def _alone(
        self, position: int, file: FileRead, json: bytes, put_back: PutBack | None
    ) -> Transformed | Fate:
        try:
            selected = self._selection.select(self._decoder.decode(json)).only(put_back)
        except Reject as reject:
            return Fate(position, file, reject)
        return Transformed(
            [position] * len(selected.records),
            selected.records,
            selected.indexes,
            selected.filtered,
            [(position, reject) for reject in selected.rejects],
            [position],
        )


def _may_be_one(json: bytes) -> bool:
    """Tell whether a file's JSON looks like one object: by its ends, and by not being lines."""
    ends = json[:1] == b"{" and (json[-1:] == b"}" or json.rstrip()[-1:] == b"}")
    # Searching one byte is ten times as fast as two, and most files have no line end.
    return ends and (b"\n" not in json or b"\n{" not in json)
