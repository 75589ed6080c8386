"""Whatever bytes a file holds, they become bodies that SQS takes, or a reason; and soon."""

import json
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest

from penstock.errors import Reject
from penstock.records.decode import Decoder
from penstock.records.preamble import Preamble
from penstock.records.selection import Selection
from support.campaign import SCALE
from support.json_samples import expression_text, record_text

_PREAMBLES = (
    "", "\ufeff", "// x\n", "/* x */", "<!-- -->", ")]}',\n", "while(1);", "{}&&", "x = ", "f(",
    "&&&START&&&", "throw 1; <x>", "HEAD\n", "; a\r\n",
)  # fmt: skip
_SCRAPS = (
    *(b"\xef\xbf\xbe", b"\xef\xbf\xbf", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80"),
    *(b"\\ud800", b"\\uffff", b"\\", b'"', b"\x00", b"\x1e", b"\x1f", b"\x7f", b"\xc2\x85"),
    *(b"{", b"}", b"[", b"]", b",", b":", b"1e999", b"-", b"NaN", b"/*", b"*/", b"//", b"\n"),
    *(b"[" * 2000, b'{"a":' * 2000, b"9" * 5000, b"(" * 300, b"a." * 300, b"x=" * 300),
)
_SPARE = Preamble(
    lines=1, pattern="(HEAD|[a-z]+ )+\n", literals=[("HEAD", "TAIL"), ("// [", "]"), ("{{", "}}")]
)


def sendable(body: bytes) -> bool:
    """Tell whether SQS takes a body: UTF-8 of the characters that XML 1.0 has."""
    return all(
        character in "\t\n\r"
        or " " <= character <= "\ud7ff"
        or "\ue000" <= character <= "\ufffd"
        or character >= "\U00010000"
        for character in body.decode()
    )


def files(random: Random) -> Iterator[bytes]:
    """Yield a file as it should be, and what is left of it after accident upon accident."""
    records = [record_text(random) for _ in range(random.randrange(4))]
    around = random.choice((("[", ",", "]"), ("", "\n", ""), ('{"r":[', ",", "]}")))
    text = "".join(random.choice(_PREAMBLES) for _ in range(random.randrange(3)))
    data = f"{text}{around[0]}{around[1].join(records)}{around[2]}".encode()
    for _ in range(6):
        yield data
        at, size = random.randrange(len(data) + 1), random.choice((0, 0, 1, 2, 7))
        scrap = random.choice((b"", random.choice(_SCRAPS), random.randbytes(2)))
        data = data[:at] + scrap + data[at + size :]


def check(random: Random) -> tuple[int, int]:
    """Take some files through the stages; return how many bodies and rejections came of it."""
    select = "@" if random.random() < 0.2 else expression_text(random)
    selection = Selection(select, expression_text(random, 1) if random.random() < 0.2 else None)
    decoder = Decoder(selection.record_type, records="r" if random.random() < 0.2 else None)
    preamble = _SPARE if random.random() < 0.2 else Preamble()
    bodies = rejections = 0
    for data in files(random):
        started = time.perf_counter()
        try:
            selected = selection.select(decoder.decode(preamble.strip(data)))
        except Reject as reject:
            assert sendable(reject.reason.encode())  # noqa: PT017 - sendable or rejected
            rejections += 1
        else:
            for body in selected.records:
                json.loads(body, parse_int=float)  # of whatever length
                assert sendable(body), (select, data, body)
            assert len(selected.records) == len(selected.indexes)
            bodies += len(selected.records)
        assert time.perf_counter() - started < 10, (select, data)
    return bodies, rejections


def run(seeds: Iterator[int], until_seconds: float) -> str:
    """Check seed after seed; a failure says which one. Returns what came of it, in words."""
    bodies = rejections = 0
    for seed in seeds:
        try:
            more = check(Random(seed))
        except BaseException as error:
            error.add_note(f"seed={seed}")
            raise
        bodies, rejections = bodies + more[0], rejections + more[1]
        if time.monotonic() > until_seconds:
            break
    assert bodies > 100
    assert rejections > 100
    return f"{bodies:,} bodies that SQS takes, {rejections:,} files rejected with a reason"


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_no_bytes_crash_hang_or_give_a_body_sqs_refuses() -> None:
    """The same fourteen thousand files every time."""
    run(iter(range(2_000)), time.monotonic() + 60)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_ten_minutes_of_fuzzing(record_property: Callable[[str, object], None]) -> None:
    """Other seeds than the short form's."""
    seconds = max(5, 600 * SCALE)
    came = run(iter(range(1_000_000, 2_000_000_000)), time.monotonic() + seconds)
    record_property("campaign", f"fuzz of the stages, {seconds:.0f} s: {came}")
