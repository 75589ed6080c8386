"""Fixtures shared by all tests; its place puts `support` on the path."""

from collections.abc import AsyncIterator

import pytest

from support.sender import Clock, Sender
from support.sqs_stub import SqsStub


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set dummy credentials, and nothing of the machine's own settings."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_CONFIG_FILE", "/nonexistent"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)


@pytest.fixture
async def sender(aws: None) -> AsyncIterator[Sender]:
    """Yield a sender to a stub that runs on the test's own clock and checks signatures."""
    assert aws is None
    clock = Clock()
    async with SqsStub(clock=clock, sleep=clock.sleep, keys=("test", "test")) as stub:
        subject = Sender(stub, clock)
        await subject.open()
        yield subject
        await subject.queue.close()
