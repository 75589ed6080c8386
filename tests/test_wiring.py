"""From settings to parts, where the whole path does not show it."""

import os
from contextlib import AsyncExitStack

import pytest

from penstock import wiring
from penstock.operate.observer import Observer
from support.box import Box
from support.require import require_ministack


async def test_an_embedded_queue_changes_no_environment(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may use AWS besides: its region and credentials stay what they were."""
    require_ministack()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "real")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    before = dict(os.environ)
    box.set("queue", url="embedded", endpoint_url="", region="")
    box.set("run", state_directory=str(box.root / "state"))
    box.write_many(2)
    async with AsyncExitStack() as stack:
        await wiring.loader(box.settings, stack)
        assert (await box.load()).records_sent == 2
        observer = Observer(box.settings)
        stack.push_async_callback(observer.aclose)
        depth = (await observer.snapshot()).queue
        assert depth is not None
        assert depth.visible >= 1
    assert dict(os.environ) == before
