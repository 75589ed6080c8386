"""`penstock init`: looks at sample files and writes a penstock.toml that fits them."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from penstock import expression, settings
from penstock.entry import survey, wiring
from penstock.entry.cli.options import Config
from penstock.entry.survey import Survey
from penstock.errors import Halt
from penstock.settings import CONFIG_DEFAULT, EMBEDDED

_FIELDS_TOLD = 40
_PATTERN = r".*\.json"


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The spool: where the files are written.")
    ],
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing, take what fits.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Look at the files in a directory, and write a commented penstock.toml that fits them.

    Tells what it sees: names, what stands before the JSON, the documents' shape, the fields of the
    records with their types. Asks on a terminal; without one, or with --yes, takes what fits.
    """
    if not directory.is_dir():
        raise Halt(f"{directory}: no such directory; give the one the files are written into")
    target = config or CONFIG_DEFAULT
    if target.exists() and not force:
        raise Halt(f"{target} exists already; --force replaces it")
    found = survey.look(directory)
    for line in _seen(found):
        typer.echo(line)
    answer = _asking() if not yes and _is_terminal() else _taking
    text = _toml(directory, found, answer)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Halt(f"{target}: it cannot be written: {error.strerror}") from None
    wiring.decode_side(settings.load(target))
    typer.echo(f"\nwrote {target}; see what would be sent: penstock preview {directory}")


def _seen(found: Survey) -> list[str]:
    """Return what the samples show, in lines."""
    lines = [f"{found.files:,} files, {found.samples:,} looked at"]
    lines += [
        f"names      {found.pattern}" if found.pattern else "names      none that end in .json"
    ]
    lines += [f"preamble   {text}  ({count} files)" for text, count in found.preambles.items()]
    lines += [f"documents  {shape}  ({count} files)" for shape, count in found.shapes.items()]
    lines += [f"rejected   {reason}  ({count} files)" for reason, count in found.reasons.items()]
    if found.records:
        lines.append(f"records    {found.records:,}; their fields, in how many, of which types:")
    for name, seen in list(found.fields.items())[:_FIELDS_TOLD]:
        share = f"{seen.count / found.records:.0%}"
        lines.append(f"  {name:32} {share:>5}  {', '.join(sorted(seen.types))}")
    if len(found.fields) > _FIELDS_TOLD:
        lines.append(f"  and {len(found.fields) - _FIELDS_TOLD} more")
    return lines


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _asking() -> Callable[[str, str], str]:
    def ask(question: str, default: str) -> str:
        return str(typer.prompt(question, default=default))

    return ask


def _taking(_: str, default: str) -> str:
    return default


def _toml(directory: Path, found: Survey, answer: Callable[[str, str], str]) -> str:
    """Return the text of the settings, with what was seen as comments."""
    names = ", ".join(f"{_key(name)}: {_key(name)}" for name in list(found.fields)[:5])
    fields = _expression("select.fields: what is sent of each record (@ is all)", "@", answer)
    queue = answer("queue.url: the SQS queue ('embedded' is a local one, to try)", EMBEDDED)
    parts = [
        "# Written by `penstock init`. Every setting, its default and its range: docs/settings.md.",
        "",
        "[source]",
        f"url = {survey.toml(str(directory.resolve()))}",
        "# What a file's whole name must match to be a file; the others stay in the spool.",
        *([f"# All names seen match {survey.toml(found.pattern)}."] if found.pattern else []),
        f"pattern = {survey.toml(_PATTERN)}",
        "# A file that ends too early is left waiting while it is younger than this.",
        "settle_seconds = 2.0",
        "",
        "[decode]",
        *_decode(found.decode, answer),
        "",
        "[select]",
        "# JMESPath: what is sent of each record; @ is the whole record.",
        *([f"# fields = {survey.toml('{' + names + '}')}"] if names else []),
        f"fields = {survey.toml(fields)}",
        "# JMESPath: a record for which it is false is filtered out.",
        "# where = \"lang == 'en'\"",
        "",
        "[queue]",
        "# The queue's URL; 'embedded' is a local SQS of Penstock's own.",
        f"url = {survey.toml(queue)}",
        "",
        "[ledger]",
        "# redis://, rediss:// or unix://; 'embedded' is a redis-server of Penstock's own.",
        f"url = {survey.toml(EMBEDDED)}",
        "",
    ]
    return "\n".join(parts)


def _decode(proposed: Mapping[str, object], answer: Callable[[str, str], str]) -> list[str]:
    """Return the lines of the section; what is proposed is asked for one by one."""
    lines = ["# Comments, guards, assignments and calls before the JSON come off by themselves."]
    for key, value in proposed.items():
        text = survey.toml(value)
        if answer(f"decode.{key} = {text}: take it? (yes/no)", "yes").lower().startswith("y"):
            lines.append(f"{key} = {text}")
    if "records" not in proposed:
        lines += ["# JMESPath to the records inside an envelope.", '# records = "statuses"']
    return lines


def _expression(question: str, default: str, answer: Callable[[str, str], str]) -> str:
    """Ask until the answer is a JMESPath expression."""
    while True:
        given = answer(question, default)
        error = expression.check(given)
        if error is None:
            return given
        typer.echo(f"not an expression: {error}", err=True)


def _key(name: str) -> str:
    """Return a field's name as JMESPath writes it."""
    plain = name.isascii() and name.isidentifier()
    return name if plain else json.dumps(name)
