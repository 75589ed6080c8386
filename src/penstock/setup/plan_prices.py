"""What things cost at AWS: prices.toml holds each price with its date and source."""

import tomllib
from importlib import resources
from typing import Final, NamedTuple

MONTH_SECONDS: Final = 2_592_000
"""Thirty days, for everything."""

MONTH_HOURS: Final = 720


class Price(NamedTuple):
    """The price of one unit in dollars."""

    dollars: float
    unit: str
    as_of: str
    source: str
    seen: str


_TABLE = resources.files("penstock.setup").joinpath("prices.toml").read_text("utf-8")
PRICES: Final = {name: Price(**fields) for name, fields in tomllib.loads(_TABLE).items()}

CACHE_NODE_BYTES: Final = {
    "cache.t4g.micro": 0.5e9,
    "cache.t4g.small": 1.37e9,
    "cache.t4g.medium": 3.09e9,
    "cache.m7g.large": 6.38e9,
    "cache.r7g.large": 13.07e9,
    "cache.r7g.xlarge": 26.32e9,
    "cache.r7g.2xlarge": 52.82e9,
}
"""Memory of a node, smallest first, from the same source. A quarter is reserved by default."""
