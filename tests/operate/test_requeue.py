"""Rejected and archived files back into the spool: sent as they should be, beside all that runs."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock import passes, telemetry, wiring
from penstock.cli import EXIT_HALT, main
from penstock.cli.commands import app
from penstock.errors import Again
from penstock.model import PutBack
from penstock.operate import requeue
from penstock.operate.archived import Archived
from penstock.operate.reject_filter import RejectFilter, moment
from penstock.operate.requeue import Returning
from penstock.operate.spool_files import SpoolFiles, rejected_file, spool_files
from support.box import SECOND, Box


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what has just left the spool, and leave the log of the other tests as it is."""
    monkeypatch.setattr(requeue, "LEFT_FOR_SECONDS", 0.0)
    monkeypatch.setattr(telemetry, "configure", dict[str, Any])

    def run(main: Any) -> Any:
        return asyncio.run(main(asyncio.Event()))

    monkeypatch.setattr(passes, "run", run)


async def penstock(box: Box, *arguments: str, code: int = 0) -> Result:
    """Run one command on a box, and expect its exit code."""
    command = [*arguments, "--config", str(box.toml())]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == code, result.output
    return result


def name(number: int) -> str:
    """Return the name of a file of `Box.write_many`."""
    return f"{SECOND}.{number:06d}.json"


async def pass_over(box: Box) -> None:
    """Run one pass of loader, archiver and checker."""
    await box.load()
    await box.archive()
    assert (await box.check()).laws_broken == 0


async def accounted(box: Box) -> None:
    """Expect `verify` to account for every file."""
    result = await penstock(box, "verify", "--archive")
    assert "every file is accounted for" in result.output


async def test_a_file_rejected_for_the_settings_is_sent_when_they_are_mended(box: Box) -> None:
    """Rejected, settings mended, retried: sent, archived, its reason gone, the books in order."""
    file = box.write(name(1), '@@ machine 7 @@\n{"id": 1}')
    await pass_over(box)
    assert (await penstock(box, "rejected", "list")).output.count(file) == 1
    shown = json.loads((await penstock(box, "rejected", "show", file)).output)
    assert (shown["file"], shown["moved"]) == (file, True)
    box.set("decode", preamble_lines=1)
    await penstock(box, "rejected", "retry", file, "--yes")
    assert (box.spool / file).exists()
    await pass_over(box)
    assert box.received_ids() == {1: 1}
    assert list((box.root / "rejected").iterdir()) == []
    await accounted(box)


@pytest.mark.parametrize("form", ["[{}]", "{}"])
async def test_of_a_file_rejected_in_part_only_the_rejected_records_are_sent(
    box: Box, form: str
) -> None:
    """Its other records were sent, and are not sent again; an array or not."""
    big = "x" * 3000
    records = [{"id": 1}, {"id": 2, "text": big}, {"id": 3}]
    between = "," if form == "[{}]" else " "
    file = box.write(name(1), form.format(between.join(map(json.dumps, records))))
    box.set("select", fields="{id: id, text: text}")
    box.set("queue", message_bytes=2048)
    await pass_over(box)
    assert box.received_ids() == {1: 1, 3: 1}
    box.set("queue", message_bytes=1_048_576)
    await penstock(box, "rejected", "retry", "--reason", "largest allowed", "--yes")
    await pass_over(box)
    assert box.received_ids() == {1: 1, 2: 1, 3: 1}
    assert (box.root / "archive/2026/11/23/06" / file).exists()
    await accounted(box)


async def test_retried_and_rejected_again_it_can_be_retried_again(box: Box) -> None:
    """Retry too early costs nothing: the file is rejected anew, with a reason anew."""
    records = [{"id": 1}, {"id": 2, "text": "x" * 3000}]
    file = box.write(name(1), json.dumps(records))
    box.set("select", fields="{id: id, text: text}")
    box.set("queue", message_bytes=2048)
    await pass_over(box)
    for _ in range(2):
        await penstock(box, "rejected", "retry", file, "--yes")
        await pass_over(box)
    assert "1 of its records" in box.reason(file)
    box.set("queue", message_bytes=1_048_576)
    await penstock(box, "rejected", "retry", file, "--yes")
    await pass_over(box)
    assert box.received_ids() == {1: 1, 2: 1}
    await accounted(box)


