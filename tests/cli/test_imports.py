"""What a start costs, held by what is imported: a timed test would tell of the machine."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.box import Box

_HEAVY = ("aiohttp", "botocore", "pydantic", "redis", "rich", "typer", "prometheus_client")

_RUN = """
import json, sys
sys.argv[1:] = {arguments}
try:
    from penstock.cli import main
    main()
except SystemExit as ended:
    print("exit", ended.code, file=sys.stderr)
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def imported(code: str, cwd: Path) -> set[str]:
    """Return the heavy packages that a process has in the end, and with a dot, their modules."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True
    )
    names = set(json.loads(done.stdout.splitlines()[-1]))
    return {name for name in names if name.partition(".")[0] in _HEAVY}


def tops(modules: set[str]) -> set[str]:
    """Return the packages of modules."""
    return {name.partition(".")[0] for name in modules}


def test_the_version_needs_nothing(tmp_path: Path) -> None:
    """Scripts ask for it, often."""
    assert imported(_RUN.format(arguments=["--version"]), tmp_path) == set()


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("arguments", "without"),
    [
        (["status"], {"aiohttp", "prometheus_client"}),
        (["explain", "x"], {"aiohttp", "botocore", "prometheus_client"}),
        (["archived", "get", "x"], {"aiohttp", "botocore", "prometheus_client"}),
        (["load"], {"aiohttp", "prometheus_client"}),
        (["archive"], {"aiohttp", "botocore", "prometheus_client"}),
        (["check"], {"aiohttp", "botocore", "prometheus_client"}),
    ],
)
async def test_a_command_imports_what_it_uses(
    box: Box, arguments: list[str], without: set[str]
) -> None:
    """A spool in a directory is drained and looked at without an HTTP server's and client's code.

    botocore finds the queue's credentials, which needs a queue.
    """
    box.write_many(1)
    box.toml()
    found = tops(await asyncio.to_thread(imported, _RUN.format(arguments=arguments), box.root))
    assert {"pydantic", "redis", "typer"} <= found
    assert not found & without


def test_a_worker_of_lambda_imports_no_command_line(tmp_path: Path) -> None:
    """What a cold start pays for: the path, Redis, the settings, the queue; nothing to show."""
    code = (
        "import json, sys, penstock.aws.handlers, penstock.sqs.queue;"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert tops(imported(code, tmp_path)) == {"botocore", "pydantic", "redis"}
