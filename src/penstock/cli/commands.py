"""All commands, each in its own module, which is imported when the command is called."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from penstock import __version__, import_at_once

# In the order of --help: a module here, and its attribute if that has another name.
_GROUPS = {
    "Drain": "run functions.load functions.archive functions.check demo",
    "Look": "status explain verify archived.app console",
    "Repair": "rejected.app replay spool.app",
    "Set up": "init preview config.app",
    "Deploy": "serve plan",
}
COMMANDS: dict[str, tuple[str, str, str]] = {}
for _group, _words in _GROUPS.items():
    for _module, _, _of_it in (word.partition(".") for word in _words.split()):
        _name = _of_it if _of_it not in {"", "app"} else _module
        COMMANDS[_name] = (_group, _module, _of_it or _module)

EXAMPLES: Mapping[str, tuple[str, str]] = {
    "run": ("", "--config /etc/penstock.toml --verbose"),
    "load": ("", "--every 0.25"),
    "archive": ("", "--every 5 --json"),
    "check": ("", "--every 15"),
    "demo": ("", "--rate 200 --records-per-file 100 --queue fifo"),
    "status": ("", "--watch --every 5"),
    "explain": ("2026-11-23T06-15-00.123456.json", "--json spool/2026-11-23T06-15-00.123456.json"),
    "verify": ("", "--archive --json"),
    "archived list": ("--since '1h ago'", "--names --since 2026-11-23T06:15"),
    "archived get": ("2026-11-23T06-15-00.123456.json", "--all 2026-11-23T06-15-00.123456.json"),
    "archived extract": ("copies --since '1h ago'", "copies --since 2026-11-23 --until 2026-11-24"),
    "console": ("", "--listen 127.0.0.1:9000"),
    "rejected list": ("", "--reason 'not JSON' --since '2h ago'"),
    "rejected show": ("2026-11-23T06-15-00.123456.json", "--json 2026-11-23T06-15-00.123456.json"),
    "rejected retry": ("--all --dry-run", "'2026-11-23T06*' --yes"),
    "rejected discard": ("--reason 'empty file'", "'2026-11-23T06*' --no-copy"),
    "replay": ("'2026-11-23T06*' --dry-run", "--since '2h ago' --until '1h ago'"),
    "spool accept": ("", "--yes"),
    "init": ("/var/spool/tweets", "--yes --config /etc/penstock.toml /var/spool/tweets"),
    "preview": ("spool", "spool --select '{id: id, author: user.name}' --where \"lang == 'en'\""),
    "config show": ("", "--json"),
    "config check": ("", "--config /etc/penstock.toml"),
    "serve": ("", "/var/spool/tweets --listen 127.0.0.1:9000"),
    "plan": (
        "--files-per-second 6000 --records-per-file 1 --record-bytes 2400 --selected-bytes 300",
        "--files-per-second 60 --records-per-file 99 --record-bytes 2400 --selected-bytes 300",
    ),
}
"""Two example calls of each command, for `--help` and docs/commands.md."""


class _Commands(typer.core.TyperGroup):
    """Imports a command only when it is called: all of them take a second of CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands: Any = dict.fromkeys(COMMANDS)  # typer's "did you mean" uses these

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  the signature is click's
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  the same
        if cmd_name not in COMMANDS:
            return None
        group, module, attribute = COMMANDS[cmd_name]
        found = getattr(import_at_once(f"penstock.cli.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False)
            alone.command(cmd_name)(found)
            found = alone
        command: Any = typer.main.get_command(found)
        command.rich_help_panel = group
        _show_examples(command, cmd_name)
        return command


def _show_examples(command: Any, path: str) -> None:
    """End `--help` with the examples of a command, or of each command of a group."""
    command.rich_markup_mode = "markdown"
    lines = [f"* `{f'penstock {path} {rest}'.strip()}`" for rest in EXAMPLES.get(path, ())]
    command.epilog = "\n\n".join(["Examples:\n", *lines]) if lines else None
    for name, part in getattr(command, "commands", {}).items():
        _show_examples(part, f"{path} {name}")


app = typer.Typer(
    cls=_Commands,
    name="penstock",
    help="Drains a directory of timestamped JSON files into Amazon SQS: each file once, nothing"
    " lost.\n\nStart with `penstock demo`, then `penstock init DIR` on your own directory.",
    epilog="`penstock COMMAND --help` shows examples.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take options that come before the command."""
