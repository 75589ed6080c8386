"""How long a campaign is: PENSTOCK_CAMPAIGN_SCALE=0.01 is a taste of it, unset is all of it."""

import os

SCALE = float(os.environ.get("PENSTOCK_CAMPAIGN_SCALE") or 1)


def scaled(amount: int) -> int:
    """Return so much of an amount as this campaign is to do, at least one."""
    return max(1, round(amount * SCALE))
