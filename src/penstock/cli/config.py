"""`penstock config show | check`: what the settings are, and whether they can work."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, cast

import typer

from penstock.cli.options import Config, Json
from penstock.records.headers import toml
from penstock.settings.reading import load
from penstock.settings.secrets import without_password
from penstock.setup import config_check

app = typer.Typer(
    name="config", help="Show or check the settings.", no_args_is_help=True, add_completion=False
)


@app.command()
def show(config: Config = None, as_json: Json = False) -> None:
    """Print all settings as they are in force, defaults and environment included.

    What is printed is a penstock.toml. Tokens, and passwords in addresses, are left out.
    """
    sections = load(config).model_dump(mode="json", exclude_none=True)
    for values in sections.values():
        for name in [name for name in values if name.endswith("url")]:
            values[name] = without_password(values[name])
        # What is printed cannot be taken for a token.
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
def check(config: Config = None, as_json: Json = False) -> None:
    """Check the settings without touching Redis or the queue, and say how they will run.

    Exits with 0 if they can work. What is missing or wrong, and what may not be meant, is told in
    one line each.
    """
    settings = load(config)
    wrong = asyncio.run(config_check.mistakes(settings))
    warnings = config_check.warnings(settings)
    if as_json:
        typer.echo(json.dumps({"wrong": wrong, "warnings": warnings}))
    else:
        for line in [*wrong, *(f"warning: {warning}" for warning in warnings)]:
            typer.echo(line, err=True)
        if not wrong:
            typer.echo("the settings can work")
    if wrong:
        raise typer.Exit(1)