async def test_whole_sends_all_records_of_a_file(box: Box) -> None:
    """Asked for explicitly, records that were sent are sent again, under new ids."""
    file = box.write(name(1), json.dumps([{"id": 1}, {"id": 2, "text": "x" * 3000}]))
    box.set("select", fields="{id: id, text: text}")
    box.set("queue", message_bytes=2048)
    await pass_over(box)
    box.set("queue", message_bytes=1_048_576)
    await penstock(box, "rejected", "retry", file, "--whole", "--yes")
    await pass_over(box)
    assert box.received_ids() == {1: 2, 2: 1}


def test_a_file_whose_reason_does_not_list_all_records_wants_whole() -> None:
    """What was sent of it cannot be told, so nothing is guessed."""
    story = {"reason": "5 of its records", "records": [{"index": 0}], "records_rejected": 5}
    file = rejected_file("a.json", json.dumps(story), moved=True)
    refused = requeue.retry_of(file, "token", whole=False)
    assert isinstance(refused, str)
    assert "--whole" in refused
    assert requeue.retry_of(file, "token", whole=True) == PutBack("token", salt="token")


def test_rows_of_rejected_records_are_retried_record_by_record() -> None:
    """Unless they are more than Redis is to be told of."""
    records = [{"index": 2, "reason": "x", "count": 3}, {"index": 9, "reason": "y"}]
    story: dict[str, object] = {"reason": "4 of its records", "records": records}
    file = rejected_file("a.json", json.dumps(story | {"records_rejected": 4}), moved=True)
    assert requeue.retry_of(file, "token", whole=False) == PutBack("token", records=(2, 3, 4, 9))
    records[1]["count"] = 2_000_000
    file = rejected_file("a.json", json.dumps(story | {"records_rejected": 2_000_003}), moved=True)
    assert "--whole" in str(requeue.retry_of(file, "token", whole=False))


@pytest.mark.parametrize("text", ["", "[1]", '{"reason": 3}', '{"records": [{"index": "one"}]}'])
async def test_without_a_readable_reason_nothing_is_guessed(box: Box, text: str) -> None:
    """Some of its records may have been sent: all of them go again only if that is said."""
    file = box.write(name(1), json.dumps([{"id": 1}, {"id": 2, "text": "x" * 3000}]))
    box.set("select", fields="{id: id, text: text}")
    box.set("queue", message_bytes=2048)
    await pass_over(box)
    (box.root / "rejected" / f"{file}.reason.json").write_text(text)
    box.set("queue", message_bytes=1_048_576)
    assert "missing or cannot be read" in (await penstock(box, "rejected", "list")).output
    assert "cannot be read" in (await penstock(box, "explain", file)).output
    told = await penstock(box, "rejected", "retry", file, "--yes", code=1)
    assert "--whole" in told.output
    assert box.received_ids() == {1: 1}
    await penstock(box, "rejected", "retry", file, "--whole", "--yes")
    await pass_over(box)
    assert box.received_ids() == {1: 2, 2: 1}


async def test_a_name_that_is_no_reject_is_told(box: Box) -> None:
    """A name that was mistyped is an error; a pattern that fits nothing is not."""
    file = box.write(name(1), "garbage")
    await pass_over(box)
    for command in ("retry", "discard"):
        told = await penstock(box, "rejected", command, "nobody.json", file, "--dry-run", code=1)
        assert "1 file would be" in told.output
        assert "not nobody.json: it is not rejected" in told.output
        told = await penstock(box, "rejected", command, "nobody.json", "--json", code=1)
        assert "nobody.json" in json.loads(told.stdout)["refused"]
        assert "0 files" in (await penstock(box, "rejected", command, "nobody*", "--yes")).output


