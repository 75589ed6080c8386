"""`penstock config show | check`: what the settings are, and whether they can work."""

import json
from collections.abc import Mapping
from typing import Any, cast

import typer

from penstock import settings
from penstock.entry import survey, wiring
from penstock.entry.cli.options import Config, Json
from penstock.settings import Settings

app = typer.Typer(
    name="config", help="Show or check the settings.", no_args_is_help=True, add_completion=False
)


@app.command()
def show(config: Config = None, as_json: Json = False) -> None:
    """Print all settings as they are in force, defaults and environment included.

    What is printed is a penstock.toml. Passwords in addresses are left out.
    """
    known = settings.load(config).model_dump(mode="json", exclude_none=True)
    known["ledger"]["url"] = settings.without_password(known["ledger"]["url"])
    if as_json:
        typer.echo(json.dumps(known))
        return
    for section, values in known.items():
        typer.echo(f"[{section}]")
        for name, value in cast("Mapping[str, Any]", values).items():
            typer.echo(f"{name} = {survey.toml(value)}")
        typer.echo()


@app.command()
def check(config: Config = None, as_json: Json = False) -> None:
    """Check the settings without touching Redis or the queue, and say how they will run.

    Exits with 0 if they can work. What is missing or wrong is told in one line each.
    """
    known = settings.load(config)
    _, _, selection = wiring.decode_side(known)
    missing = [*_missing(known)]
    report: dict[str, Any] = {
        "selection": "interpreted" if selection.why else "compiled",
        "why": selection.why,
        "missing": missing,
    }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _tell(report)
    if missing:
        raise typer.Exit(1)


def _missing(known: Settings) -> list[str]:
    missing: list[str] = []
    if not known.source.url:
        missing.append("source.url: missing; allowed: the directory that the files lie in")
    elif not wiring.spool_directory(known).is_dir():
        missing.append(f"source.url: {known.source.url}: no such directory")
    if not known.queue.url:
        missing.append("queue.url: missing; allowed: the URL of an SQS queue, or 'embedded'")
    return missing


def _tell(report: Mapping[str, Any]) -> None:
    if report["why"]:
        typer.echo(f"selection: interpreted by the jmespath library, because {report['why']}")
    else:
        typer.echo("selection: compiled")
    for line in report["missing"]:
        typer.echo(line, err=True)
    if not report["missing"]:
        typer.echo("the settings can work")
