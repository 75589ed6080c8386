"""`penstock plan`: what a load needs and costs on AWS."""

import dataclasses
import json
import math
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from penstock.cli.options import Json, QueueKind
from penstock.setup.plan import Figure, Load, Plan
from penstock.setup.plan import plan as make
from penstock.setup.plan_prices import PRICES

_WIDE = 100  # columns for formulas beside their figures; if narrower, below them
_NAME, _AMOUNT = 34, 20

Architecture = Literal["arm64", "x86_64"]
"""What a Lambda function runs on."""


def plan(
    files_per_second: Annotated[float, typer.Option(min=0.001, max=1e6, help="Files written.")],
    records_per_file: Annotated[int, typer.Option(min=1, help="Records in a file.")],
    record_bytes: Annotated[int, typer.Option(min=2, help="Size of a record in its file.")],
    selected_bytes: Annotated[int, typer.Option(min=1, help="Size of the part that is sent.")],
    records_per_message: Annotated[
        Literal["many", "1"], typer.Option(help="many: collections; 1: one record per message.")
    ] = "many",
    queue: QueueKind = "standard",
    architecture: Annotated[
        Architecture, typer.Option(help="What the functions run on.")
    ] = "arm64",
    as_json: Json = False,
) -> None:
    """Compute what a load needs and costs on AWS: calls, loaders, memory, dollars a month.

    Each figure has its formula. Prices are those of US East on the dates shown; the loader's CPU
    was measured with `bench/plan.py`.
    """
    load = Load(
        files_per_second,
        records_per_file,
        record_bytes,
        selected_bytes,
        1 if records_per_message == "1" else "many",
        queue,
        architecture,
    )
    made = make(load)
    if as_json:
        typer.echo(json.dumps(_as_dict(load, made)))
    else:
        _print(made)


def _as_dict(load: Load, made: Plan) -> dict[str, object]:
    def figures(of: dict[str, Figure]) -> dict[str, object]:
        return {name: figure._asdict() for name, figure in of.items()}

    return {
        "load": dataclasses.asdict(load),
        "figures": figures(dict(made.figures)),
        "dollars_a_month": figures(dict(made.costs)),
        "dollars_a_month_total": round(made.total, 2),
        "instead": figures(dict(made.instead)),
        "notes": list(made.notes),
        "prices": {name: price._asdict() for name, price in PRICES.items()},
    }


def _print(made: Plan) -> None:
    console = Console()
    rows = [(name, _amount(figure), figure.formula) for name, figure in made.figures.items()]
    rows += [(name, f"$ {one.value:,.2f}", one.formula) for name, one in made.costs.items()]
    rows += [("a month, together", f"$ {made.total:,.2f}", "")]
    rows += [
        (f"not: {name}", f"$ {one.value:,.2f}", one.formula) for name, one in made.instead.items()
    ]
    table = Table(box=None, padding=(0, 2), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for name, amount, formula in rows:
        if console.width >= _WIDE:
            table.add_row(name, amount, formula, style="" if formula else "bold")
            continue
        console.print(f"{name:<{_NAME}}{amount:>{_AMOUNT}}", highlight=False)
        console.print(Padding(formula, (0, 0, 0, 4)), style="dim", highlight=False)
    console.print(table)
    for note in made.notes:
        console.print(f"* {note}", highlight=False)
    dates = sorted({price.as_of for price in PRICES.values()})
    console.print(
        f"prices: US East (N. Virginia), read {dates[0]} to {dates[-1]}; --json names each source",
        style="dim",
        highlight=False,
    )


def _amount(figure: Figure) -> str:
    value, unit = figure.value, figure.unit
    if unit.startswith("B"):
        thousands = 0 if value < 1 else min(3, int(math.log10(value)) // 3)
        return f"{value / 1000**thousands:,.1f} {('', 'k', 'M', 'G')[thousands]}{unit}"
    whole = value == int(value)
    return f"{value:,.{0 if whole else 2}f} {unit}"
