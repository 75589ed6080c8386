"""The mark beside a spool: one embedded ledger knows it."""

from pathlib import Path

import pytest

from penstock.embedded.owner_mark import bind, marker_of
from penstock.errors import Halt
from penstock.settings.spool_place import Directory
from support.box import Box


async def test_a_spool_has_one_embedded_ledger(box: Box) -> None:
    """Another state directory would know nothing of what was sent, and send it again."""
    box.given["ledger"] = {}
    box.set("run", state_directory=str(box.root / "state"))
    box.write_many(2)
    assert (await box.load()).files_processed == 2
    assert (await box.load()).files_processed == 0
    box.set("run", state_directory=str(box.root / "other"))
    with pytest.raises(Halt, match=r"run\.state_directory: .*/other: but the ledger in .*/state "):
        await box.load()
    marker_of(box.spool).unlink()
    assert (await box.load()).files_processed == 2
    assert box.received_ids() == {0: 2, 1: 2}


async def test_a_link_in_the_markers_place_is_not_followed(tmp_path: Path) -> None:
    """A directory that others write to must not have Penstock write elsewhere."""
    (tmp_path / "spool").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    marker_of(tmp_path / "spool").symlink_to(victim)
    bind(Directory(tmp_path / "spool"), tmp_path / "state")
    assert victim.read_text() == "precious"
