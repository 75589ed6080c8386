"""What things cost at AWS: the one table of prices, each with its date and source.

US East (N. Virginia), on demand, US dollars without tax, free tiers and volume discounts left out:
so a plan is a little too high rather than too low. `as_of` is the month for which a price was last
read, `source` the page of AWS that has it, `seen` where it was read: AWS's pages fill in their
numbers by script, so what was read is what others published of them. To bring it up to date: read
the page named, change the line, its date with it.
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
    seen: str


_LIST = "AWS's price list of that month, as others published it"
_BILL = "an account's bill of that month: 147,761,190 requests, the first million free, $73.38"
_QUOTED = "quoted by several others for that month, not compared with AWS's own list"

_SQS = "https://aws.amazon.com/sqs/pricing/"
_LAMBDA = "https://aws.amazon.com/lambda/pricing/"
_ELASTICACHE = "https://aws.amazon.com/elasticache/pricing/"
_ENDPOINT = "https://aws.amazon.com/privatelink/pricing/"
_VPC = "https://aws.amazon.com/vpc/pricing/"
_EC2 = "https://aws.amazon.com/ec2/pricing/on-demand/"
_CLOUDWATCH = "https://aws.amazon.com/cloudwatch/pricing/"

_REQUEST = "request of 64 KiB"
_NODE = "node-hour, Valkey"

PRICES: Final = {
    "sqs standard": Price(0.40e-6, _REQUEST, "2026-06", _SQS, _QUOTED),
    "sqs fifo": Price(0.50e-6, _REQUEST, "2026-06", _SQS, _BILL),
    "lambda arm64": Price(0.0000133334, "GB-second", "2026-09", _LAMBDA, _LIST),
    "lambda x86_64": Price(0.0000166667, "GB-second", "2026-09", _LAMBDA, _LIST),
    "lambda invocation": Price(0.20e-6, "invocation", "2026-09", _LAMBDA, _LIST),
    "cache.t4g.micro": Price(0.0128, _NODE, "2026-10", _ELASTICACHE, _LIST),
    "cache.t4g.small": Price(0.0256, _NODE, "2026-10", _ELASTICACHE, _LIST),
    "cache.t4g.medium": Price(0.0520, _NODE, "2026-10", _ELASTICACHE, _LIST),
    "cache.m7g.large": Price(0.1264, _NODE, "2026-10", _ELASTICACHE, _LIST),
    "cache.r7g.large": Price(0.1752, _NODE, "2026-10", _ELASTICACHE, _LIST),
    "cache.r7g.xlarge": Price(0.3496, _NODE, "2026-10", _ELASTICACHE, _LIST),
    "cache.r7g.2xlarge": Price(0.6984, _NODE, "2026-10", _ELASTICACHE, _LIST),
    "serverless data": Price(0.084, "GB-hour, Valkey", "2026-06", _ELASTICACHE, _QUOTED),
    "serverless units": Price(0.0023e-6, "ECPU, Valkey", "2026-06", _ELASTICACHE, _QUOTED),
    "endpoint": Price(0.01, "endpoint-hour in one zone", "2026-06", _ENDPOINT, _QUOTED),
    "endpoint data": Price(0.01, "GB", "2026-06", _ENDPOINT, _QUOTED),
    "nat": Price(0.045, "gateway-hour", "2026-09", _VPC, _LIST),
    "nat data": Price(0.045, "GB", "2026-09", _VPC, _LIST),
    "between zones": Price(0.01, "GB, on each side", "2026-09", _EC2, _LIST),
    "logs": Price(0.50, "GB taken in", "2026-06", _CLOUDWATCH, _QUOTED),
    "metric": Price(0.30, "metric-month", "2026-06", _CLOUDWATCH, _QUOTED),
    "alarm": Price(0.10, "alarm-month", "2026-06", _CLOUDWATCH, _QUOTED),
    "dashboard": Price(3.00, "dashboard-month", "2026-06", _CLOUDWATCH, _QUOTED),
}

SERVERLESS_BYTES_MIN: Final = 0.1e9
"""What a serverless cache of Valkey is billed for at least; the same source."""

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
