"""The documentation, held to the code: commands, settings, links, and the README line by line."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import typer.core
import typer.main

from penstock.entry.cli import app
from penstock.settings import Settings, load

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "deploy").glob("*.md")]
)
SETTINGS = {
    f"{section}.{key}"
    for section, field in Settings.model_fields.items()
    for key in getattr(field.annotation, "model_fields", {})
}
_BLOCK = re.compile(r"(<!-- not run[^>]*-->\n)?```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> Iterator[tuple[bool, str]]:
    """Yield the code blocks of a page in a language, and whether they are to be run."""
    for skipped, found, code in _BLOCK.findall(page.read_text()):
        if found == language:
            yield not skipped, code


def commands() -> dict[str, set[str]]:
    """Return every command of the command line with its options."""
    found: dict[str, set[str]] = {}

    def walk(path: str, command: Any) -> None:
        found[path] = {option for given in command.params for option in given.opts} | {"--help"}
        if isinstance(command, typer.core.TyperGroup):
            context: Any = typer.Context(cast("Any", command))
            for name in command.list_commands(context):
                walk(f"{path} {name}".strip(), command.get_command(context, name))

    walk("", typer.main.get_command(app))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """Every `penstock …` in a page is a command, and its options are its own."""
    known = commands()
    text = page.read_text()
    spoken = re.findall(r"`penstock ([a-z][^`]*)`", text)
    for _, code in blocks(page, "sh"):
        spoken += re.findall(r"^penstock ([a-z][^\n#|&;]*)", code, re.MULTILINE)
    for line in spoken:
        words = line.split()
        path = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert path in known, f"{page.name}: penstock {line}"
        for option in re.findall(r"(?<!\S)\[?(--[a-z-]+)", line):
            assert option in known[path] | known[""], f"{page.name}: penstock {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_exist(page: Path) -> None:
    """Every `section.key` and PENSTOCK_SECTION__KEY in a page is a setting."""
    text = page.read_text()
    sections = "|".join(Settings.model_fields)
    for setting in re.findall(rf"`((?:{sections})\.[a-z_]+)(?: = [^`]*)?`", text):
        known = setting in SETTINGS or (ROOT / "src/penstock" / setting).exists()
        known = known or setting.endswith((".py", ".md"))
        assert known, f"{page.name}: {setting}"
    for section, key in re.findall(r"PENSTOCK_([A-Z]+)__([A-Z_]+)", text):
        assert f"{section}.{key}".lower() in SETTINGS, f"{page.name}: PENSTOCK_{section}__{key}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_load(page: Path, tmp_path: Path) -> None:
    """Every TOML block of a page is a penstock.toml that is accepted."""
    for number, (_, code) in enumerate(blocks(page, "toml")):
        tomllib.loads(code)
        path = tmp_path / f"{number}.toml"
        path.write_text(code)
        load(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    """Every `make …` in a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    spoken = re.findall(r"`make ([a-z]+)", text)
    for _, code in blocks(page, "sh"):
        spoken += re.findall(r"^make ([a-z]+)", code, re.MULTILINE)
    assert set(spoken) <= targets


def test_the_reference_is_what_the_code_says() -> None:
    """docs/settings.md and docs/commands.md are as `make docs` would write them."""
    check = [sys.executable, ROOT / "scripts" / "reference.py", "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_true_line_by_line(tmp_path: Path) -> None:
    """Its shell blocks, run in order in one new directory, do what they say."""
    lines = [f'export PATH="{ROOT}/.venv/bin:$PATH"', "set -e"]
    for run, code in blocks(ROOT / "README.md", "sh"):
        if run and not code.startswith(("make", "export PATH")):
            lines.append(code)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PENSTOCK_"))}
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the settings can work" in done.stdout
    assert "records_sent                          2" in done.stdout
    archived = "archive/2026/11/23/06/2026-11-23T06-15-00.123456.json"
    assert archived in done.stdout
    assert (tmp_path / archived).exists()