async def test_why_it_waits_is_said_once(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a file or a pipe goes one line, no countdown."""
    monkeypatch.setattr(requeue, "LEFT_FOR_SECONDS", 3.0)
    file = box.write(name(1), "garbage")
    await pass_over(box)
    told = await penstock(box, "rejected", "retry", file, "--yes")
    assert told.output.count("an archiver may still be moving 1 file") == 1
    assert "1 file put back" in told.output


async def test_a_directory_that_cannot_be_used_is_one_line(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a traceback: which directory, and what the system says of it."""
    file = box.write(name(1), "garbage")
    await pass_over(box)
    (box.root / "rejected" / "discarded").write_text("")
    command = ["penstock", "rejected", "discard", file, "--yes", "--config", str(box.toml())]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main)
    assert ended.value.code == EXIT_HALT
    told = capsys.readouterr().err
    assert told == f"penstock: {box.root}/rejected/discarded: Not a directory\n"
    (box.root / "rejected" / "discarded").unlink()
    await accounted(box)


async def test_a_reject_that_cannot_be_moved_out_is_told(box: Box) -> None:
    """Something else lies in its place: named, with the exit code, and nothing is overwritten."""
    file = box.write(name(1), "garbage")
    await box.load()
    (box.root / "rejected").mkdir()
    (box.root / "rejected" / file).write_text("another one")
    for command in ("retry", "discard"):
        told = await penstock(box, "rejected", command, file, "--yes", code=1)
        assert f"rejected/{file} exists and differs; rename one of the two" in told.output
    assert (box.spool / file).read_text() == "garbage"
    assert (box.root / "rejected" / file).read_text() == "another one"


async def test_a_reject_still_in_the_spool_is_retried_too(box: Box) -> None:
    """What the archiver has not moved yet is moved first: one way for all."""
    file = box.write(name(1), '@@ machine 7 @@\n{"id": 1}')
    await box.load()
    assert "still in the spool" in (await penstock(box, "rejected", "list")).output
    box.set("decode", preamble_lines=1)
    box.set(
        "source", settle_seconds=60
    )  # being moved, it is unsettled, and nobody writes it any more
    await penstock(box, "rejected", "retry", file, "--yes")
    await pass_over(box)
    assert box.received_ids() == {1: 1}
    await accounted(box)


async def test_replayed_files_are_sent_again_on_a_fifo_queue(fifo_box: Box) -> None:
    """Within SQS's five minutes: new ids, or the queue would drop them and say that it has them."""
    box = fifo_box
    box.write_many(3)
    await pass_over(box)
    assert box.received_ids() == {0: 1, 1: 1, 2: 1}
    await penstock(box, "replay", name(0), name(1), name(2), "--yes")
    await pass_over(box)
    assert box.received_ids() == {0: 2, 1: 2, 2: 2}
    await penstock(box, "replay", name(1), "--yes")
    await pass_over(box)
    assert box.received_ids() == {0: 2, 1: 3, 2: 2}
    await accounted(box)


async def test_a_replay_taken_over_keeps_its_ids(fifo_box: Box) -> None:
    """A worker dies with replayed files: its successor sends the same ids, which SQS drops."""
    box = fifo_box
    box.write_many(2)
    await pass_over(box)
    await penstock(box, "replay", name(0), name(1), "--yes")
    stop = asyncio.Event()
    stop.set()
    async with AsyncExitStack() as stack:  # a worker that sends, and dies before its commit
        parts = await wiring.loader(box.settings, stack)
        claim = (await parts.ledger.claim([], 500)).claim
        assert claim is not None
        packer = parts.new_packer(claim)
        await parts.reader.read(claim, 0, len(claim.names), packer, lambda _: None)

        async def confirmed(_: Any) -> None:
            return None

        await parts.queue.send(
            packer.rest(), group=claim.id, deadline=lambda: 1e18, confirmed=confirmed
        )
        await parts.ledger.release(claim)
    await pass_over(box)
    assert box.received_ids() == {0: 2, 1: 2}


