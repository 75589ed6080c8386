"""What the commands say and how they exit, without processes."""

import asyncio
import json
import os
import shlex
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from typer.testing import CliRunner, Result

from penstock import archiver, checker, passes, supervisor, telemetry, wiring, worker
from penstock.archiver import ArchiverTally
from penstock.checker import CheckerTally
from penstock.cli import main
from penstock.cli.commands import EXAMPLES, app
from penstock.embedded.redis import EmbeddedRedis
from penstock.errors import Again, Halt, PenstockError
from penstock.model import Tally
from penstock.operate.wording import plural
from penstock.records import expression

FUNCTIONS = {"load": worker, "archive": archiver, "check": checker}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory, and leave the log of the other tests as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(telemetry, "configure", dict)


def penstock(*arguments: str) -> Result:
    """Run one command and return how it ended."""
    return CliRunner().invoke(app, arguments)


def replace_pass(
    monkeypatch: pytest.MonkeyPatch, command: str, one_pass: Callable[..., Awaitable[object]]
) -> None:
    """Let a command run `one_pass` over no parts at all."""

    async def no_parts(*_: object, **__: object) -> None:
        return None

    function = FUNCTIONS[command]
    part = function.__name__.rpartition(".")[2].replace("worker", "loader")
    monkeypatch.setattr(wiring, part, no_parts)
    monkeypatch.setattr(function, command, one_pass)


@pytest.mark.parametrize(
    ("command", "tally", "code"),
    [
        ("load", Tally(), 0),
        ("archive", ArchiverTally(files_archived=1), 0),
        ("archive", ArchiverTally(files_stuck=1), 1),
        ("check", CheckerTally(), 0),
        ("check", CheckerTally(laws_broken=2), 1),
    ],
)
def test_one_pass_exits_with_1_if_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch, command: str, tally: object, code: int
) -> None:
    """Files that cannot be moved and broken laws are in the tally, and in the exit code."""

    async def one_pass(*_: object, **__: object) -> object:
        return tally

    replace_pass(monkeypatch, command, one_pass)
    result = penstock(command, "--json")
    assert result.exit_code == code
    assert result.stdout.startswith("{")


