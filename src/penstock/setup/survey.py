"""Inspect sample files of a spool: names, preamble, shape of documents, fields of records."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from penstock import beneath
from penstock.archive.forecast import arrival_rate
from penstock.errors import Halt, Reject
from penstock.model import Document
from penstock.records.decode import Decoder
from penstock.records.headers import generalised, proposals
from penstock.records.json_errors import is_prose, json_type
from penstock.records.preamble import Preamble
from penstock.source import scan

_SAMPLES_MAX: Final = 200
_SAMPLE_BYTES_MAX: Final = 16_777_216
_RECORDS_MAX: Final = 2_000
_HEADER_LINES_MAX: Final = 50
_UNKNOWN_TRIED: Final = 5
_ALIKE_BYTES: Final = 4
_BOM: Final = b"\xef\xbb\xbf"
# An object with more members than this is a record rather than an envelope of records.
_ENVELOPE_MEMBERS_MAX: Final = 8

_ENVELOPES_MAX: Final = 100  # so many objects in a file are records rather than envelopes

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass
class Field:
    """A member of records: how many records have it, and its JSON types."""

    count: int = 0
    types: set[str] = field(default_factory=set[str])


@dataclass
class Survey:
    """The findings, and settings of [decode] that fit; the `doubtful` ones may be wrong.

    `envelope` says what a doubtful `records` would send, and what it would leave out.
    """

    files: int = 0
    samples: int = 0
    files_per_second: float = 0.0
    pattern: str = ""
    suffix: str = ".json"
    left_out: Counter[str] = field(default_factory=Counter[str])
    decode: dict[str, object] = field(default_factory=dict[str, object])
    doubtful: dict[str, object] = field(default_factory=dict[str, object])
    envelope: str = ""
    preambles: Counter[str] = field(default_factory=Counter[str])
    shapes: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    records: int = 0
    fields: dict[str, Field] = field(default_factory=dict[str, Field])


def look(directory: Path) -> Survey:
    """Inspect up to 200 files of a directory, evenly spread over the names."""
    safe, left_out = listed(directory, ".*")
    suffix = _suffix(safe)
    names = [name for name in safe if name.endswith(suffix)]
    left_out += Counter({scan.NO_MATCH: len(safe) - len(names)})
    found = Survey(len(names), pattern=_pattern(names, suffix), suffix=suffix, left_out=left_out)
    step = max(1, len(names) / _SAMPLES_MAX)
    chosen = [names[int(n * step)] for n in range(min(len(names), _SAMPLES_MAX))]
    samples = list(_read(directory, chosen))
    found.samples = len(samples)
    found.files_per_second = arrival_rate(names)
    preamble, header, sure = _header(samples)
    (found.decode if sure else found.doubtful).update(header)
    whole = _see_preambles(found, samples, preamble)
    records = _see_envelope(found, whole)
    _see_documents(found, whole, Decoder(msgspec.Raw, records=records))
    return found


def listed(directory: Path, pattern: str) -> tuple[list[str], Counter[str]]:
    """Return the names that the source would list, and counts of skipped ones. Raises Halt."""
    try:
        found = scan.listed(directory, pattern)
    except OSError as error:
        raise Halt(f"{directory}: {error.strerror}") from None
    return found.names, found.left_out


def left_out_line(left_out: Mapping[str, int]) -> str:
    """Return one line with how many entries of directories were skipped, and why."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()))
    return f"skipped, as a loader would: {reasons}"


def identifier(name: str) -> str:
    """Return a field's name as JMESPath writes it."""
    quoted = json.dumps(name).replace("\x7f", "\\u007f")  # which no comment of TOML may hold
    return name if name.isascii() and name.isidentifier() else quoted


def _read(directory: Path, names: Sequence[str]) -> Iterator[bytes]:
    for name in names:
        try:
            with beneath.folder(directory) as fd:
                data = beneath.read(fd, name, _SAMPLE_BYTES_MAX + 1)
            if 0 < len(data) <= _SAMPLE_BYTES_MAX:
                yield data
        except OSError:
            continue  # gone, or unreadable


def _suffix(names: Sequence[str]) -> str:
    suffixes = Counter(Path(name).suffix for name in names)
    if ".json" in suffixes or not suffixes:
        return ".json"
    return suffixes.most_common(1)[0][0]


def _pattern(names: Sequence[str], suffix: str) -> str:
    """Return a regular expression for names of one form, with any digits; else for the suffix."""
    exact = {generalised(name, exact=True) for name in names}
    loose = {generalised(name) for name in names}
    for forms in (exact, loose):
        if len(forms) == 1:
            return forms.pop()
    return f".*{re.escape(suffix)}"


def _header(samples: Sequence[bytes]) -> tuple[Preamble, Mapping[str, object], bool]:
    """Return the preamble for files that the built-in grammar cannot read, and its setting.

    Also returns whether it surely drops a header in most files: one that is not part of JSON, and
    begins with the same word. Otherwise it may be the rest of records that were cut at the start.
    """
    plain = Preamble()
    unknown = [data.removeprefix(_BOM) for data in samples if not plain.reads(data)]
    for data in unknown[:_UNKNOWN_TRIED]:
        for key, value in _proposals(data, unknown, lines=len(unknown) == len(samples)):
            preamble = Preamble(**cast("dict[str, Any]", {key: value}))
            read = [other for other in unknown if preamble.reads(other)]
            if len(read) * 2 > len(unknown):
                heads = [other[: preamble.span(other)[0]].strip() for other in read]
                words = [head.split()[0] for head in heads if head and is_prose(head)]
                alike = Counter(re.sub(rb"\d+", b"#", word) for word in words)
                same = max(alike.values(), default=0) * 2 > len(unknown)
                return preamble, {f"preamble_{key}": value}, same or not any(heads)
    return plain, {}, True