async def test_replay_by_time_takes_the_window_and_no_more(box: Box) -> None:
    """Since and until are of the time in the name; --dry-run changes nothing."""
    for minute in range(5):
        box.write(f"2026-11-23T06-{minute:02d}-00.json", f'{{"id": {minute}}}')
    await pass_over(box)
    window = ("--since", "2026-11-23T06:01", "--until", "2026-11-23T06:03")
    said = await penstock(box, "replay", *window, "--dry-run")
    assert "2 files" in said.output
    assert list(box.spool.glob("[!.]*")) == []
    await penstock(box, "replay", *window, "--yes")
    await pass_over(box)
    assert box.received_ids() == {0: 1, 1: 2, 2: 2, 3: 1, 4: 1}


async def test_replay_takes_patterns(box: Box) -> None:
    """As `rejected` does; one that matches nothing is named, and does not stand for all."""
    box.write_many(12)
    await pass_over(box)
    said = await penstock(box, "replay", "*.00000[3-5].json", name(1), "--dry-run")
    assert "4 files would be sent again" in said.stderr
    said = await penstock(box, "replay", "nothing*", "--dry-run", code=1)
    assert "0 files would be sent again" in said.stderr
    assert "not nothing*: it is not in the archive" in said.stderr


async def test_replay_names_what_it_cannot_find(box: Box) -> None:
    """Exit code 1, the file and why; the others are put back."""
    box.write_many(1)
    await pass_over(box)
    result = await penstock(box, "replay", name(0), "nothing.json", "--yes", code=1)
    assert "nothing.json: it is not in the archive" in result.output
    assert (box.spool / name(0)).exists()


async def test_a_name_given_twice_is_one_file(box: Box) -> None:
    """As shells make it of two patterns."""
    box.write_many(1)
    await pass_over(box)
    result = await penstock(box, "replay", name(0), name(0), "--dry-run")
    assert "1 file would be sent again" in result.output


async def test_a_window_that_holds_nothing_is_refused(box: Box) -> None:
    """The two times the wrong way round, or a time to come: no file, and not silently."""
    for command in (["replay"], ["rejected", "retry"], ["rejected", "discard"]):
        told = await penstock(box, *command, "--since", "1h", "--until", "2h", code=2)
        assert "--since is not before --until" in told.output
        told = await penstock(box, *command, "--since", "2099-01-01", code=2)
        assert "--since is not before now" in told.output


async def test_a_second_run_of_a_replay_finds_nothing_to_do(box: Box) -> None:
    """Safe to repeat: a file that is in the spool already is not in the archive any more."""
    box.write_many(1)
    await pass_over(box)
    await penstock(box, "replay", name(0), "--yes")
    await penstock(box, "replay", name(0), "--yes", code=1)
    await pass_over(box)
    assert box.received_ids() == {0: 2}


async def test_replay_beside_workers_and_archivers(box: Box) -> None:
    """Two loaders and an archiver go on while files come and others are replayed: all right."""
    box.write_many(300)
    await pass_over(box)
    stop = asyncio.Event()

    async def going_on(one_pass: Any) -> None:
        while not stop.is_set():
            await one_pass()
            await asyncio.sleep(0.01)

    running = [asyncio.create_task(going_on(p)) for p in (box.load, box.load, box.archive)]
    for portion in range(3):
        names = [name(i) for i in range(100 * portion, 100 * portion + 100)]
        box.write_many(50, first=1000 + 50 * portion)
        await penstock(box, "replay", *names, "--yes")
    async with asyncio.timeout(60):
        while list(box.spool.glob("[!.]*")):
            await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*running)
    assert box.received_ids() == {
        **dict.fromkeys(range(300), 2),
        **dict.fromkeys(range(1000, 1150), 1),
    }
    await accounted(box)


