"""Settings: where they come from, and what a wrong one says."""

from pathlib import Path

import pytest

from penstock.errors import Halt
from penstock.settings.reading import load
from penstock.settings.schema import Settings
from penstock.settings.secrets import without_password


def toml(tmp_path: Path, text: str) -> Path:
    """Write a penstock.toml and return its path."""
    path = tmp_path / "penstock.toml"
    path.write_text(text)
    return path


def test_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands nearer to the command wins; the rest stays."""
    path = toml(tmp_path, '[queue]\nurl = "a"\nconnections = 3\n')
    monkeypatch.setenv("PENSTOCK_QUEUE__URL", "b")
    found = load(path).queue
    assert (found.url, found.connections, found.timeout_seconds) == ("b", 3, 10.0)
    assert load(path, {"queue": {"url": "c"}}).queue.url == "c"


def test_every_setting_can_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers, and the number that is also a word."""
    monkeypatch.setenv("PENSTOCK_QUEUE__RECORDS_PER_MESSAGE", "1")
    monkeypatch.setenv("PENSTOCK_WORKER__LANES", "7")
    found = load(toml(tmp_path, ""))
    assert (found.queue.records_per_message, found.worker.lanes) == (1, 7)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[worker]\nlanes = 0", "worker.lanes: 0 is not allowed; allowed: greater than or equal"),
        ('[source]\nsettle_seconds = "x"', "source.settle_seconds: 'x' is not allowed; allowed: a"),
        ("[queue]\nrecords_per_message = 2", "queue.records_per_message: 2 is not allowed; allow"),
        ('[archive]\naction = "burn"', "archive.action: 'burn' is not allowed; allowed: 'move', "),
        (
            '[select]\nfields = "{a b}"',
            "select.fields: '{a b}' is not allowed; allowed: a JMESPath",
        ),
        ('[source]\npattern = "("', "source.pattern: '(' is not allowed; allowed: a regular expr"),
        ('[source]\npattern = ""', "source.pattern: '' is not allowed; allowed: "),
        ("[archive]\nretention_days = inf", "archive.retention_days: inf is not allowed; allowed:"),
        (
            "[worker]\nlane = 1",
            "worker.lane: no such setting; did you mean worker.lanes? allowed in [worker]: lanes",
        ),
        (
            "[wroker]\nlanes = 1",
            "wroker: no such setting; did you mean worker? allowed as sections: source",
        ),
        (
            "[source]\npatern = 1",
            "source.patern: no such setting; did you mean source.pattern? allowed in [source]: url",
        ),
        (
            "[selct]\nfields = 1",
            "selct: no such setting; did you mean select? allowed as sections: ",
        ),
        ("[worker\n", "penstock.toml is not valid TOML: "),
        ("[queue]\nurl = embedded", "; strings need quotes"),
        (
            '[ledger]\nurl = "redis://host"',
            "ledger.spool: missing, and machines may share this Redis; allowed: a name",
        ),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    """Field, value, what is allowed."""
    with pytest.raises(Halt) as caught:
        load(toml(tmp_path, text))
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("embedded", True),
        ("unix:///run/redis.sock", True),
        ("redis://localhost:6379/0", True),
        ("redis://:secret@127.0.0.1", True),
        ("redis://:sec@ret@127.0.0.1", True),
        ("redis://[::1]:6379?db=1", True),
        ("rediss://localhost.example.com:6379", False),
        ("redis://127.0.0.1.example.com", False),
        ("redis://localhost@elsewhere", False),
        ("redis://10.0.0.1:6379", False),
    ],
)
def test_a_shared_redis_needs_the_spools_name(url: str, *, local: bool) -> None:
    """On one machine its path is name enough; machines that share a Redis must agree on one."""
    given = {"ledger": {"url": url}}
    if local:
        assert load(overrides=given).ledger.spool == ""
    else:
        with pytest.raises(Halt, match=r"ledger\.spool: missing"):
            load(overrides=given)