def _proposals(
    data: bytes, unknown: Sequence[bytes], *, lines: bool
) -> Iterator[tuple[str, object]]:
    """Yield settings that might drop a file's header; `lines` only if all files have one."""
    for count in range(1, _HEADER_LINES_MAX + 1 if lines else 0):
        if Preamble(lines=count).reads(data):
            yield "lines", count
            break
    alike = [other for other in unknown if other[:_ALIKE_BYTES] == data[:_ALIKE_BYTES]]
    least, greatest = min(alike), max(alike)  # names between these share what these share
    pairs = enumerate(zip(least, greatest, strict=False))
    shared = next((at for at, (one, other) in pairs if one != other), len(least))
    common = least[:shared].decode("utf-8", "ignore")
    for proposal in proposals(data, common=common, damaged=True):
        yield proposal.key, proposal.value


def _see_preambles(found: Survey, samples: Sequence[bytes], preamble: Preamble) -> list[bytes]:
    documents: list[bytes] = []
    for data in samples:
        try:
            start, end = preamble.span(data)
        except Reject as reject:
            found.reasons[reject.reason] += 1
            continue
        text = " ".join(data[:start].decode("utf-8", "replace").split())
        text = re.sub(r"\d+", "#", text)[:60]
        found.preambles[json.dumps(text, ensure_ascii=False) if text else "none"] += 1
        documents.append(data[start:end])
    return documents


def _see_envelope(found: Survey, documents: Sequence[bytes]) -> str | None:
    """Return where the records surely are in envelopes; note where they may be.

    It is sure only if nothing is left out: all files hold objects with one array of objects, under
    one and the same key, and nothing else. Any other member may be data of a larger record.
    """
    files = list(_envelopes(documents))
    every = [members for envelopes in files for members in envelopes]
    sizes = [_sizes(envelopes) for envelopes in files]
    most: Counter[str] = Counter()
    for of_file in sizes:
        most |= of_file
    several = [key for key in most if sum(of[key] > 1 for of in sizes) * 2 > len(files)]
    if not several and not any(all(of[key] for of in sizes) for key in most):
        return None
    names = [identifier(key) for key in most]
    records = names[0] if len(names) == 1 else f"[{', '.join(names)}][]"
    if several and all(files) and all(_is_envelope(members, [*most]) for members in every):
        found.decode["records"] = records
        return records
    others = dict.fromkeys(identifier(key) for members in every for key in members)
    left_out = ", ".join(name for name in others if name not in names) or "nothing"
    found.doubtful["records"] = records
    found.envelope = (
        f"objects of files hold arrays of up to {max(most.values()):,} objects at"
        f" {', '.join(names)}; with this setting each of those is a record, and this is left out:"
        f" {left_out}; without it each whole object is a record"
    )
    return None


def _sizes(envelopes: Sequence[Mapping[str, msgspec.Raw]]) -> Counter[str]:
    """Return the keys of a file's arrays of objects, and how many objects one holds at most."""
    sizes: Counter[str] = Counter()
    for members in envelopes:
        sizes |= Counter({key: _records_in(bytes(raw)) for key, raw in members.items()})
    return sizes


def _envelopes(documents: Sequence[bytes]) -> Iterator[Sequence[Mapping[str, msgspec.Raw]]]:
    """Yield for each readable file its objects if they may be envelopes, else none."""
    decoder = Decoder(msgspec.Raw)
    for data in documents:
        with contextlib.suppress(Reject):
            records = decoder.decode(data).records
            few = data[:1] != b"[" and len(records) <= _ENVELOPES_MAX
            objects = [_members.decode(cast("Any", record)) for record in records if few]
            yield objects if all(len(o) <= _ENVELOPE_MEMBERS_MAX for o in objects) else []


def _is_envelope(members: Mapping[str, msgspec.Raw], keys: Sequence[str]) -> bool:
    """Tell whether an object is nothing but an array of objects, or an empty one, under a key."""
    if len(keys) > 1 or [*members] != keys:
        return False
    raw = bytes(members[keys[0]])
    return _records_in(raw) > 0 or (raw[:1] == b"[" and not _elements.decode(raw))


def _records_in(raw: bytes) -> int:
    """Return how many elements an array has that holds only objects; else 0."""
    elements = _elements.decode(raw) if raw[:1] == b"[" else []
    return len(elements) if all(bytes(element)[:1] == b"{" for element in elements) else 0


def _see_documents(found: Survey, documents: Sequence[bytes], decoder: Decoder) -> None:
    for data in documents:
        try:
            document = decoder.decode(data)
        except Reject as reject:
            found.reasons[reject.reason] += 1
            continue
        found.shapes[_shape(data, document, found)] += 1
        for record in document.records[: max(0, _RECORDS_MAX - found.records)]:
            found.records += 1
            for name, value in _members.decode(cast(Any, record)).items():
                seen = found.fields.setdefault(name, Field())
                seen.count += 1
                seen.types.add(json_type(bytes(value)))


def _shape(data: bytes, document: Document, found: Survey) -> str:
    if "records" in found.decode:
        return f"an object with its records under {found.decode['records']}"
    if data[:1] == b"[":
        return "an array of records"
    if len(document.records) == 1:
        return "one object, a record"
    return "objects one after another, each a record"
