"""Build the archive that AWS Lambda runs: the core, penstock-sqs[lambda], and nothing else.

`make bundle` runs it.

    uv.lock ──export──▶ versions and hashes ──install for another machine──▶ a directory
    src/penstock ──without the command line─────────────────────────────────────┘
                                                      ──trim, compile──▶ sort, zip

Reproducible: the same lock, sources and Python give the same bytes, whoever builds where and when.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import typer

from penstock import cli
from penstock.cli.options import Json
from penstock.cli.plan import Architecture
from penstock.errors import Again, Halt
from penstock.settings.reading import load
from penstock.settings.secrets import without_password

ARCHITECTURES: Final = {"arm64": "aarch64", "x86_64": "x86_64"}
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
ZIPPED_BYTES_MAX: Final = 50_000_000
UNZIPPED_BYTES_MAX: Final = 262_144_000
"""Lambda's quotas for a function's archive: 50 MB as it is uploaded, 250 MiB as it lies there."""

# No function needs the command line, and with it neither typer nor rich; none has a console.
_PRUNED: Final = ("typer", "rich", "prometheus-client")
_LEFT_OUT: Final = (
    re.compile(r"penstock/((cli|demo)/.*|__main__\.py)"),
    re.compile(r"(^|.*/)(__pycache__|tests?)/.*"),
    re.compile(r".*\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json|uv_.*\.json)"),
    re.compile(r"(bin|\.lock)(/.*)?"),
    # Powertools for other jobs than logs and metrics.
    re.compile(r"aws_lambda_powertools/event_handler/.*"),
    re.compile(
        r"aws_lambda_powertools/utilities/(auth_alpha|batch|data_classes|data_masking|feature_flags"
        r"|idempotency|kafka|parser|streaming|validation)/.*"
    ),
    # Of the models of 400 services, those that are called: see calls.py.
    re.compile(r"botocore/data/(?!(lambda|secretsmanager|ssm|sqs|sts)/)[^/]+/.*"),
)
_MODULE: Final = "penstock.aws.handlers"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_IMPORTS: Final = 3
_COMPILE: Final = (
    "import compileall, sys; from py_compile import PycInvalidationMode as M; "
    "sys.exit(not compileall.compile_dir(sys.argv[1], stripdir=sys.argv[1], prependdir='/var/task',"
    " quiet=2, workers=1, invalidation_mode=M.UNCHECKED_HASH))"
)
_IMPORT: Final = (
    "import sys, time; sys.path.insert(0, sys.argv[1]); began = time.process_time(); "
    f"import {_MODULE}; print(time.process_time() - began)"
)


app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


class Bundle(NamedTuple):
    """What was built. `import_seconds` is CPU time, the least of three new processes.

    It is None where this machine cannot run the bundle; `compiled` is false where it has no Python
    of that version to compile with: then every cold start compiles, for seconds.
    """

    path: str
    architecture: str
    python: str
    packages: int
    zipped_bytes: int
    unzipped_bytes: int
    sha256: str
    compiled: bool
    import_seconds: float | None


def add_config(archive: Path, text: str) -> None:
    """Put a penstock.toml into an archive: functions find it where they run. Raises Halt.

    No secret may be in it: whoever may read the function's code would have it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary) / "penstock.toml"
        config.write_text(text)
        settings = load(config)
    held = [settings.source.token, settings.serve.token]
    if any(secret.get_secret_value() for secret in held) or (
        without_password(settings.ledger.url) != settings.ledger.url
    ):
        raise Halt(
            "bundle: the settings hold a token or a password; allowed: none, they belong into"
            " Secrets Manager (deploy/README.md)"
        )
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(_entry("penstock.toml"), text)


def add_ca(archive: Path, text: str) -> None:
    """Put the certificate of an authority into an archive, as ca.pem. Raises Halt if it is none."""
    if "BEGIN CERTIFICATE" not in text or "PRIVATE KEY" in text:
        raise Halt("bundle: --ca: allowed: a file in PEM form with certificates, and no key")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(_entry("ca.pem"), text)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.external_attr = 0o100644 << 16  # Lambda runs as another user, who must read it
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def here() -> tuple[str, str]:
    """Return the architecture and the Python of this process."""
    names = {machine: name for name, machine in ARCHITECTURES.items()}
    machine = platform.machine()
    return names.get(machine, machine), f"{sys.version_info[0]}.{sys.version_info[1]}"


