"""The nouns that travel along the path, frozen.

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
from typing import Annotated, NamedTuple

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
"""A claim's id is so many random bytes in hexadecimal; a part split off a claim adds `.N`."""

CLAIM_ID_LIKE = "0" * 2 * CLAIM_ID_BYTES
"""As long as a new claim's id: sizes messages of files that nobody has claimed."""

LISTING_SECONDS_MAX = 30.0
"""A worker claims no names from an older listing: the ledger soon forgets archived files.

For a local directory, the worker checks each name again instead.
"""


class ListedFile(msgspec.Struct, frozen=True, gc=False):
    """One file of a listing: its name (its identity), its size, its last modification.

    Nouns of which there is one per file are structs: fast to make, and unknown to Python's garbage
    collector. `modified_at_seconds` counts from 1970, by the clock of the directory's machine. For
    a local directory with `source.settle_seconds = 0`, files are not inspected: the size is the
    mean of some files nearby, good enough to size claims, and the time is 0.
    """

    name: str
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    modified_at_seconds: float


class SpoolIdentity(NamedTuple):
    """Which directory a spool is; unknown parts are "" or 0.

    `marker` is the id in the marker file, which has this `inode` and was last changed at
    `changed_ns`. `place` stands for the directory's file system and inode.
    """

    marker: str = ""
    inode: int = 0
    changed_ns: int = 0
    place: str = ""

    def matches(self, known: "SpoolIdentity") -> bool | None:
        """Tell whether this is the spool `known`; None if that cannot be determined.

        A copy of the spool, such as a restored backup, holds the same id, but its marker has
        another inode and another change time. `chown` changes only the time; some network file
        systems renumber inodes at each mount.
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


class Young(NamedTuple):
    """The files in the spool that are not complete yet.

    `ahead` of the `files` have a change time in the future, up to `ahead_seconds`: a clock was set
    back, or two clocks differ.
    """

    files: int = 0
    ahead: int = 0
    ahead_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to `Source.list`.

    `files` are in arrival order as far as the source knows it. Give `cursor` to the next call to
    say that these are dealt with. `listed_at_seconds` is the caller's monotonic time when the
    listing began. `ignored` counts directory entries that are not files by pattern or type; drafts
    are not counted. `pause_seconds`: until then, the source answers with empty pages. `young` are
    the files that are not complete yet.
    """

    files: Sequence[ListedFile]
    cursor: str
    listed_at_seconds: float
    ignored: int = 0
    pause_seconds: float = 0.0
    young: Young = field(default_factory=Young)


class Unread(Enum):
    """Why a file of a claim has no bytes."""

    VANISHED = "vanished"  # gone, or no longer a regular file: a stale listing, not an error
    DENIED = "denied"  # permission or I/O error: someone may fix it, so it is retried


class FileRead(msgspec.Struct, frozen=True, gc=False):
    """One file as it was read.

    `data` is all its bytes, or why there are none. `size_bytes` is its size when opened: a file
    larger than `max_file_bytes` is not read, and `data` is empty. `age_seconds` is the time since
    its last change, by the clock of the directory's machine.
    """

    name: str
    data: bytes | Unread
    size_bytes: int
    age_seconds: float
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

    Each of `records` is an instance of the selection's `record_type`, or a `msgspec.Raw` with the
    record's own bytes where it does not fit that type. `indexes`, parallel to it, holds each
    record's index in the file; None if all are records and all fit.
    """

    records: Sequence[object]
    indexes: Sequence[int] | None = None
    rejects: Sequence[RecordReject] = ()


class Selected(NamedTuple):
    """What the selection leaves of one file: encoded values in record order, and what it omitted.

    `indexes`, parallel to `records`, holds the index each record had in its file.
    """

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
    """What is left of one file, or of several that hold one record each, ready to be packed.

    Parallel to `records`, in the claim's order: `files` holds the position in the claim of each
    record's file, `indexes` the record's index in that file, from 0. `filtered` counts unwanted
    records, `rejects` holds those that cannot be sent, with their file's position. `of` holds the
    positions of all the files; if there are several, each is one record.
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
        # Each of several files is one record, so a filtered file is one; a single file is not cut.
        filtered = len(of) - kept if len(self.of) > 1 else 0
        return Transformed(
            self.files[:kept], self.records[:kept], self.indexes[:kept], filtered, (), of
        )


