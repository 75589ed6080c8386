"""How often a spool is listed: for a tenth of the time, however many files there are."""

import asyncio
import math
import time

_SHARE_MAX = 0.1
_WAIT_SECONDS_MAX = 0.1


class Pace:
    """When one spool may be listed again."""

    def __init__(self) -> None:
        self.began_at_seconds = -math.inf
        """Our monotonic clock when the last listing began."""
        self.seconds = 0.0
        """How long the last listing took."""

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next listing."""
        next_at_seconds = self.began_at_seconds + self.seconds / _SHARE_MAX
        return max(0.0, next_at_seconds - time.monotonic())

    async def pause(self) -> float:
        """Wait until it may list again, and return 0; or return how long a long wait would be.

        Nobody waits for long in here: files that are at hand would have to wait, too.
        """
        pause_seconds = self.pause_seconds
        if pause_seconds > _WAIT_SECONDS_MAX:
            return pause_seconds
        await asyncio.sleep(pause_seconds)
        return 0.0

    def listed(self, began_at_seconds: float) -> None:
        """Note a listing that ends now."""
        self.began_at_seconds = began_at_seconds
        self.seconds = time.monotonic() - began_at_seconds
