"""Write docs/settings.md, docs/commands.md and a part of deploy/README.md from the code.

`make docs` runs it.

    python scripts/reference.py [--check]

With --check nothing is written, and the exit code is 1 if a page is not what the code says. In
deploy/README.md it is the table of what a load costs, between two marks.
"""

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.core
import typer.main
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from penstock.cli.commands import EXAMPLES, app
from penstock.settings.schema import Settings
from penstock.setup.plan import Load, plan

ROOT = Path(__file__).parent.parent
COSTS_BEGIN, COSTS_END = "<!-- costs: written by `make docs` -->\n", "<!-- /costs -->\n"

SETTINGS_HEAD = """\
# Settings

Penstock reads `penstock.toml`: `--config FILE`, or `PENSTOCK_CONFIG`, or the one in the current
directory. The environment overrides it: `PENSTOCK_QUEUE__URL` is `queue.url`. Relative paths start
at the directory of `penstock.toml`. `penstock config show` prints the settings in force, and
`penstock config check` says whether they can work.

A wrong value stops every command with one line: the field, the value, what is allowed.

This page is written from the code by `make docs`.
"""

COMMANDS_HEAD = """\
# Commands

Exit codes: 0 done; 1 done, but something is wrong; 2 wrong usage; 75 it may work later (Redis or
the queue is away: retry); 78 somebody must fix something first (a setting, a permission, a missing
queue); 130 stopped by Ctrl-C or SIGTERM with work left undone.

Every command has `--help`. Commands print and accept times in UTC, as `2026-11-23T06:15:00Z`; `2h`
is two hours ago. In a script, where nobody can answer a question, add `--yes`.

`penstock --install-completion` makes bash, zsh, fish or PowerShell complete commands and options
with Tab, from the next shell on; `penstock --show-completion` prints the code for that.

This page is written from the code by `make docs`.
"""


def settings_page() -> str:
    """Return docs/settings.md."""
    parts = [SETTINGS_HEAD]
    for section, field in Settings.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        parts.append(f"\n## `[{section}]`\n\n{model.__doc__}\n\n")
        parts.append("| key | default | allowed | what it is |\n|---|---|---|---|\n")
        told = _docstrings(model)
        parts += [_setting(name, info, told[name]) for name, info in model.model_fields.items()]
    return "".join(parts)


def _docstrings(model: type) -> dict[str, str]:
    """Return what stands below each field of a section: importing the settings does not read it."""
    (section,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(section, ast.ClassDef)
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in pairwise(section.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _setting(name: str, info: FieldInfo, told: str) -> str:
    default = "" if info.default is None else f"`{json.dumps(_plain(info.default))}`"
    return f"| `{name}` | {default} | {_allowed(info)} | {told} |\n"


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return [] if value == () else value


def _allowed(info: FieldInfo) -> str:
    words: list[str] = []
    for bound in info.metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (limit := getattr(bound, attribute, None)) is not None:
                words.append(f"{sign} {limit:,}")
    return ", ".join(words)


def commands_page() -> str:
    """Return docs/commands.md."""
    root = typer.main.get_command(app)
    return COMMANDS_HEAD + "".join(_command("penstock", root))


def _command(path: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=path)
    if isinstance(command, typer.core.TyperGroup):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found
            yield from _command(f"{path} {name}", found)
        return
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f"\n## `{path} {pieces}`\n\n{_unwrapped(command.help or '')}\n\n"
    for parameter in command.params:
        if isinstance(parameter, typer.core.TyperOption):
            yield f"* `{_option(parameter)}`: {parameter.help or ''}\n"
    yield "".join(
        [
            "\nExamples:\n\n",
            *(
                f"* `{path} {rest}".rstrip() + "`\n"
                for rest in EXAMPLES[path.removeprefix("penstock ")]
            ),
        ]
    )


def _unwrapped(text: str) -> str:
    return text.replace("\b", "").strip()


def _option(option: typer.core.TyperOption) -> str:
    words = ", ".join(option.opts)
    if not option.is_flag:
        words += f" {_value(option)}"
    return words


def _value(option: typer.core.TyperOption) -> str:
    kind: Any = option.type_descriptor.annotation
    if option.metavar:
        return option.metavar
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    words = {int: "NUMBER", float: "NUMBER", Path: "FILE"}
    return next((word for known, word in words.items() if known in (kind, *get_args(kind))), "TEXT")


def deploy_page() -> str:
    """Return deploy/README.md as it is, with its table of costs anew."""
    before, _, rest = (ROOT / "deploy" / "README.md").read_text().partition(COSTS_BEGIN)
    _, mark, after = rest.partition(COSTS_END)
    assert mark
    return before + COSTS_BEGIN + _costs() + COSTS_END + after


def _costs() -> str:
    """Return the table: one load, packed in both ways."""
    many, one = plan(Load(6000, 1, 2400, 500)), plan(Load(6000, 1, 2400, 500, 1))
    lines = ["| a month | collections | one record a message |", "|---|---:|---:|"]
    busy = [made.figures["loaders busy"].value for made in (many, one)]
    lines.append(f"| loaders busy, on average | {busy[0]:.2f} | {busy[1]:.2f} |")
    for name, cost in many.costs.items():
        lines.append(f"| {name} | ${cost.value:,.0f} | ${one.costs[name].value:,.0f} |")
    lines.append(f"| **together** | **${many.total:,.0f}** | **${one.total:,.0f}** |")
    for name, cost in many.instead.items():
        if name.startswith("files "):
            dollars = f"${cost.value:,.0f}"
            told = name.replace("the same", "NAT")
            lines.append(f"| and {told}, if the files come that way | {dollars} | {dollars} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check the pages; return the exit code."""
    wrong = 0
    pages = {
        "docs/settings.md": settings_page(),
        "docs/commands.md": commands_page(),
        "deploy/README.md": deploy_page(),
    }
    for name, text in pages.items():
        page = ROOT / name
        if "--check" in sys.argv:
            if not page.exists() or page.read_text() != text:
                sys.stderr.write(f"{name} is not what the code says: run `make docs`\n")
                wrong = 1
        else:
            page.write_text(text)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
