"""The nouns that travel along the path, frozen.

waiting ──claim──▶ processing ──commit──▶ processed ──archive──▶ archived (──▶ deleted)
   ▲                  │   │
   └─release, expiry──┘   └──commit──▶ rejected ──archive──▶ in the rejects directory

A file is its name; every noun here names files, never contents or inodes.
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

# What a body is: one record, or a JSON array of records. An array alone would not tell, because a
# selection may itself be an array.
CONTENT_TYPE_ONE = "application/vnd.penstock.record+json"
CONTENT_TYPE_MANY = "application/vnd.penstock.records+json"

BILLED_BYTES = 65_536
"""SQS bills every started 64 KiB of a payload as one request."""

CLAIM_ID_BYTES = 12
"""Random bytes of a claim's id, in hexadecimal; a claim split off another has `.N` after it."""

CLAIM_ID_LIKE = "0" * 2 * CLAIM_ID_BYTES
"""As long as the id of a new claim, for sizing messages that nobody has claimed."""

LISTING_SECONDS_MAX = 30.0
"""No worker claims names from a listing older than this: what is archived is soon forgotten.

In a directory of its own machine it looks for each name again instead.
"""


class ListedFile(msgspec.Struct, frozen=True, gc=False):
    """One file of a listing: its name, which is its identity, its size, its last modification.

    A struct, as all are here of which there is one a file: they are made fast, and Python's garbage
    collector need not look at them.

    `modified_at_seconds` since 1970, by the clock of the machine that holds the directory. Where
    the directory is this machine's and `source.settle_seconds` is 0, no file is looked at: the size
    is the mean of some files nearby, good enough to cut claims by, and the time is 0.
    """

    name: str
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    modified_at_seconds: float


class SpoolIdentity(NamedTuple):
    """Which directory a spool is, as far as that is known; "" and 0 stand for what is not.

    `marker` is the id in its marker file, which has this `inode` and was last changed at
    `changed_ns`. `place` stands for the directory's file system and inode.
    """

    marker: str = ""
    inode: int = 0
    changed_ns: int = 0
    place: str = ""

    def matches(self, known: "SpoolIdentity") -> bool | None:
        """Tell whether this is the spool that is `known`; None if that cannot be told.

        A copy of the spool, such as a restored backup, holds the same id. But its marker has
        another inode and another time of change; `chown` changes the time only, and some network
        file systems number inodes anew at each mount.
        """
        if known.marker:
            is_copy = self.inode != known.inode and self.changed_ns != known.changed_ns
            return self.marker == known.marker and not (self.inode and known.inode and is_copy)
        return self.place == known.place if self.place and known.place else None

    def as_text(self) -> str:
        """Return it as Redis and the file server's header hold it; "" if nothing is known."""
        return msgspec.json.encode(self).decode() if any(self) else ""

    @staticmethod
    def from_text(text: str) -> "SpoolIdentity | None":
        """Return an identity from its text; None if that holds none."""
        try:
            return msgspec.json.decode(text, type=SpoolIdentity)
        except (msgspec.DecodeError, RecursionError):
            return None

    def __str__(self) -> str:
        """Return it as an operator is shown it."""
        if not self.marker:
            return f"the directory {self.place} without a marker" if self.place else "not known"
        return f"marker {self.marker[:8]}" + (f", inode {self.inode}" if self.inode else "")


