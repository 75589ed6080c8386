"""`penstock spool accept`: accepts a spool that was replaced on purpose."""

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
    help="Accept another directory as the spool, if it was replaced on purpose.",
    no_args_is_help=True,
    add_completion=False,
)


app.callback()(lambda: None)  # makes a group of the only command


@app.command()
def accept(yes: Yes = False, config: Config = None) -> None:
    """Accept the directory at source.url as the spool.

    Run it if `penstock status` says spool-changed, and the directory really was replaced: moved to
    another disk, or recreated. If it is only not mounted, mount it instead. Afterwards, files of
    the ledger that are neither in this directory nor in the archive count as gone.
    """
    settings = load(config)
    if not yes:
        agree(f"accept the directory now at {settings.source.url}?")
    passes.run(lambda _: _accepted(settings))


async def _accepted(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        source = await wiring.source(settings, stack)
        ledger = await wiring.ledger(settings, stack)
        seen = await source.identity()
        if not any(seen):
            raise Halt(
                "source.url: this spool cannot be identified, because it has no marker;"
                " make one, as in docs/nginx.md"
            )
        before = await ledger.spool.accept(seen)
        typer.echo(f"accepted: {seen}" + (f"; it was {before}" if before else ""))
