"""A claim's lease as its worker sees it."""

import math

from penstock.errors import Again
from penstock.model import Claim


class Lease:
    """A worker's view of its claim's lease, on its monotonic clock."""

    def __init__(self, send_before_seconds: float) -> None:
        self.send_before_seconds = send_before_seconds
        self.is_lost = False
        self.has_sent = False  # or may have: then a successor must make the same messages

    def send_before(self) -> float:
        """Return the monotonic time in seconds after which nothing may be sent."""
        return self.send_before_seconds

    def lost(self, claim: Claim) -> Again:
        """Note that the claim has another owner, and return the error that says so."""
        self.is_lost = True
        self.send_before_seconds = -math.inf
        return Again(f"claim {claim.id} has another owner now: its lease ran out or it was freed")