def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    """Two mistakes are told at once."""
    with pytest.raises(Halt) as caught:
        load(toml(tmp_path, "[worker]\nlanes = 0\nclaim_files_max = 10001"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_password_is_in_no_error(tmp_path: Path) -> None:
    """An address that is refused is not repeated."""
    path = toml(tmp_path, '[ledger]\nurl = ["redis://user:secret@host"]\nspool = "x"')
    with pytest.raises(Halt) as caught:
        load(path)
    assert "secret" not in str(caught.value)
    assert without_password("redis://user:secret@host:1/0") == "redis://user:…@host:1/0"
    sentinels = "redis+sentinel://h,i/p?sentinel_password=secret&db=1"
    assert without_password(sentinels) == "redis+sentinel://h,i/p?sentinel_password=…&db=1"
    assert without_password("redis://:secret@host") == "redis://:…@host"
    assert without_password("unix:///a@b:c/redis.sock") == "unix:///a@b:c/redis.sock"
    assert without_password("https://sqs.example:1/1/q") == "https://sqs.example:1/1/q"


@pytest.mark.parametrize(
    "url",
    [
        "redis://:sec@ret@host/0",
        "redis://:sec#ret@host",
        "redis://:sec/ret@host",
        "redis://u@ser:sec?ret@host",
        "redis://localhost/0?password=sec@ret&db=1",
        "unix:///run/redis.sock?db=1&password=sec#ret",
        "http://user:sec:ret@127.0.0.1:1/1/q",
    ],
)
def test_no_part_of_a_password_is_left(url: str) -> None:
    """Whatever stands in it, and wherever it stands."""
    assert "sec" not in without_password(url)
    assert "ret" not in without_password(url)


@pytest.mark.parametrize(
    "text",
    [
        'ledger = "redis://:secret@host"',
        '[[ledger]]\nurl = "redis://:secret@host"',
        'queue = ["http://user:secret@host"]',
        '[queue]\nendpoint_url = ["http://user:secret@host"]',
        '[ledger]\nspool = "redis://:secret@host"',
        '[worker]\nlanes = {password = "secret"}',
    ],
)
def test_a_password_in_the_wrong_place_is_in_no_error(tmp_path: Path, text: str) -> None:
    """A value where a table belongs, and the other way round, is refused and not repeated."""
    with pytest.raises(Halt, match="is not allowed; allowed: ") as caught:
        load(toml(tmp_path, text))
    assert "secret" not in str(caught.value)


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    """A named file must exist; without a name there may be none."""
    with pytest.raises(Halt, match="no such file"):
        load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("PENSTOCK_QUEU__URL", "x", "PENSTOCK_QUEU__URL: no such setting"),
        (
            "PENSTOCK_QUEUE__ULR",
            "x",
            "PENSTOCK_QUEUE__ULR: no such setting; did you mean PENSTOCK_QUEUE__URL? allowed:",
        ),
        ("PENSTOCK_LANES", "3", "PENSTOCK_LANES: no such setting"),
        ("PENSTOCK_QUEUE__URI", "x", "PENSTOCK_QUEUE__URI: no such setting"),
        ("PENSTOCK_QUEUE", "hush", "PENSTOCK_QUEUE: not JSON"),
        ("PENSTOCK_QUEUE", '"hush"', "queue: … is not allowed; allowed: a table"),
        ("PENSTOCK_DECODE__PREAMBLE_LITERALS", "x", "PENSTOCK_DECODE__PREAMBLE_LITERALS: not JSON"),
        ("PENSTOCK_CONFIG", "/no/penstock.toml", "PENSTOCK_CONFIG: /no/penstock.toml: no such"),
    ],
)
def test_the_environment_is_taken_at_its_word(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    """What it says is used or refused in one line that names the variable; never passed over."""
    monkeypatch.setenv(name, value)
    with pytest.raises(Halt) as caught:
        load()
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_the_environment_may_hold_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections as JSON, an empty size, the tests' own, and what Kubernetes says of services."""
    for name, value in {
        "PENSTOCK_WORKER": '{"lanes": 3}',
        "PENSTOCK_QUEUE__MESSAGE_BYTES": "",
        "PENSTOCK_SEED": "1",
        "PENSTOCK_CONFIG": "",
        "PENSTOCK_REDIS_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_REDIS_SERVICE_PORT_REDIS": "6379",
        "PENSTOCK_REDIS_PORT_6379_TCP_ADDR": "10.0.0.1",
        "PENSTOCK_PORT": "tcp://10.0.0.1:80",
    }.items():
        monkeypatch.setenv(name, value)
    found = load()
    assert (found.worker.lanes, found.queue.message_bytes) == (3, None)
    monkeypatch.setenv("PENSTOCK_QUEUE__MESSAGE_BYTES", "1023")
    with pytest.raises(Halt, match=r"queue\.message_bytes: '1023' is not allowed"):
        load()


def test_relative_paths_are_from_where_the_file_lies(tmp_path: Path) -> None:
    """Every command finds the same spool and state, whatever directory it is started in."""
    found = load(toml(tmp_path, '[source]\nurl = "spool"'))
    assert found.source.url == str(tmp_path / "spool")
    assert found.run.state_directory == str(tmp_path / ".penstock")


def test_the_fingerprint_is_of_what_shapes_messages() -> None:
    """Another selection is another fingerprint; another number of lanes is not."""
    plain = Settings().fingerprint(1000)
    assert plain == load(overrides={"worker": {"lanes": 9}}).fingerprint(1000)
    assert plain != load(overrides={"select": {"fields": "id"}}).fingerprint(1000)
    assert plain != load(overrides={"queue": {"records_per_message": 1}}).fingerprint(1000)
    assert plain != load(overrides={"decode": {"preamble_lines": 1}}).fingerprint(1000)
    assert plain != Settings().fingerprint(1001)


def test_another_message_format_is_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim begun before an upgrade that changed the messages was begun under other settings."""
    now = Settings().fingerprint(1000)
    monkeypatch.setattr("penstock.settings.schema.MESSAGE_FORMAT", "penstock/1")
    assert now != Settings().fingerprint(1000)
