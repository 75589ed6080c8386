"""How often a source lists its spool: for a tenth of the time, however many files there are."""

import asyncio
import math
import time

_SHARE_MAX = 0.1
_WAIT_SECONDS_MAX = 0.1


class Pace:
    """When one source may list again."""

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

    async def may_list(self) -> bool:
        """Tell whether to list now; a short pause is waited for.

        A long one is not: files that are at hand would have to wait, too.
        """
        pause_seconds = self.pause_seconds
        if pause_seconds > _WAIT_SECONDS_MAX:
            return False
        await asyncio.sleep(pause_seconds)
        return True

    def listed(self, began_at_seconds: float) -> None:
        """Note a listing that ends now."""
        self.began_at_seconds = began_at_seconds
        self.seconds = time.monotonic() - began_at_seconds
