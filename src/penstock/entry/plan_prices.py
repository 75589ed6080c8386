"""What things cost at AWS: the one table of prices, each with its date and source.

US East (N. Virginia), on demand, US dollars without tax, free tiers and volume discounts left out:
so a plan is a little too high rather than too low. `as_of` is the month for which a price was last
read. To bring it up to date: read the page named, change the line, its date with it.
"""

from typing import Final, NamedTuple

MONTH_SECONDS: Final = 2_592_000
"""Thirty days, for everything."""

MONTH_HOURS: Final = 720


class Price(NamedTuple):
    """One price: so many dollars for one unit."""

    dollars: float
    unit: str
    as_of: str
    source: str


_SQS = "https://aws.amazon.com/sqs/pricing/"
_LAMBDA = "https://aws.amazon.com/lambda/pricing/"
_ELASTICACHE = "https://aws.amazon.com/elasticache/pricing/"
_CLOUDWATCH = "https://aws.amazon.com/cloudwatch/pricing/"

PRICES: Final = {
    "sqs standard": Price(0.40e-6, "request of 64 KiB", "2026-06", _SQS),
    "sqs fifo": Price(0.50e-6, "request of 64 KiB", "2026-06", _SQS),
    "lambda arm64": Price(0.0000133334, "GB-second", "2026-05", _LAMBDA),
    "lambda x86_64": Price(0.0000166667, "GB-second", "2026-05", _LAMBDA),
    "lambda invocation": Price(0.20e-6, "invocation", "2026-05", _LAMBDA),
    "cache.t4g.micro": Price(0.0128, "node-hour, Valkey", "2025-06", _ELASTICACHE),
    "cache.t4g.small": Price(0.0256, "node-hour, Valkey", "2025-06", _ELASTICACHE),
    "cache.t4g.medium": Price(0.0520, "node-hour, Valkey", "2025-06", _ELASTICACHE),
    "cache.m7g.large": Price(0.1264, "node-hour, Valkey", "2025-06", _ELASTICACHE),
    "cache.r7g.large": Price(0.1752, "node-hour, Valkey", "2025-06", _ELASTICACHE),
    "cache.r7g.xlarge": Price(0.3496, "node-hour, Valkey", "2025-06", _ELASTICACHE),
    "cache.r7g.2xlarge": Price(0.6984, "node-hour, Valkey", "2025-06", _ELASTICACHE),
    "endpoint": Price(
        0.01, "endpoint-hour in one zone", "2026-06", "https://aws.amazon.com/privatelink/pricing/"
    ),
    "endpoint data": Price(0.01, "GB", "2026-06", "https://aws.amazon.com/privatelink/pricing/"),
    "nat": Price(0.045, "gateway-hour", "2026-06", "https://aws.amazon.com/vpc/pricing/"),
    "nat data": Price(0.045, "GB", "2026-06", "https://aws.amazon.com/vpc/pricing/"),
    "logs": Price(0.50, "GB taken in", "2026-06", _CLOUDWATCH),
    "metric": Price(0.30, "metric-month", "2026-06", _CLOUDWATCH),
    "alarm": Price(0.10, "alarm-month", "2026-06", _CLOUDWATCH),
    "dashboard": Price(3.00, "dashboard-month", "2026-06", _CLOUDWATCH),
}

CACHE_NODE_BYTES: Final = {
    "cache.t4g.micro": 0.5e9,
    "cache.t4g.small": 1.37e9,
    "cache.t4g.medium": 3.09e9,
    "cache.m7g.large": 6.38e9,
    "cache.r7g.large": 13.07e9,
    "cache.r7g.xlarge": 26.32e9,
    "cache.r7g.2xlarge": 52.82e9,
}
"""Memory of a node, smallest first; the same source. A quarter of it is reserved by default."""
