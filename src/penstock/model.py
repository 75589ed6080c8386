"""The objects that travel along the path, frozen.

waiting ──claim──▶ processing ──commit──▶ processed ──archive──▶ archived (──▶ deleted)
   ▲                  │   │
   └─release, expiry──┘   └──commit──▶ rejected ──archive──▶ in the rejects directory

A file's name is its identity; contents and inodes are not.
"""

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import msgspec

from penstock.errors import Reject

# The attributes of every SQS message, all of DataType String (docs/sqs.md).
ATTRIBUTE_ID = "penstock_id"
ATTRIBUTE_RECORDS = "penstock_records"
ATTRIBUTE_FILE = "penstock_file"
ATTRIBUTE_CONTENT_TYPE = "content_type"
ATTRIBUTE_CLAIM = "penstock_claim"
ATTRIBUTE_DATA_TYPE = "String"

# A body is one record, or a JSON array of records. The array alone would not say which: a selection
# may be an array, too.
CONTENT_TYPE_ONE = "application/vnd.penstock.record+json"
CONTENT_TYPE_MANY = "application/vnd.penstock.records+json"

BILLED_BYTES = 65_536
"""SQS bills each started 64 KiB of a payload as one request."""

CLAIM_ID_BYTES = 12
"""Random bytes in a claim's id, as hexadecimal digits; a part split off a claim adds `.N`."""

CLAIM_ID_LIKE = "0" * 2 * CLAIM_ID_BYTES
"""A text as long as a new claim's id, to size the messages of unclaimed files."""

LISTING_SECONDS_MAX = 30.0
"""A worker claims no names from an older listing: the ledger soon forgets archived files.

For a local directory, the worker checks each name again instead.
"""


class Attribute(msgspec.Struct, rename="pascal", gc=False):
    """An attribute of an SQS message, as SQS takes it."""

    string_value: str
    data_type: str = ATTRIBUTE_DATA_TYPE


class Attributes(msgspec.Struct, gc=False):
    """All attributes of an SQS message; a struct is made in half the time of a dictionary."""

    id: Attribute = msgspec.field(name=ATTRIBUTE_ID)
    records: Attribute = msgspec.field(name=ATTRIBUTE_RECORDS)
    file: Attribute = msgspec.field(name=ATTRIBUTE_FILE)
    content_type: Attribute = msgspec.field(name=ATTRIBUTE_CONTENT_TYPE)
    claim: Attribute = msgspec.field(name=ATTRIBUTE_CLAIM)


class SpoolIdentity(NamedTuple):
    """Which directory a spool is: its marker file's id, inode and change time, and its place."""

    marker: str = ""
    inode: int = 0
    changed_ns: int = 0
    place: str = ""

    def matches(self, known: "SpoolIdentity") -> bool | None:
        """Tell whether this is the spool `known`; None if that cannot be determined.

        A copy, such as a restored backup, has the same id, but another inode and change time.
        `chown` changes only the time; some network file systems renumber inodes at each mount.
        """
        if known.marker:
            is_copy = self.inode != known.inode and self.changed_ns != known.changed_ns
            return self.marker == known.marker and not (self.inode and known.inode and is_copy)
        return self.place == known.place if self.place and known.place else None

    def as_text(self) -> str:
        """Return it as Redis and the file server's header store it; "" if nothing is known."""
        return msgspec.json.encode(self).decode() if any(self) else ""

    @staticmethod
    def from_text(text: str) -> "SpoolIdentity | None":
        """Return an identity from its text; None if the text is not an identity."""
        try:
            return msgspec.json.decode(text, type=SpoolIdentity)
        except (msgspec.DecodeError, RecursionError):
            return None

    def __str__(self) -> str:
        """Return it as an operator sees it."""
        if not self.marker:
            return f"the directory {self.place} without a marker" if self.place else "not known"
        return f"marker {self.marker[:8]}" + (f", inode {self.inode}" if self.inode else "")


