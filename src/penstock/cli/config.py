"""`penstock config show | check`: show the settings, and check that they can work."""

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any, cast

import typer

from penstock.cli.options import Config, Json, say
from penstock.records.headers import toml
from penstock.settings.reading import load
from penstock.settings.schema import Settings
from penstock.settings.secrets import without_password
from penstock.setup import config_check, connect_check
from penstock.setup.connect_check import Tried

app = typer.Typer(
    name="config", help="Show or check the settings.", no_args_is_help=True, add_completion=False
)


@app.command()
def show(config: Config = None, as_json: Json = False) -> None:
    """Print all settings in force, including defaults and the environment, as a penstock.toml.

    Omits tokens, and passwords in addresses.
    """
    sections = load(config).model_dump(mode="json", exclude_none=True)
    for values in sections.values():
        for name in [name for name in values if name.endswith("url")]:
            values[name] = without_password(values[name])
        # The placeholder is not a valid token.
        values |= {name: "…" for name in ("token", "read_token") if values.get(name)}
    if as_json:
        typer.echo(json.dumps(sections))
        return
    for section, values in sections.items():
        typer.echo(f"[{section}]")
        for name, value in cast("Mapping[str, Any]", values).items():
            typer.echo(f"{name} = {toml(value)}")
        typer.echo()


@app.command()
def check(
    config: Config = None,
    connect: Annotated[
        bool,
        typer.Option(
            "--connect",
            help="Also try each part: rename a test file, ask Redis and SQS. Sends nothing.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the settings; with --connect, also try each part.

    Exits with 0 if they can work. Prints one line for each mistake, and for each setting that is
    probably not intended.
    """
    settings = load(config)
    wrong = asyncio.run(config_check.mistakes(settings))
    warnings = config_check.warnings(settings)
    parts = asyncio.run(_tried(settings, quiet=as_json)) if connect else []
    failed = bool(wrong) or not all(part.ok for part in parts)
    if as_json:
        found = {"parts": [part._asdict() for part in parts]} if connect else {}
        typer.echo(json.dumps({"wrong": wrong, "warnings": warnings, **found}))
    else:
        told = {part.text for part in parts}
        for line in [
            *(line for line in wrong if line not in told),
            *(f"warning: {warning}" for warning in warnings),
        ]:
            say(line, err=True)
        if not failed:
            typer.echo("the settings work" if connect else "the settings can work")
    if failed:
        raise typer.Exit(1)


async def _tried(settings: Settings, *, quiet: bool) -> list[Tried]:
    found: list[Tried] = []
    async for part in connect_check.tried(settings):
        found.append(part)
        if not quiet:
            say(f"{'ok' if part.ok else 'WRONG':6} {part.part:8} {part.text}")
    return found
