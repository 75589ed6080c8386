"""`penstock spool accept`: the spool was replaced on purpose."""

from contextlib import AsyncExitStack

import typer

from penstock import passes, wiring
from penstock.cli.options import Config, agree
from penstock.cli.rejected import Yes
from penstock.errors import Halt
from penstock.settings.reading import load
from penstock.settings.schema import Settings

app = typer.Typer(
    name="spool",
    help="Say which directory is the spool, where it was replaced on purpose.",
    no_args_is_help=True,
    add_completion=False,
)


app.callback()(lambda: None)  # a group, though it has one command only


@app.command()
def accept(yes: Yes = False, config: Config = None) -> None:
    """Accept the directory that source.url leads to now as the spool.

    For when `penstock status` says spool-changed, and the directory really was replaced: moved to
    another disk, or recreated. If it is only not mounted, mount it instead. Files that the ledger
    holds and that are neither in this directory nor in the archive are then counted as gone.
    """
    settings = load(config)
    if not yes:
        agree(f"accept what {settings.source.url} leads to now?")
    passes.run(lambda _: _accepted(settings))


async def _accepted(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        source = await wiring.source(settings, stack)
        ledger = await wiring.ledger(settings, stack)
        seen = await source.identity()
        if not any(seen):
            raise Halt(
                "source.url: it is unknown which spool this is, because it has no marker;"
                " make one, as in docs/nginx.md"
            )
        before = await ledger.spool.accept(seen)
        typer.echo(f"accepted: {seen}" + (f"; it was {before}" if before else ""))