class Young(NamedTuple):
    """The files that lie in the spool and are not complete yet.

    `ahead` of the `files` were changed later than it is now, by up to `ahead_seconds`: a clock
    was set back, or two clocks differ.
    """

    files: int = 0
    ahead: int = 0
    ahead_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to `Source.list`.

    `files` are in arrival order as far as the source knows it. `cursor`, given to the next call,
    says that these have been dealt with. `listed_at_seconds` is the caller's monotonic clock when
    the listing began: names are not claimed from a listing that is too old. `ignored` counts the
    directory entries that are not files by the pattern or by their type; drafts are not counted.
    `pause_seconds` is how long the source would have the next listing wait: an empty page answers
    until then. `young` are the files that are not complete yet. `example` is one of those ignored
    whose name matches the pattern all the same, and the rule that it breaks; empty if not known.
    """

    files: Sequence[ListedFile]
    cursor: str
    listed_at_seconds: float
    ignored: int = 0
    pause_seconds: float = 0.0
    young: Young = field(default_factory=Young)
    example: str = ""


class Unread(Enum):
    """Why a file of a claim has no bytes."""

    VANISHED = "vanished"  # gone, or no regular file any more: a stale listing, not an error
    DENIED = "denied"  # permission or I/O error: it may be mended, so it is looked at again


class FileRead(msgspec.Struct, frozen=True, gc=False):
    """One file as it was read.

    `data` is all its bytes, or why there are none. `size_bytes` is its size when opened: larger
    than `max_file_bytes` means that it was not read, and `data` is empty. `age_seconds` is the
    time since its last change, by the clock of the machine that holds the directory.
    """

    name: str
    data: bytes | Unread
    size_bytes: int
    age_seconds: float
    detail: str = ""


class RecordReject(msgspec.Struct, frozen=True, order=True, gc=False, omit_defaults=True):
    """Records that cannot be sent: the first one's index in the file, from 0, why, how many."""

    index: int
    reason: str = ""
    count: int = 1

    @property
    def indexes(self) -> range:
        """The indexes of all of them."""
        return range(self.index, self.index + self.count)

    def __str__(self) -> str:
        """Say which records, and why."""
        which = f"s {self.index}-{self.indexes[-1]}" if self.count > 1 else f" {self.index}"
        return f"record{which}: {self.reason}"

    @staticmethod
    def note(rejects: list["RecordReject"], index: int, reason: str) -> None:
        """Add a record to the rejects of a file, in order: a million alike are one entry."""
        last = rejects[-1] if rejects else None
        if last and last.indexes.stop == index and last.reason == reason:
            rejects[-1] = RecordReject(last.index, reason, last.count + 1)
        else:
            rejects.append(RecordReject(index, reason))

    @staticmethod
    def total(rejects: Iterable["RecordReject"]) -> int:
        """Return how many records some rejects are."""
        return sum(reject.count for reject in rejects)


class Document(NamedTuple):
    """What one file's JSON holds: its records as the selection wants them, and what is none.

    Each of `records` is an instance of the selection's `record_type`, or a `msgspec.Raw` with the
    record's own bytes where it does not fit that type. `indexes` holds, parallel to it, each
    record's index in the file, from 0; None where all are records and all fit.
    """

    records: Sequence[object]
    indexes: Sequence[int] | None = None
    rejects: Sequence[RecordReject] = ()


class Selected(NamedTuple):
    """What is left of one file: encoded selections in record order, and what was left out.

    `indexes` holds, parallel to `records`, the index each selection's record had in its file.
    """

    records: Sequence[bytes]
    indexes: Sequence[int]
    filtered: int
    rejects: Sequence[RecordReject]

    def only(self, put_back: "PutBack | None") -> "Selected":
        """Keep the only records that an operator wants sent, if `put_back` names them."""
        if put_back is None or put_back.records is None:
            return self
        wanted = set(put_back.records)
        kept = [at for at, index in enumerate(self.indexes) if index in wanted]
        rejects: list[RecordReject] = []
        for reject in self.rejects:
            for index in reject.indexes:
                if index in wanted:
                    RecordReject.note(rejects, index, reject.reason)
        # An operator names none but rejected records: what is neither kept nor rejected now is
        # filtered out, by another `select.where`.
        filtered = max(0, min(self.filtered, len(wanted) - len(kept) - RecordReject.total(rejects)))
        records, indexes = [self.records[at] for at in kept], [self.indexes[at] for at in kept]
        return Selected(records, indexes, filtered, rejects)


class Transformed(NamedTuple):
    """What is left of one file, or of some that hold one record each, ready to be packed.

    Parallel to `records`, in the claim's order: `files` holds the position in the claim of each
    record's file, `indexes` the index that it had in that file, from 0. `filtered` counts records
    that are not wanted, `rejects` holds those that cannot be sent, with their file's position. `of`
    holds the positions of all the files that it is of; where they are several, each is one record.
    """

    files: Sequence[int]
    records: Sequence[bytes]
    indexes: Sequence[int]
    filtered: int
    rejects: Sequence[tuple[int, RecordReject]] = ()
    of: Sequence[int] = ()

    def before(self, files: int) -> "Transformed":
        """Return what is of the first `files` files of the claim, in part or whole."""
        if self.of[-1] < files:
            return self
        kept, of = bisect_left(self.files, files), self.of[: bisect_left(self.of, files)]
        # Where one of several files is filtered out, it was one record; a file alone is not cut.
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
        """Return it without the bytes of its file: rejected files may be large, and many."""
        return self._replace(file=msgspec.structs.replace(self.file, data=b""))