class Confirmed(NamedTuple):
    """What the ledger says of a spool that was seen: whether it is surely its own, and its note.

    The note changes when another spool becomes the ledger's.
    """

    is_sure: bool
    note: str


class Unsettled(NamedTuple):
    """Files in the spool that are not complete yet; `ahead` of them have a future change time."""

    files: int = 0
    ahead: int = 0
    ahead_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to `Source.list`: each name once, in arrival order if that is known.

    Giving `cursor` to the next call says that they are dealt with. `listed_at_seconds` is the
    caller's monotonic time at the start. `ignored` counts entries that are neither files nor
    drafts; `example` is one whose name matches the pattern, and the rule that it breaks. With
    `pause_seconds` the source did not look for more: it will do so after that time. `spool_note` is
    the ledger's note of the spool that was listed. Sizes and times of modification are parallel to
    the names where the file server tells them, else empty; times are by its machine's clock.
    """

    names: Sequence[str]
    cursor: str
    listed_at_seconds: float
    ignored: int = 0
    pause_seconds: float = 0.0
    unsettled: Unsettled = field(default_factory=Unsettled)
    example: str = ""
    spool_note: str = ""
    sizes_bytes: Sequence[int] = ()
    modified_at_seconds: Sequence[float] = ()


class Unread(Enum):
    """Why a file of a claim has no bytes."""

    VANISHED = "vanished"  # gone, or no longer a regular file: a stale listing, not an error
    DENIED = "denied"  # permission or I/O error: someone may fix it, so it is retried


class FileRead(msgspec.Struct, frozen=True, gc=False):
    """One file as it was read: all its bytes, or why there are none.

    A class with an object per file is a struct: fast to make, and ignored by garbage collection.
    A file whose `size_bytes` exceed `max_file_bytes` is not read. `age_seconds` is the time since
    its last change, by the clock of the directory's machine; None if it was not looked up.
    """

    name: str
    data: bytes | Unread
    size_bytes: int
    age_seconds: float | None
    detail: str = ""


class RecordReject(msgspec.Struct, frozen=True, order=True, gc=False, omit_defaults=True):
    """Records that cannot be sent: the first one's index in the file, the reason, how many."""

    index: int
    reason: str = ""
    count: int = 1

    @property
    def indexes(self) -> range:
        """The indexes of all these records."""
        return range(self.index, self.index + self.count)

    def __str__(self) -> str:
        """Say which records, and why."""
        which = f"s {self.index}-{self.indexes[-1]}" if self.count > 1 else f" {self.index}"
        return f"record{which}: {self.reason}"

    @staticmethod
    def note(rejects: list["RecordReject"], index: int, reason: str) -> None:
        """Add a record to a file's rejects, in order; neighbours with one reason share an entry."""
        last = rejects[-1] if rejects else None
        if last and last.indexes.stop == index and last.reason == reason:
            rejects[-1] = RecordReject(last.index, reason, last.count + 1)
        else:
            rejects.append(RecordReject(index, reason))

    @staticmethod
    def total(rejects: Iterable["RecordReject"]) -> int:
        """Return how many records are rejected in all."""
        return sum(reject.count for reject in rejects)


class Document(NamedTuple):
    """The records of one file's JSON, as the selection needs them, and what is not a record.

    `records` holds instances of the selection's `record_type`, or `msgspec.Raw` if one does not
    fit. `indexes` are their places in the file; None if all are records and all fit.
    """

    records: Sequence[object]
    indexes: Sequence[int] | None = None
    rejects: Sequence[RecordReject] = ()


