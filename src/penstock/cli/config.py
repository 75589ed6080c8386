"""`penstock config show | check`: what the settings are, and whether they can work."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any, cast

import typer

from penstock import wiring
from penstock.cli.options import Config, Json
from penstock.errors import Halt
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
        if values.get("token"):
            values["token"] = "…"  # noqa: S105  none: what is printed cannot be taken for it
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
    report: dict[str, Any] = {"wrong": wrong, "warnings": config_check.warnings(settings)}
    with contextlib.suppress(Halt):  # which `wrong` tells
        why = wiring.decode_side(settings)[2].why
        report |= {"selection": "interpreted" if why else "compiled", "why": why}
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print(report)
    if wrong:
        raise typer.Exit(1)


def _print(report: Mapping[str, Any]) -> None:
    if report.get("why"):
        typer.echo(f"selection: interpreted by the jmespath library, because {report['why']}")
    elif "selection" in report:
        typer.echo("selection: compiled")
    for line in report["wrong"]:
        typer.echo(line, err=True)
    for line in report["warnings"]:
        typer.echo(f"warning: {line}", err=True)
    if not report["wrong"]:
        typer.echo("the settings can work")