class PutBack(NamedTuple):
    """What an operator said of a file put back into the spool for another pass.

    `by` is the token of the command. `salt`, if not empty, gives its messages other ids than those
    it had, so that neither SQS nor a consumer takes them for repeats. `records` are the indexes of
    the only records to be sent: the others were; None means all.
    """

    by: str
    salt: str = ""
    records: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """An ordered, frozen list of files held by one worker under a lease.

    `attempt` is 1 for a new claim and grows with each takeover after an expiry. `journal` maps the
    index of each confirmed message to its id, as written by this worker's predecessors; what this
    one confirms is added where one of them may have sent something (`tried`). `noted` holds the
    whole entries of the last one that wrote any; `fingerprint` stands for its settings: the
    messages of another fingerprint have other ids. `done` are the positions of files that are
    processed already, as ranges; `waits` is how often the claim was given back because others
    could not be read. `goes_on`: what is confirmed now continues `noted`. `after_loss`: its files
    lay in the spool when Redis had forgotten something, so some of them may have been sent before.
    `put_back` holds what an operator said of some of its files. `is_open`: nothing of it was sent,
    and more files are waiting, so that what fills no message is given back.
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
        """What else the ids of its messages depend on; empty but for replayed files."""
        salts = [(name, self.put_back[name].salt) for name in self.names if name in self.put_back]
        return "".join(f"{name}={salt}/" for name, salt in salts if salt)

    def __repr__(self) -> str:
        """Leave the token out: it proves ownership, so it never reaches a log."""
        return f"Claim(id={self.id!r}, files={len(self.names)}, attempt={self.attempt})"


class Message(msgspec.Struct, frozen=True, gc=False):
    """The body of one SQS message and all that is derived from its claim.

    A struct, because one is made for each record where a message holds one: a frozen dataclass
    takes 2 µs to make.

    `index` counts a claim's messages from 0. `id` is 64 hexadecimal digits of
    SHA-256(fingerprint, ordered names, index, body): the same claim under the same settings gives
    the same id. `first_file` and `last_file` index the claim's names: the files whose records it
    holds. `first_record` counts the claim's selected records from 0, so that a message the queue
    refuses can be traced to its records. `file` is the name of the first file, `claim` the id of
    the claim. `size_bytes` is what SQS counts: the body, and name, type and value of each
    attribute.
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
        """What it bears beside its body, name to value."""
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
    """What the queue takes, in bytes as SQS counts them, read from the queue when it is opened."""

    message_bytes_max: int
    batch_bytes_max: int = 1_048_576
    batch_entries_max: int = 10
    fifo: bool = False


class Keys(NamedTuple):
    """AWS credentials as they are now; `token` is empty where they are not temporary."""

    access_key: str
    secret_key: str
    token: str

    def __repr__(self) -> str:
        """Show nothing: secrets never reach a log."""
        return "Keys(…)"


class QueueDepth(NamedTuple):
    """How many messages a queue holds, as SQS estimates it: to be received, received, delayed."""

    visible: int
    in_flight: int
    delayed: int


@dataclass(slots=True)
class Sent:
    """What became of the messages given to `Queue.send`; every one of them is in one place.

    `confirmed` have SQS's receipt. `rejected` never will. `batches` counts the calls that SQS
    answered, `possible_repeats` the messages sent again after an outcome that stayed unknown, and
    `throttled` the calls that SQS asked to slow down.
    """

    confirmed: list[Message] = field(default_factory=list[Message])
    rejected: list[MessageReject] = field(default_factory=list[MessageReject])
    batches: int = 0
    possible_repeats: int = 0
    throttled: int = 0


@dataclass(slots=True)
class Tally:
    """What one run of sqs_loader did; all but what is in seconds are counts.

    The ledger's counters have the same names, and docs/metrics.md says what they count. Beside
    those, `claims_lost` got another owner before their commit, and `claims_released` were given
    back unfinished; `ledger_losses` counts how often Redis had forgotten something;
    `oldest_waiting_seconds` is the age of the oldest file when it was read; `files_young` were not
    complete yet at the end.
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
        """Add what one claim counted; its names are fields of this class."""
        for name, by in counters.items():
            setattr(self, name, getattr(self, name) + by)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the files of a claim, other than being processed.

    `rejected` maps names to the JSON kept for them, `retry_seconds` names to the delay after which
    they are looked at again, and `counters` what to add to each counter.
    """

    vanished: Sequence[str]
    rejected: Mapping[str, str]
    retry_seconds: Mapping[str, float]
    counters: Mapping[str, int]