class Selected(NamedTuple):
    """Encoded values of one file's records, their indexes in the file, and what was omitted."""

    records: Sequence[bytes]
    indexes: Sequence[int]
    filtered: int
    rejects: Sequence[RecordReject]

    def only(self, put_back: "PutBack | None") -> "Selected":
        """Keep only the records that an operator wants sent, if `put_back` names them."""
        if put_back is None or put_back.records is None:
            return self
        wanted = set(put_back.records)
        kept = [at for at, index in enumerate(self.indexes) if index in wanted]
        rejects: list[RecordReject] = []
        for reject in self.rejects:
            for index in reject.indexes:
                if index in wanted:
                    RecordReject.note(rejects, index, reject.reason)
        # An operator names only rejected records. One that is now neither kept nor rejected is
        # filtered out, by a changed `select.where`.
        filtered = max(0, min(self.filtered, len(wanted) - len(kept) - RecordReject.total(rejects)))
        records, indexes = [self.records[at] for at in kept], [self.indexes[at] for at in kept]
        return Selected(records, indexes, filtered, rejects)


class Transformed(NamedTuple):
    """The selected records of one file, or of several with one record each, ready to be packed.

    `files` has each record's file, as a position in the claim, and `indexes` its index in the file.
    `filtered` counts unwanted records, `rejects` holds those that cannot be sent, with their file's
    position. `of` are the positions of all the files; if there are several, each has one record.
    """

    files: Sequence[int]
    records: Sequence[bytes]
    indexes: Sequence[int]
    filtered: int
    rejects: Sequence[tuple[int, RecordReject]] = ()
    of: Sequence[int] = ()

    def before(self, files: int) -> "Transformed":
        """Return the part that belongs to the first `files` files of the claim."""
        if self.of[-1] < files:
            return self
        kept, of = bisect_left(self.files, files), self.of[: bisect_left(self.of, files)]
        # Each of several files has one record, so `filtered` counts files. One file is not cut.
        filtered = len(of) - kept if len(self.of) > 1 else 0
        return Transformed(
            self.files[:kept], self.records[:kept], self.indexes[:kept], filtered, (), of
        )


class Fate(NamedTuple):
    """Why a file has nothing to send: it has no bytes, or they give no records."""

    position: int
    file: FileRead
    cause: Unread | Reject

    def without_data(self) -> "Fate":
        """Return it without the file's bytes: rejected files may be large, and many."""
        return self._replace(file=msgspec.structs.replace(self.file, data=b""))


class PutBack(NamedTuple):
    """What an operator specified for a file put back into the spool; `by` is the command's token.

    A `salt` gives its messages new ids, so that they do not count as repeats. `records` are the
    indexes of the only records to send; None means all.
    """

    by: str
    salt: str = ""
    records: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """An ordered, frozen list of files held by one worker under a lease.

    `attempt` is 1 for a new claim, and grows with each takeover. `journal` maps the index of each
    confirmed message to its id, this worker's included if an earlier one may have sent something
    (`tried`). `noted` are the journal entries of the last owner, `fingerprint` stands for its
    settings. `done` are the positions of processed files, as ranges; `waits` counts how often the
    claim was given back for unreadable files; `goes_on`: confirmations continue `noted`.
    `after_loss`: files were in the spool when Redis lost data, so some may have been sent.
    `is_open`: nothing was sent, and files that do not fill a message are given back.
    """

    id: str
    token: str
    names: tuple[str, ...]
    attempt: int
    journal: dict[int, str]
    fingerprint: str = ""
    after_loss: bool = False
    noted: Mapping[int, str] = field(default_factory=dict[int, str])
    tried: bool = False
    waits: int = 0
    done: str = ""
    goes_on: bool = False
    put_back: Mapping[str, PutBack] = field(default_factory=dict[str, PutBack])
    is_open: bool = False

    def of_first(self, files: int) -> "Claim":
        """Return the claim with its first files only, all of them to be sent."""
        return dataclasses.replace(self, names=self.names[:files], is_open=False)

    @property
    def salt(self) -> str:
        """What else the ids of its messages depend on; empty except for replayed files."""
        salts = [(name, self.put_back[name].salt) for name in self.names if name in self.put_back]
        return "".join(f"{name}={salt}/" for name, salt in salts if salt)

    def __repr__(self) -> str:
        """Leave the token out: it proves ownership, so it must never reach a log."""
        return f"Claim(id={self.id!r}, files={len(self.names)}, attempt={self.attempt})"


