"""What each form of Redis costs: one server, Sentinels, a cluster, with and without WAIT.

    python bench/ledger_forms.py [--files 100000] [--rounds 3]

One process with four lanes claims and commits portions of 500 files. All servers are real and on
this machine (Debian's redis-server and redis-sentinel), so their replicas share its cores. Rounds
are interleaved: compare the rows of one run. Prints medians, and the ratio to one server.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import uvloop

from ledger import CLAIM_FILES, claim_all, commit_all, names
from penstock.ledger.connect import Address
from penstock.ledger.ledger import Ledger
from penstock.ledger.scripts import Scripts

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.redis_fleet import Cluster, Server, Watched

_LANES = 4


async def measure(url: str, spool: str, files: int, replicas: int) -> tuple[float, float]:
    """Return files claimed and committed a second. Every claim must be got, and committed."""
    address = Address(url, timeout_seconds=5.0, connections=2 * _LANES)
    scripts = Scripts(address.client(), spool, address=address, replicas=replicas)
    book = Ledger(scripts, worker="w", lease_seconds=60, margin_seconds=11)
    await book.open()
    mine = names(0, files)
    portions = [mine[at : at + CLAIM_FILES] for at in range(0, files, CLAIM_FILES)]
    began = time.monotonic()
    claims = await claim_all(book, portions, _LANES)
    claimed = time.monotonic()
    await commit_all(book, claims, _LANES)
    committed = time.monotonic()
    await book.close()
    if sum(len(claim.names) for claim in claims) != files:
        sys.exit(f"{url}: not every file was claimed")
    return files / (claimed - began), files / (committed - claimed)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        root = Path(made)
        server = Server(root, "maxmemory-policy noeviction")
        stack.callback(server.kill)
        sentinels, cluster = Watched(root / "watched", stack), Cluster(root / "cluster", stack)
        forms: dict[str, tuple[Callable[[], str], int]] = {
            "one server": (lambda: f"redis://{server.address}", 0),
            "Sentinels": (lambda: sentinels.url, 0),
            "Sentinels, wait_replicas = 1": (lambda: sentinels.url, 1),
            "cluster": (cluster.url, 0),
            "cluster, wait_replicas = 1": (cluster.url, 1),
        }
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        for number in range(given.rounds):
            for name, (url, replicas) in forms.items():
                spool = f"bench{number}-{replicas}"
                rows[name].append(uvloop.run(measure(url(), spool, given.files, replicas)))
    print("| | claimed, files/s | x | committed, files/s | x |\n|---|--:|--:|--:|--:|")
    base = [statistics.median(figures) for figures in zip(*rows["one server"], strict=True)]
    for name, row in rows.items():
        medians = [statistics.median(figures) for figures in zip(*row, strict=True)]
        cells = [f"{now:,.0f} | {now / then:.2f}" for now, then in zip(medians, base, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
