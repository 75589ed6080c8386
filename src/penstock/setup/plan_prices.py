"""What things cost at AWS: prices.toml holds them with their dates and sources."""

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
_TABLES = tomllib.loads(_TABLE)
PRICES: Final = {
    name: Price(**price, as_of=read["as_of"], source=read["source"], seen=read["seen"])
    for read in _TABLES["readings"]
    for name, price in read["prices"].items()
}
CACHE_NODE_BYTES: Final[dict[str, float]] = _TABLES["node_bytes"]
SERVERLESS_BYTES_MIN: Final = 0.1e9
"""The minimum that a serverless cache of Valkey is billed for; the same source."""