class Message(msgspec.Struct, frozen=True, gc=False):
    """The body of one SQS message, and what is derived from its claim.

    A struct, because a frozen dataclass takes 2 µs to make. `index` counts a claim's messages. `id`
    is SHA-256(fingerprint, ordered names, index, body) in hexadecimal: the same claim under the
    same settings gives the same id. `first_file` and `last_file` are positions in the claim;
    `first_record` counts the claim's selected records, to trace a refused message. `size_bytes` is
    SQS's count: the body, and each attribute's name, type and value.
    """

    index: int
    id: str
    body: bytes
    records: int
    first_file: int
    last_file: int
    first_record: int
    file: str
    content_type: str
    claim: str
    size_bytes: int


class MessageReject(NamedTuple):
    """A message the queue can never take, with SQS's own code and text as the reason."""

    message: Message
    reason: str


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What the queue accepts, in bytes as SQS counts them; read when the queue is opened."""

    message_bytes_max: int
    batch_bytes_max: int = 1_048_576
    batch_entries_max: int = 10
    fifo: bool = False


class Keys(NamedTuple):
    """AWS credentials as they are now; `token` is empty if they are not temporary."""

    access_key: str
    secret_key: str
    token: str

    def __repr__(self) -> str:
        """Show nothing: secrets must never reach a log."""
        return "Keys(…)"


class QueueDepth(NamedTuple):
    """How many messages a queue holds, as SQS estimates: to be received, in flight, delayed."""

    visible: int
    in_flight: int
    delayed: int


@dataclass(slots=True)
class Sent:
    """What became of the messages given to `Queue.send`; each is in exactly one list.

    `batches` counts the calls that SQS answered, `possible_repeats` messages sent again after an
    unknown outcome, `throttled` the calls that SQS asked to slow down.
    """

    confirmed: list[Message] = field(default_factory=list[Message])
    rejected: list[MessageReject] = field(default_factory=list[MessageReject])
    batches: int = 0
    possible_repeats: int = 0
    throttled: int = 0


@dataclass(slots=True)
class Tally:
    """What one run of sqs_loader did, by the names of the ledger's counters (docs/metrics.md).

    Also: `claims_lost` to another owner before their commit, `claims_released` unfinished,
    `ledger_losses`: how often Redis lost data, the age of the oldest file when it was read, and
    `files_unsettled`, not complete yet.
    """

    claims: int = 0
    claims_taken_over: int = 0
    claims_lost: int = 0
    claims_released: int = 0
    files_processed: int = 0
    files_rejected: int = 0
    files_vanished: int = 0
    files_retried: int = 0
    records_read: int = 0
    records_sent: int = 0
    records_filtered: int = 0
    records_rejected: int = 0
    messages: int = 0
    messages_submitted: int = 0
    messages_failed: int = 0
    messages_skipped: int = 0
    journal_mismatches: int = 0
    batches: int = 0
    bytes_sent: int = 0
    bytes_room: int = 0
    requests_billed: int = 0
    possible_repeats: int = 0
    throttled: int = 0
    ledger_losses: int = 0
    files_after_loss: int = 0
    files_unsettled: int = 0
    oldest_waiting_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, counters: Mapping[str, int]) -> None:
        """Add one claim's counters; their names are fields of this class."""
        for name, by in counters.items():
            setattr(self, name, getattr(self, name) + by)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a claim's other files: gone, rejected with this JSON, or due for a retry."""

    vanished: Sequence[str]
    rejected: Mapping[str, str]
    retry_seconds: Mapping[str, float]
    counters: Mapping[str, int]
