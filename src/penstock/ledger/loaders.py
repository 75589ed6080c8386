"""Count the loaders in Lambda in Redis, so that they do not start too many others."""

from penstock.ledger.scripts import Part

START_PAUSE_SECONDS = 30.0
"""Pause between two starts by anybody, so that one more loader's effect shows before the next."""

_RESERVED_SECONDS = 60.0  # a started loader that has not begun by then never will


class LedgerLoaders(Part):
    """The loaders of one spool. A loader's name comes from its starter or its own invocation."""

    async def enlist(self, name: str, seconds: float) -> int:
        """Note that a loader runs for at most `seconds`; return how many run. Safe to repeat."""
        return int(await self._scripts.run("enlist", ["loaders"], [name, int(seconds * 1000)]))

    async def leave(self, name: str) -> None:
        """Remove a loader that has ended, or could not be started. Safe to repeat."""
        await self._scripts.client.zrem(self._scripts.key("loaders"), name)

    async def reserve(self, name: str, most: int) -> bool:
        """Reserve a slot for one more loader; False if `most` run, or one was just started."""
        keys = ["loaders", "loader_started", "counters"]
        args = [name, int(_RESERVED_SECONDS * 1000), most, int(START_PAUSE_SECONDS * 1000)]
        return bool(await self._scripts.run("reserve", keys, args))