@pytest.mark.parametrize("command", ["load", "archive", "check"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_pass_tells_its_tally_and_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, command: str, number: int
) -> None:
    """Work is undone, so it is not 0; pass after pass has no end but that, so there it is."""

    async def one_pass(*_: object, stop: asyncio.Event, **__: Any) -> object:
        os.kill(os.getpid(), number)
        await stop.wait()
        return ArchiverTally(files_archived=7)

    replace_pass(monkeypatch, command, one_pass)
    result = penstock(command)
    assert (result.exit_code, result.stdout.split()) == (130, ["files_archived", "7"])
    assert penstock(command, "--every", "0").exit_code == 0


QUEUE = "https://sqs.us-east-1.amazonaws.com/1/q"
REDIS = "ledger.url: not an address of Redis; allowed: "
WRONG = [
    ("ledger", "url", "", REDIS),
    ("ledger", "url", "http://x", REDIS),
    ("ledger", "url", "unix://", REDIS),
    ("ledger", "url", "redis://localhost:abc", REDIS),
    ("ledger", "url", "redis://h:99999", REDIS),
    ("ledger", "url", "redis://[::1", REDIS),
    ("ledger", "url", "redis://h?socket_timeout=abc", REDIS),
    ("ledger", "url", "redis://h?hush=1", REDIS),
    ("ledger", "url", "rediss://h?ssl_cert_reqs=hush", REDIS),
    ("ledger", "url", "redis://:hush#hush@h", REDIS),
    ("ledger", "url", "redis://:12/hush@h", REDIS),
    ("queue", "url", "", "queue.url: missing; allowed: "),
    ("queue", "url", "foo", "queue.url is 'foo': it must be the queue's URL"),
    ("queue", "url", "http://[::1", "queue.url is 'http://[::1': it must be the queue's URL"),
    ("queue", "url", "http://u:hush@h/1/q", "queue.url is …: it must be the queue's URL"),
    ("queue", "endpoint_url", "http://h:99999", "queue.endpoint_url is 'http://h:99999': it must"),
    ("queue", "endpoint_url", "http://u:hush@h", "queue.endpoint_url is …: it must be"),
    ("source", "url", "nowhere", "source.url: "),
    ("decode", "preamble_pattern", "\\u00e9", "decode.preamble_pattern: "),
]


def toml(section: str = "", key: str = "", value: str = "") -> None:
    """Write a penstock.toml that can work, but for one value."""
    given = {
        "source": {"url": "spool"},
        "queue": {"url": QUEUE},
        "ledger": {"url": "redis://localhost", "spool": "s"},
        "decode": {"preamble_pattern": ""},
    }
    if section:
        given[section][key] = value
    Path("spool").mkdir()
    lines = [
        f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
        for name, values in given.items()
    ]
    Path("penstock.toml").write_text("".join(lines))


def test_settings_that_can_work_pass_the_check() -> None:
    """A directory, a queue's URL and an address of Redis are enough, and nothing is asked."""
    toml()
    result = penstock("config", "check")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(penstock("config", "check", "--json").stdout)["wrong"] == []


@pytest.mark.parametrize(("section", "key", "value", "line"), WRONG)
def test_the_check_refuses_in_one_line_what_cannot_work(
    section: str, key: str, value: str, line: str
) -> None:
    """The line is the one that the parts themselves would say, without any part of a password."""
    toml(section, key, value)
    result = penstock("config", "check")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith(line)
    assert "hush" not in result.stderr


@pytest.mark.parametrize(("section", "key", "value", "line"), WRONG)
def test_run_starts_nothing_that_cannot_work(
    monkeypatch: pytest.MonkeyPatch, section: str, key: str, value: str, line: str
) -> None:
    """Only a person can mend it, so it is told once instead of starting processes for ever."""
    monkeypatch.setattr(supervisor, "supervise", None)
    toml(section, key, value)
    result = penstock("run")
    assert isinstance(result.exception, Halt)
    assert str(result.exception).startswith(line)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize(
    ("url", "redis", "alone"),
    [
        ("http://127.0.0.1:1", "embedded", True),
        ("nginx+http://127.0.0.1:1/spool/", "embedded", True),
        ("spool", "embedded", False),
        ("http://127.0.0.1:1", "redis://localhost", False),
    ],
)
def test_a_redis_of_ones_own_over_http_is_warned_of(url: str, redis: str, *, alone: bool) -> None:
    """It can work, for one box; nothing beside the spool would keep a second one from it."""
    toml("source", "url", url)
    text = Path("penstock.toml").read_text().replace("redis://localhost", redis)
    Path("penstock.toml").write_text(text)
    result = penstock("config", "check")
    assert result.exit_code == 0
    assert ("warning: ledger.url: 'embedded'" in result.stderr) is alone
    warned = json.loads(penstock("config", "check", "--json").stdout)["warnings"]
    assert len(warned) == alone


def test_a_console_over_nothing_is_refused() -> None:
    """Without source.url there is nothing to show: one line that says how to come by one."""
    result = penstock("console")
    assert isinstance(result.exception, Halt)
    assert "penstock init DIR" in str(result.exception)


def test_a_consoles_port_in_use_names_its_own_setting() -> None:
    """Which is not that of the file server."""
    toml()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        result = penstock("console", "--listen", where)
    told = f"run.console: cannot listen on {where}: Address already in use; choose another port"
    assert str(result.exception).startswith(told)
    result = penstock("console", "--listen", "192.0.2.1:80")
    assert str(result.exception).startswith("run.console: 192.0.2.1:80 is reachable from other")


def test_how_many_of_what() -> None:
    """One is one; thousands have commas."""
    assert plural(1, "file") == "1 file"
    assert plural(0, "file") == "0 files"
    assert plural(1_200, "batch", "batches") == "1,200 batches"


def test_no_password_is_shown() -> None:
    """What is in force is printed without them, wherever they stand in an address."""
    toml("ledger", "url", "redis://u:hush@hush@localhost/0?password=hush&db=1")
    text = Path("penstock.toml").read_text().replace(QUEUE, "http://u:hush@host/1/q")
    Path("penstock.toml").write_text(text)
    for options in ([], ["--json"]):
        result = penstock("config", "show", *options)
        assert result.exit_code == 0
        assert "hush" not in result.stdout
        assert "host/1/q" in result.stdout


async def test_a_halt_between_passes_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `penstock run` the log says why a process ended, beside that it is started again."""
    logged: list[tuple[str, Any]] = []
    monkeypatch.setattr(telemetry, "warn", lambda step, **fields: logged.append((step, fields)))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]

    async def open_parts(_: object) -> passes.OnePass[None]:
        raise Halt("the queue is gone")

    with pytest.raises(Halt):
        await passes.every(0, open_parts, asyncio.Event(), what="loader")
    assert logged == [("loader.halts", {"pid": os.getpid(), "cause": "the queue is gone"})]


async def test_a_state_directory_that_cannot_be_used_halts(tmp_path: Path) -> None:
    """A file in its place: the setting, the path and the cause in one line."""
    (tmp_path / "state").write_text("")
    told = r"run\.state_directory: .*/state/redis cannot be used: Not a directory; "
    with pytest.raises(Halt, match=told) as e:
        await EmbeddedRedis(tmp_path / "state").start()
    assert "\n" not in str(e.value)
    (tmp_path / "mine" / "redis" / "owner.lock").mkdir(parents=True)
    with pytest.raises(
        Halt, match=r"run\.state_directory: .*owner.lock cannot be used: Is a directory; "
    ):
        await EmbeddedRedis(tmp_path / "mine").start()


@pytest.mark.parametrize("setting", ["SOURCE__URL", "QUEUE__URL", "QUEUE__ENDPOINT_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "https://user:sesame@host:bad",
        "https://user:sesame@[bad/1/q",
        "https://user:sesame@host/1/q",
        "https://us\u2100er:sesame@host/1/q",
        "nginx+https://user:sesame@host:bad/spool/",
        "file://user:sesame@host/spool",
        "http+unix://user:sesame@host/1/q",
    ],
)
def test_no_command_says_a_password_of_an_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, url: str
) -> None:
    """Wherever an address stands that cannot be used, its error leaves the password out."""
    (tmp_path / "spool").mkdir()
    given = {"SOURCE__URL": str(tmp_path / "spool"), "LEDGER__URL": "redis://127.0.0.1:1",
             "LEDGER__SPOOL": "s", "QUEUE__URL": "http://127.0.0.1:1/1/q"}  # fmt: skip
    for name, value in (given | {setting: url}).items():
        monkeypatch.setenv(f"PENSTOCK_{name}", value)
    commands = [["config", "check"], ["config", "show"], ["status", "--json"], ["load"]]
    commands += [["run"], ["serve"], ["explain", "a"]] if setting == "SOURCE__URL" else []
    for command in commands:
        result = penstock(*command)
        assert "sesame" not in result.output + result.stderr + repr(result.exception), command
        assert isinstance(result.exception, (PenstockError, SystemExit, type(None))), command


def test_no_error_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Another user may choose a part of one: a name, a marker beside the spool."""
    for error, code in ((Halt("a\x1b[31m\nb\x9b1m"), 78), (Again("c\x1b]0;x\x07"), 75)):

        def command(error: Exception = error) -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == code
    assert capsys.readouterr().err.splitlines() == [
        "penstock: a\\u001b[31m",
        "penstock: b\\u009b1m",
        "penstock: c\\u001b]0;x\\u0007 (this may pass: retry later)",
    ]


def test_a_mistyped_command_is_guessed() -> None:
    """Of the commands themselves, and of those inside a group."""
    assert "Did you mean 'status'?" in penstock("stauts").output
    assert "Did you mean 'list'?" in penstock("rejected", "lits").output


def test_a_mistyped_function_is_guessed() -> None:
    """A mistyped function gets a guess, in every setting and option that takes an expression."""
    with pytest.raises(Halt, match=r"there is no function lenght\(\); did you mean length\(\)\?"):
        expression.parsed("lenght(a)")


@pytest.mark.parametrize("path", EXAMPLES)
def test_every_command_has_two_examples_that_can_be_typed(path: str) -> None:
    """Each is parsed as the command line would, and stands in the command's help."""
    command: Any = typer.main.get_command(app)
    for name in path.split():
        command = command.get_command(typer.Context(command), name)
    shown = CliRunner().invoke(app, [*path.split(), "--help"], terminal_width=300).output
    for example in EXAMPLES[path]:
        command.make_context(path, shlex.split(example))
        assert " ".join(f"penstock {path} {example}".split()) in " ".join(shown.split())


def test_no_command_is_without_examples() -> None:
    """Groups have them at their commands."""
    root: Any = typer.main.get_command(app)
    known = set[str]()
    for name in root.list_commands(None):
        parts = getattr(root.get_command(None, name), "commands", {})
        known |= {f"{name} {part}" for part in parts} or {name}
    assert known == EXAMPLES.keys()


def test_a_question_without_a_terminal_names_the_option(tmp_path: Path) -> None:
    """A script that cannot answer is told how to agree beforehand."""
    (tmp_path / "penstock.toml").write_text(f'[source]\nurl = "{tmp_path}"\n')
    result = penstock("spool", "accept")
    assert (result.exit_code, "add --yes" in result.output) == (1, True)
    asked = CliRunner().invoke(app, ["spool", "accept"], input="n\n")
    assert (asked.exit_code, "--yes" in asked.output) == (1, False)


def test_ctrl_c_is_130_wherever_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a command that has no loop to stop, and before one has begun."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for command in (interrupted, None):
        monkeypatch.setattr("sys.argv", ["penstock", "config", "show"])
        monkeypatch.setattr("penstock.cli.config.load", interrupted)
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 130
