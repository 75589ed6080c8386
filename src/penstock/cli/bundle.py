"""`penstock bundle`: the archive that AWS Lambda runs."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from penstock.aws.bundle import build
from penstock.cli.options import Architecture, Json


class Python(StrEnum):
    """The versions that Penstock runs on."""

    python3_11 = "3.11"
    python3_12 = "3.12"
    python3_13 = "3.13"
    python3_14 = "3.14"


def bundle(
    architecture: Annotated[
        Architecture, typer.Option("--arch", help="What the functions run on.")
    ] = Architecture.arm64,
    python: Annotated[
        Python, typer.Option("--python", help="Their version of Python.")
    ] = Python.python3_13,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="By default, dist/penstock-ARCH-PYTHON.zip."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="A penstock.toml that the functions shall use: what to decode, select and pack.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build the archive that AWS Lambda runs, from the versions and hashes of the lock file.

    The same sources and lock give the same bytes. Says its size, and what it costs a new process
    to import it, where this machine can run it. To be deployed with deploy/template.yaml.
    """
    path = output or Path("dist") / f"penstock-{architecture.value}-{python.value}.zip"
    built = build(
        path,
        architecture=architecture.value,
        python=python.value,
        config=config.read_text() if config else "",
        say=lambda line: typer.echo(f"{line} …", err=True),
    )
    if as_json:
        typer.echo(json.dumps(built._asdict()))
        return
    typer.echo(f"{built.path}  sha256 {built.sha256}")
    typer.echo(
        f"{built.zipped_bytes / 1e6:.1f} MB zipped, {built.unzipped_bytes / 1e6:.1f} MB unzipped,"
        f" {built.packages} packages and Penstock"
    )
    if not built.compiled:
        typer.echo(
            f"not compiled: there is no python{built.python} here, so every cold start compiles;"
            " build where there is one"
        )
    if built.import_seconds is None:
        typer.echo("import time not measured: this machine cannot run it")
    else:
        typer.echo(f"{built.import_seconds:.2f} s of CPU to import in a new process")