def build(
    output: Path,
    *,
    architecture: str,
    python: str,
    config: str = "",
    ca: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Build the archive at `output`, `config` as penstock.toml and `ca` as ca.pem in it.

    `say` is told each step. Raises Again or Halt.
    """
    root = checkout()
    interpreter = _interpreter(python)
    with tempfile.TemporaryDirectory(prefix="penstock-bundle-") as temporary:
        tree = Path(temporary) / "tree"
        say(f"installing what {architecture}, Python {python} needs, as uv.lock says")
        packages = _install(root, tree, architecture, python)
        shutil.copytree(root / "src" / "penstock", tree / "penstock")
        _trim(tree)
        if interpreter:
            say("compiling")
            _run([interpreter, "-I", "-S", "-c", _COMPILE, str(tree)], seed=True)
        say("packing")
        unzipped_bytes = _pack(tree, output)
        if config:
            add_config(output, config)
        if ca:
            add_ca(output, ca)
        zipped_bytes = output.stat().st_size
        if zipped_bytes > ZIPPED_BYTES_MAX or unzipped_bytes > UNZIPPED_BYTES_MAX:
            raise Halt(
                f"bundle: {zipped_bytes:,} bytes zipped, {unzipped_bytes:,} unzipped; Lambda takes"
                f" {ZIPPED_BYTES_MAX:,} and {UNZIPPED_BYTES_MAX:,}"
            )
        runs_here = interpreter and here()[0] == architecture
        return Bundle(
            path=str(output),
            architecture=architecture,
            python=python,
            packages=packages,
            zipped_bytes=zipped_bytes,
            unzipped_bytes=unzipped_bytes,
            sha256=hashlib.sha256(output.read_bytes()).hexdigest(),
            compiled=bool(interpreter),
            import_seconds=_import_seconds(interpreter, tree) if runs_here else None,
        )


def checkout() -> Path:
    """Return the checkout that this runs from: it has the lock. Raises Halt if there is none."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "uv.lock").is_file():
        raise Halt(
            f"bundle: no uv.lock in {root}; what is deployed is built from a checkout of Penstock:"
            " clone it, and `make bundle` there"
        )
    return root


def _uv(root: Path) -> str:
    own = root / ".cache" / "uv" / "bin" / "uv"
    found = str(own) if own.is_file() else shutil.which("uv")
    if not found:
        raise Halt("bundle: no uv; `make .venv/installed` fetches one, or install it")
    return found


def _interpreter(python: str) -> str:
    """Return a Python of that version on this machine, or nothing."""
    if python == here()[1]:
        return sys.executable
    found = shutil.which(f"python{python}")
    if found:  # pyenv has commands of this name that only say which version to choose
        done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
        if done.stdout.startswith(f"Python {python}."):
            return found
    return ""


def _install(root: Path, tree: Path, architecture: str, python: str) -> int:
    """Install the locked versions, checked by their hashes, into `tree`; return how many."""
    pruned = [word for name in _PRUNED for word in ("--prune", name)]
    uv = _uv(root)
    export = [uv, "export", "--project", str(root), "--frozen", "--no-dev", "--no-emit-project"]
    requirements = _run([*export, "--extra", "lambda", *pruned, "--no-header", "--no-annotate"])
    listed = tree.parent / "requirements.txt"
    listed.write_text(requirements)
    # Lambda's images: Amazon Linux 2 (glibc 2.26) for 3.11, Amazon Linux 2023 (2.34) from 3.12 on.
    glibc = "manylinux_2_17" if python == "3.11" else "manylinux_2_28"
    where = ["--python-platform", f"{ARCHITECTURES[architecture]}-{glibc}"]
    how = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--link-mode", "hardlink"]
    command = [uv, "pip", "install", "--quiet", "--no-config", "--target", str(tree)]
    _run([*command, *how, *where, "--python-version", python, "-r", str(listed)])
    return len(list(tree.glob("*.dist-info")))


def _trim(tree: Path) -> None:
    """Delete what no function uses, and what says when and by whom the tree was made."""
    for path in list(_files(tree)):
        name = path.relative_to(tree).as_posix()
        if any(left_out.fullmatch(name) for left_out in _LEFT_OUT):
            path.unlink()
    for directory, _, _ in sorted(os.walk(tree), reverse=True):
        if not os.listdir(directory):  # noqa: PTH208  names only
            Path(directory).rmdir()


def _files(tree: Path) -> Iterator[Path]:
    yield from sorted(path for path in tree.rglob("*") if path.is_file())


def _pack(tree: Path, output: Path) -> int:
    """Write the archive; return the bytes that are in it."""
    total = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in _files(tree):
            data = path.read_bytes()
            archive.writestr(_entry(path.relative_to(tree).as_posix()), data)
            total += len(data)
    return total


def _import_seconds(interpreter: str, tree: Path) -> float:
    """Return the CPU time in which a new process imports the handlers, from this tree alone."""
    command = [interpreter, "-I", "-S", "-B", "-c", _IMPORT, str(tree)]
    return round(min(float(_run(command)) for _ in range(_IMPORTS)), 3)


def _run(command: Sequence[str], *, seed: bool = False) -> str:
    """Run a program and return what it prints. Raises Again with its last words if it fails."""
    environment = os.environ | ({"PYTHONHASHSEED": "0"} if seed else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise Again(
            f"bundle: {Path(command[0]).name} {command[1]} ended with {done.returncode}: "
            + " ".join(words[-6:])
        )
    return done.stdout


@app.command()
def main(
    architecture: Annotated[
        Architecture, typer.Option("--arch", help="What the functions run on.")
    ] = "arm64",
    python: Annotated[
        Literal["3.11", "3.12", "3.13", "3.14"], typer.Option(help="Their version of Python.")
    ] = "3.13",
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
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            help="Certificates to trust of the file server; set CaInBundle in the template.",
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
    path = output or Path("dist") / f"penstock-{architecture}-{python}.zip"
    built = build(
        path,
        architecture=architecture,
        python=python,
        config=config.read_text() if config else "",
        ca=ca.read_text() if ca else "",
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


if __name__ == "__main__":
    cli.main(app)