async def test_a_name_that_is_in_the_spool_again_is_not_overwritten(box: Box) -> None:
    """The producer used the name again: both files stay where they are."""
    box.write_many(1)
    await pass_over(box)
    box.write(name(0), '{"id": 99}')
    result = await penstock(box, "replay", name(0), "--yes", code=1)
    assert "another file of that name is in the spool" in result.output
    assert (box.spool / name(0)).read_text() == '{"id": 99}'


async def test_an_operator_who_dies_in_between_leaves_nothing_lost(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the hold: the file is where it was. Killed after the move: it is sent."""
    box.write_many(2)
    await pass_over(box)
    where = spool_files(box.settings, "test")
    async with AsyncExitStack() as stack:
        book = await wiring.ledger(box.settings, stack)

        async def put_back(number: int) -> None:
            path = where.archived(name(number))
            assert path is not None
            said = PutBack("operator", salt="salt")
            await requeue.put_back(book, where, [Returning(path, said)], stop=asyncio.Event())

        async def killed(*_: Any) -> int:
            raise Again("Redis went away")

        def dies(*_: Any) -> None:
            raise KeyError

        with monkeypatch.context() as broken:
            broken.setattr(requeue, "_move", dies)
            with pytest.raises(KeyError):
                await put_back(0)
        with monkeypatch.context() as broken:
            broken.setattr(book.repairs, "put_back", killed)
            with pytest.raises(Again):
                await put_back(1)
        assert Archived(where).places(name(0)) == ["archive"]
        assert Archived(where).places(name(1)) == ["spool"]
        assert await book.reads.states([name(0), name(1)]) == ["retry", "retry"]
        await book.repairs.put_back([name(0), name(1)], {})  # as if the hold were over
    await pass_over(box)
    assert box.received_ids() == {0: 1, 1: 2}
    await accounted(box)


async def test_discarded_files_are_kept_unless_told_otherwise(box: Box) -> None:
    """They go to discarded/ with their reasons; with --no-copy they are gone."""
    one, two = box.write(name(1), "garbage"), box.write(name(2), "garbage")
    await pass_over(box)
    rejects = box.root / "rejected"
    refused = await penstock(box, "rejected", "discard", code=2)
    assert "which?" in refused.output
    dry = await penstock(box, "rejected", "discard", "--all", "--dry-run")
    assert "2 files would be" in dry.output
    await penstock(box, "rejected", "discard", one, code=1)  # asks, and nobody says yes
    assert (rejects / one).exists()
    await penstock(box, "rejected", "discard", one, "--yes")
    await penstock(box, "rejected", "discard", "*000002*", "--no-copy", "--yes")
    kept = {str(path.relative_to(rejects)) for path in rejects.rglob("*") if path.is_file()}
    assert kept == {f"discarded/{one}", f"discarded/{one}.reason.json"}
    explained = await penstock(box, "explain", one)
    assert explained.output.startswith(f"{one}: discarded\n")
    assert str(rejects / "discarded" / one) in explained.output
    assert not (rejects / two).exists()
    await accounted(box)


async def test_behind_http_the_commands_say_where_they_work(box: Box) -> None:
    """One line, exit code 78: run it where the directory is."""
    box.set("source", url="http://127.0.0.1:1")
    for command in (["rejected", "retry", "--all"], ["replay", "x.json"]):
        result = await asyncio.to_thread(
            CliRunner().invoke, app, [*command, "--yes", "--config", str(box.toml())]
        )
        assert "works only on the directory itself" in str(result.exception)
    verified = await penstock(box, "verify")
    assert "the ledger's own laws hold" in verified.output
    assert "every file is accounted for" not in verified.output  # nobody looked at one


@pytest.mark.parametrize(
    ("choice", "takes"),
    [
        (RejectFilter(("2026-11-23*",)), True),
        (RejectFilter(("other.json",)), False),
        (RejectFilter(reason="NOT utf"), True),
        (RejectFilter(reason="too large"), False),
        (RejectFilter(since=moment("2026-11-23T07:00")), True),
        (RejectFilter(since=moment("2026-11-23T07:01")), False),
        (RejectFilter(until=moment("2026-11-23")), False),
        (RejectFilter(), True),
    ],
)
def test_an_operator_chooses_by_name_reason_and_time(choice: RejectFilter, takes: bool) -> None:  # noqa: FBT001
    """Patterns as shells have them; reasons in any case; times in UTC."""
    story: dict[str, Any] = {
        "reason": "not UTF-8",
        "records": [],
        "rejected_at": "2026-11-23T07:00:30+00:00",
    }
    file = rejected_file("2026-11-23T06.json", json.dumps(story), moved=True)
    assert choice.takes(file) is takes


def test_a_time_that_is_none_says_what_is_allowed() -> None:
    """The message names what was given, and examples."""
    with pytest.raises(ValueError, match="'yesterday' is not a time; use 2026-"):
        moment("yesterday")


async def test_explain_tells_a_files_life(box: Box) -> None:
    """Waiting, claimed with what SQS has confirmed, processed, archived, rejected, unknown."""
    box.write_many(2)
    story = str((await penstock(box, "explain", name(0))).output)
    assert f"{name(0)}: waiting" in story
    assert str(box.spool / name(0)) in story
    async with AsyncExitStack() as stack:
        book = await wiring.ledger(box.settings, stack)
        claim = (await book.claim([name(0), name(1)], 500)).claim
        assert claim is not None
        await book.journal(claim, {0: "f" * 64 + " 0-0"})
        story = str((await penstock(box, "explain", name(1))).output)
        assert f"in claim {claim.id}, file 2 of 2" in story
        assert f"message 0: penstock_id {'f' * 64}" in story
        await book.release(claim)
    broken = box.write(name(2), "garbage")
    await box.load()
    assert "processed at" in (await penstock(box, "explain", name(0))).output
    await box.archive()
    story = str((await penstock(box, "explain", name(0), broken)).output)
    assert f"{box.root}/archive/2026/11/23/06/{name(0)}" in story
    assert f"penstock replay {name(0)}" in story
    assert f"{broken}: rejected" in story
    assert f"penstock rejected retry {broken}" in story
    unknown = await penstock(box, "explain", "nobody.json", "--json", code=1)
    assert json.loads(unknown.output)[0]["state"] == "unknown"


def _delete(where: SpoolFiles, name: str) -> None:
    (where.archived(name) or Path()).unlink()


def _write_in_spool(where: SpoolFiles, name: str) -> None:
    (where.spool / name).write_text("{}")


def _write_in_rejects(where: SpoolFiles, name: str) -> None:
    (where.rejects / name).write_text("{}")


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (_delete, "something deleted it"),
        (_write_in_spool, "it is in spool and archive"),
        (_write_in_rejects, "it is in archive and rejects"),
    ],
)
async def test_verify_names_a_file_that_it_cannot_account_for(
    box: Box, breaks: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted behind Penstock's back, or in two places: named, exit code 1."""
    monkeypatch.setattr("penstock.operate.verify._PAUSE_SECONDS", 0.01)
    box.write_many(3)
    (box.root / "rejected").mkdir()
    await pass_over(box)
    where: SpoolFiles = spool_files(box.settings, "test")
    breaks(where, name(1))
    result = await penstock(box, "verify", code=1)
    assert f"{name(1)}: " in result.output
    assert says in result.output
    assert name(0) not in result.output


async def test_verify_looks_again_at_what_moves(box: Box) -> None:
    """Beside loaders and archivers at work, whatever moment it looks at, it finds nothing odd."""
    stop = asyncio.Event()

    async def going_on(one_pass: Any) -> None:
        while not stop.is_set():
            await one_pass()

    running = [asyncio.create_task(going_on(p)) for p in (box.load, box.archive)]
    for portion in range(3):
        box.write_many(400, first=400 * portion)
        await accounted(box)
    stop.set()
    await asyncio.gather(*running)