class Fate(NamedTuple):
    """Why a file has nothing to send: it has no bytes, or no records can be made of them."""

    position: int
    file: FileRead
    cause: Unread | Reject

    def without_data(self) -> "Fate":
        """Return it without the file's bytes: rejected files may be large, and many."""
        return self._replace(file=msgspec.structs.replace(self.file, data=b""))


class PutBack(NamedTuple):
    """What an operator said of a file put back into the spool for another pass.

    `by` is the token of the command. A `salt` changes the ids of the messages, so that neither SQS
    nor a consumer drops them as repeats. `records` are the indexes of the only records to send,
    because the others were sent; None means all.
    """

    by: str
    salt: str = ""
    records: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """An ordered, frozen list of files held by one worker under a lease.

    * `attempt`: 1 for a new claim, one more with each takeover after an expiry.
    * `journal`: index to id of each message that an earlier owner confirmed; this worker adds its
      own if an earlier one may have sent something (`tried`).
    * `noted`: the whole journal entries of the last owner that wrote any.
    * `fingerprint`: that owner's settings; messages under another fingerprint have other ids.
    * `done`: the positions of files that are processed already, as ranges.
    * `waits`: how often the claim was given back because other files could not be read.
    * `goes_on`: what is confirmed now continues `noted`.
    * `after_loss`: the files lay in the spool when Redis lost data, so some may have been sent
      before.
    * `put_back`: what an operator said of some of the files.
    * `is_open`: nothing was sent yet, and more files are waiting, so files that do not fill a
      message are given back.
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
    """The body of one SQS message and all that is derived from its claim.

    A struct, because with one record per message there is one per record, and a frozen dataclass
    takes 2 µs to make. `index` counts a claim's messages from 0. `id` is 64 hexadecimal digits of
    SHA-256(fingerprint, ordered names, index, body): the same claim under the same settings gives
    the same id. `first_file` and `last_file` are the positions in the claim of the files whose
    records it holds; `file` is the first one's name. `first_record` counts the claim's selected
    records from 0, to trace a message that SQS refuses. `claim` is the claim's id. `size_bytes` is
    what SQS counts: the body, and name, type and value of each attribute.
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

    @property
    def attributes(self) -> dict[str, str]:
        """The message's attributes, name to value."""
        return {
            ATTRIBUTE_ID: self.id,
            ATTRIBUTE_RECORDS: str(self.records),
            ATTRIBUTE_FILE: self.file,
            ATTRIBUTE_CONTENT_TYPE: self.content_type,
            ATTRIBUTE_CLAIM: self.claim,
        }


class MessageReject(NamedTuple):
    """A message the queue can never take, with SQS's own code and text as the reason."""

    message: Message
    reason: str


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What the queue takes, in bytes as SQS counts them; read from the queue when it is opened."""

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
    """How many messages a queue holds, as SQS estimates it: to be received, received, delayed."""

    visible: int
    in_flight: int
    delayed: int


@dataclass(slots=True)
class Sent:
    """What became of the messages given to `Queue.send`; each is in exactly one list.

    `confirmed` have SQS's receipt. `rejected` never will. `batches` counts the calls that SQS
    answered, `possible_repeats` the messages sent again after an unknown outcome, and `throttled`
    the calls that SQS asked to slow down.
    """

    confirmed: list[Message] = field(default_factory=list[Message])
    rejected: list[MessageReject] = field(default_factory=list[MessageReject])
    batches: int = 0
    possible_repeats: int = 0
    throttled: int = 0


@dataclass(slots=True)
class Tally:
    """What one run of sqs_loader did: counts, but for the last two.

    The ledger's counters have the same names; docs/metrics.md says what they count. Beside those:
    `claims_lost` got another owner before their commit, `claims_released` were given back
    unfinished, `ledger_losses` counts how often Redis lost data, `oldest_waiting_seconds` is the
    age of the oldest file when it was read, and `files_young` were not complete yet at the end.
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
    files_young: int = 0
    oldest_waiting_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, counters: Mapping[str, int]) -> None:
        """Add one claim's counters; their names are fields of this class."""
        for name, by in counters.items():
            setattr(self, name, getattr(self, name) + by)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a claim's files that were not processed.

    `rejected` maps names to the JSON kept for them, `retry_seconds` names to the delay before their
    retry, and `counters` what to add to each counter.
    """

    vanished: Sequence[str]
    rejected: Mapping[str, str]
    retry_seconds: Mapping[str, float]
    counters: Mapping[str, int]
