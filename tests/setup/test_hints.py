"""Expressions that are none of what was meant: told by the fields that samples have."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.cli.commands import app
from penstock.settings.reading import load
from penstock.setup.hints import hints

RECORDS = [
    {"id": n, "language": "en", "account": {"acct": "ann", "note": None}, "tags": [{"t": 1}]}
    for n in range(3)
]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Write a directory with one file of three records."""
    path = tmp_path / "spool"
    path.mkdir()
    (path / "2026-11-23T06-15-00.json").write_text("// a header\n" + json.dumps(RECORDS))
    return path


def told(spool: Path, fields: str = "@", where: str = "") -> list[str]:
    """Return what is said of expressions."""
    settings = load(overrides={"select": {"fields": fields, "where": where}})
    return hints(settings, sorted(spool.iterdir()))


@pytest.mark.parametrize(
    ("fields", "where", "line"),
    [
        ("{a: acount.acct}", "",
         "select.fields: acount.acct is null in all 3 sample records; did you mean account.acct?"),
        ("{a: account.note}", "",
         "select.fields: account.note is null in all 3 sample records"),
        ("@", "lang == 'en'",
         "select.where: lang is null in all 3 sample records; did you mean language?"),
        ("@", "id == `7`", "select.where: keeps none of the 3 sample records"),
        ("@", "language == 'en'", "select.where: keeps all of the 3 sample records"),
        ("@", 'language == "en"',
         "select.where: \"en\" is the field of that name; text needs single quotes: 'en'"),
    ],
)  # fmt: skip
def test_each_mistake_is_told(spool: Path, fields: str, where: str, line: str) -> None:
    """In one line, first, with what to write instead."""
    assert told(spool, fields, where)[0] == line


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ("{id: id, who: account.acct, t: tags[*].t, n: length(tags)}", "id > `0`"),
        ("[id, tags[0].t, account.*]", "account.acct == 'ann' && id == `1`"),
        ("@", '"account"."acct" == \'ann\' && id != `0`'),
    ],
)
def test_what_is_meant_is_not(spool: Path, fields: str, where: str) -> None:
    """Nothing is said of fields that are there."""
    assert told(spool, fields, where) == []


def test_the_commands_tell(spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three commands warn and continue; after the advised fix they do not warn."""
    monkeypatch.chdir(tmp_path)
    ask = ["preview", str(spool), "--select", "{a: acount.acct}"]
    result = CliRunner().invoke(app, ask)
    assert "did you mean account.acct?" in result.stderr
    assert result.exit_code == 0
    monkeypatch.setattr("penstock.cli.init._is_terminal", lambda: True)
    asked = CliRunner().invoke(app, ["init", str(spool)], input="{a: acount.acct}\n\n")
    assert "did you mean account.acct?" in asked.stderr
    checked = CliRunner().invoke(app, ["config", "check"])
    assert "did you mean account.acct?" in checked.stderr
    toml = tmp_path / "penstock.toml"
    toml.write_text(toml.read_text().replace("acount.acct", "account.acct"))
    assert "did you mean" not in CliRunner().invoke(app, ["config", "check"]).stderr
