"""Limit how many calls are in flight: fewer while SQS throttles.

Additive increase, multiplicative decrease, as in TCP. A throttle halves the limit. Each full round
of calls without a throttle raises it by one. It costs time, never a message.
"""

import asyncio
from collections import deque


class ConcurrencyLimiter:
    """Lets at most `limit` calls of all lanes in at a time; it starts at `most`, the maximum."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._inside = 0
        self._entered = 0
        self._halved_at = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Return how many calls may be in flight now."""
        return int(self._limit)

    async def enter(self) -> int:
        """Wait for a slot; return the ticket that `leave` takes. Safe to cancel."""
        while self._inside >= self.limit:
            slot = asyncio.get_running_loop().create_future()
            self._waiting.append(slot)
            try:
                await slot
            except asyncio.CancelledError:
                # It may have been woken and cancelled in one step: pass its slot on.
                self._wake()
                raise
        self._inside += 1
        self._entered += 1
        return self._entered

    def leave(self, ticket: int, *, throttled: bool) -> None:
        """Give the slot back; `throttled` halves the limit, once for all calls then in flight."""
        self._inside -= 1
        if not throttled:
            self._limit = min(self._most, self._limit + 1 / self._limit)
        elif ticket > self._halved_at:
            self._limit = max(1.0, self._limit / 2)
            self._halved_at = self._entered
        self._wake()

    def _wake(self) -> None:
        free = self.limit - self._inside
        while free > 0 and self._waiting:
            slot = self._waiting.popleft()
            if not slot.done():
                slot.set_result(None)
                free -= 1
