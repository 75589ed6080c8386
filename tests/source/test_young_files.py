"""A file that is still being written, on the whole path: it is sent once, and all of it."""

import asyncio

from support.box import SECOND, Box


async def test_a_file_being_written_holds_up_none_but_itself(box: Box) -> None:
    """Its neighbours are sent without it; it is claimed when it has settled."""
    box.set("source", settle_seconds=1)
    box.write_many(20)
    await asyncio.sleep(1.1)
    slow = box.spool / f"{SECOND}.000007.json"
    whole = slow.read_text()
    with slow.open("w") as writer:
        writer.write("[]")  # a whole document, and not all of it
        writer.flush()
        tally = await box.load()
        assert (tally.files_processed, tally.files_retried) == (19, 0)
    assert box.received_ids() == {i: 1 for i in range(20) if i != 7}
    sizes = await box.sizes()
    assert (sizes["processed"], sizes["retry"], sizes["claims"]) == (19, 0, 0)
    slow.write_text(whole)
    assert (await box.load()).files_processed == 0
    await asyncio.sleep(1.1)
    assert (await box.load()).files_processed == 1
    assert box.received_ids() == dict.fromkeys(range(20), 1)
    assert (await box.check()).laws_broken == 0
