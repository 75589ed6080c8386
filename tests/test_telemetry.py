"""Log lines: for machines and for people."""

import json
import logging
from collections.abc import Iterator, Mapping

import pytest

from penstock import telemetry


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Leave logging as it was."""
    log = logging.getLogger("penstock")
    before = (log.handlers[:], log.level, log.propagate)
    yield
    log.handlers[:], log.level, log.propagate = before


def test_a_line_for_machines_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Time, level, step, and the fields as they are."""
    telemetry.configure(verbose=False, as_json=True)
    telemetry.warn("file.stuck", file="a.json", cause='say "no"')
    line = json.loads(capsys.readouterr().err)
    assert line.pop("at").endswith("Z")
    assert line == {"level": "warning", "step": "file.stuck", "file": "a.json", "cause": 'say "no"'}


def test_a_terminal_has_a_line_per_claim_only_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Dozens a second would hide what matters."""
    telemetry.configure(verbose=False, as_json=False)
    telemetry.event("claim.committed", files=500)
    telemetry.event("process.started", name="loader-1")
    telemetry.configure(verbose=True, as_json=False)
    telemetry.event("claim.committed", files=500)
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["process.started name=loader-1", "claim.committed files=500"]


@pytest.mark.parametrize("as_json", [False, True])
def test_no_field_forges_a_line_or_steers_a_terminal(
    capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    """What a caller or a file's name brings along is shown as what it is, in one line."""
    telemetry.configure(verbose=False, as_json=as_json)
    path = "/a\n12:00:00 process.ended\x1b[31m\x9b2J\r\u2028\u202e\x07\udcff\U000e0001"
    telemetry.event("http.request", path=path, status=404)
    said = capsys.readouterr().err
    assert said.endswith("\n")
    assert said[:-1].isprintable()
    if as_json:
        assert json.loads(said)["path"] == path
    else:
        assert "path=/a\\n12:00:00 process.ended\\u001b[31m" in said


async def test_progress_is_told_while_there_is_some(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts and what they grew by a second; silence while nothing moves or nobody can tell."""
    monkeypatch.setattr(telemetry, "PROGRESS_SECONDS", 0.01)
    telemetry.configure(verbose=False, as_json=True)
    answers: list[Mapping[str, float]] = [
        {"files": 0},
        {"files": 5},
        {"files": 5},
        {},
        {"files": 7},
        {"files": 3},  # Redis has forgotten, and counts anew
    ]
    all_told = telemetry.asyncio.Event()

    async def figures() -> Mapping[str, float]:
        if len(answers) == 1:
            all_told.set()
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async with telemetry.progress("run.progress", figures):
        await all_told.wait()
        await telemetry.asyncio.sleep(0.03)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["files"], line["files_per_second"]) for line in lines] == [
        (5, 500),
        (7, 200),
        (3, 0),
    ]
