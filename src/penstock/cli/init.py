"""`penstock init`: inspects sample files and writes a penstock.toml that fits them."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from penstock import wiring
from penstock.archive.forecast import PACK_FROM_PER_SECOND
from penstock.cli.options import Config, say
from penstock.errors import Halt
from penstock.operate.wording import plural, printable
from penstock.records import expression
from penstock.records.headers import toml
from penstock.settings.reading import CONFIG_DEFAULT, load
from penstock.settings.schema import EMBEDDED, QueueSettings
from penstock.setup import survey
from penstock.setup.hints import hints
from penstock.setup.survey import Survey

_FIELDS_TOLD = 40
_CUT = "it may remove the rest of records whose beginning was cut off"


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The spool: where the files are written.")
    ],
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; use what fits.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Inspect the files in a directory, and write a commented penstock.toml that fits them.

    Reports names, the text before the JSON, the shape of the documents, and the fields of the
    records with their types. Asks on a terminal; without one, or with --yes, uses what fits. If
    there are no files yet, writes a template. If none of the files can be read, writes nothing and
    exits with 1.
    """
    target = config or CONFIG_DEFAULT
    _refuse(directory, target, force=force)
    found = survey.look(directory)
    for line in _seen(found):
        say(line)
    if found.left_out:
        typer.echo(survey.left_out_line(found.left_out), err=True)
    if not found.files:
        typer.echo("there are no files yet: this is a template for you to adapt", err=True)
    elif not found.shapes:
        line = f"penstock: {directory}: {_useless(found)}; nothing is written"
        say(line, err=True)
        raise typer.Exit(1)
    answer = _asking if not yes and _is_terminal() else _taking
    text = _toml(directory, found, answer)
    try:
        target.write_bytes(text.encode())
    except OSError as error:
        raise Halt(f"{target} cannot be written: {error.strerror}") from None
    except UnicodeError:
        name = printable(str(directory.resolve()))
        raise Halt(f"{name}: not UTF-8; give the directory a name that TOML can hold") from None
    settings = load(target)
    wiring.decode_side(settings)
    names, _ = survey.listed(directory, settings.source.pattern)
    for line in hints(settings, [directory / name for name in names]):
        say(f"warning: {line}", err=True)
    typer.echo(f"\nwrote {target}; see what would be sent: penstock preview {directory}")


def _refuse(directory: Path, target: Path, *, force: bool) -> None:
    if re.match(r"[a-z+]+:/", str(directory)):
        raise Halt(
            f"{directory} is an address, but init needs a directory: run it on the"
            " machine that has the directory, and set source.url to the address for the workers"
        )
    if not directory.is_dir():
        raise Halt(f"{directory}: no such directory; give the one that holds the files")
    if target.exists() and not force:
        raise Halt(f"{target} exists already; --force replaces it")


def _seen(found: Survey) -> list[str]:
    lines = [f"{plural(found.files, 'file')}, {found.samples:,} inspected"]
    lines.append(f"names      {found.pattern}")
    of_files = {"preamble": found.preambles, "documents": found.shapes, "rejected": found.reasons}
    for what, of in of_files.items():
        lines += [f"{what:10} {text}  ({plural(count, 'file')})" for text, count in of.items()]
    if found.records:
        lines.append(f"records    {found.records:,}; their fields, with share and types:")
    for name, seen in list(found.fields.items())[:_FIELDS_TOLD]:
        share = f"{seen.count / found.records:.0%}"
        lines.append(f"  {name:32} {share:>5}  {', '.join(sorted(seen.types))}")
    if len(found.fields) > _FIELDS_TOLD:
        lines.append(f"  and {len(found.fields) - _FIELDS_TOLD} more")
    return lines


def _useless(found: Survey) -> str:
    if not found.samples:
        return (
            "its files are empty, larger than 16 MiB, or you may not read them;"
            " give a directory with files as they will be sent"
        )
    reason = found.reasons.most_common(1)[0][0].partition("; if this is your files' header")[0]
    return (
        f"none of the {found.samples:,} files inspected can be read: {reason};"
        " give a directory with JSON files in UTF-8, not compressed"
    )


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _asking(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default))


def _taking(_: str, default: str) -> str:
    return default


def _toml(directory: Path, found: Survey, answer: Callable[[str, str], str]) -> str:
    names = ", ".join(
        f"{survey.identifier(name)}: {survey.identifier(name)}" for name in list(found.fields)[:5]
    )
    fields = _expression("select.fields: which part of each record to send (@ is all)", "@", answer)
    queue = _queue(answer)
    parts = [
        "# Written by `penstock init`. Every setting, its default and its range: docs/settings.md.",
        "",
        "[source]",
        f"url = {toml(str(directory.resolve()))}",
        "# A file's whole name must match this; other files are ignored.",
        f"# All names seen match {toml(found.pattern)}.",
        f"pattern = {toml('.*' + re.escape(found.suffix))}",
        "# A younger file that ends too early waits: it may still be being written.",
        "settle_seconds = 2.0",
        "",
        "[decode]",
        *_decode(found, answer),
        "",
        "[select]",
        "# JMESPath: the part of each record to send; @ is the whole record.",
        *([f"# fields = {toml('{' + names + '}')}"] if names else []),
        f"fields = {toml(fields)}",
        "# JMESPath: a record for which it is false is not sent.",
        "# where = \"lang == 'en'\"",
        "",
        "[queue]",
        "# The queue's URL; 'embedded' is a local SQS that Penstock starts.",
        f"url = {toml(queue)}",
        "",
        "[ledger]",
        "# redis://, rediss:// or unix://; 'embedded' is a redis-server that Penstock starts.",
        f"url = {toml(EMBEDDED)}",
        "",
        *_archive(found),
    ]
    return "\n".join(parts)


def _archive(found: Survey) -> list[str]:
    """Return the section for a high rate of files; [] for a low one."""
    if found.files_per_second <= PACK_FROM_PER_SECOND:
        return []
    rate = f"{found.files_per_second:,.0f} files came a second, by their names"
    return ["[archive]", f"# {rate}: too many to keep one by one.", 'action = "pack"', ""]


def _decode(found: Survey, answer: Callable[[str, str], str]) -> list[str]:
    """Return the lines of [decode]; ask for each proposal. Unwanted doubtful ones are comments."""
    lines = ["# Comments, guards, assignments and calls before the JSON are always removed."]
    proposed = found.decode | found.doubtful
    for key, value in proposed.items():
        text = f"{key} = {toml(value)}"
        doubt = (found.envelope if key == "records" else _CUT) if key in found.doubtful else ""
        question = f"decode.{text}{doubt and f' ({doubt})'}: use it? (yes/no)"
        if answer(question, "no" if doubt else "yes").lower().startswith("y"):
            lines.append(text)
        elif doubt:
            line = f"warning: decode.{text} is written as a comment only: {doubt}"
            say(line, err=True)
            lines += [f"# Check before you use this: {doubt}.", f"# {text}"]
    if "records" not in proposed:
        lines += ["# JMESPath to the records inside an envelope.", '# records = "statuses"']
    return lines


def _queue(answer: Callable[[str, str], str]) -> str:
    while True:
        given = answer("queue.url: the SQS queue ('embedded' is a local one, to try)", EMBEDDED)
        try:
            wiring.check_queue(QueueSettings(url=given))
        except Halt as error:
            say(str(error), err=True)
        else:
            return given


def _expression(question: str, default: str, answer: Callable[[str, str], str]) -> str:
    while True:
        given = answer(question, default)
        error = expression.check(given)
        if error is None:
            return given
        typer.echo(f"not an expression: {error}", err=True)
