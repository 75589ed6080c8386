"""A root of its own: what Debian calls minimal, Python and make, by debootstrap; no Docker.

Commands run in it in mount and process namespaces of their own, as any user, with directories of
the machine mounted, and if need be with nothing of it writable: what a container engine would do.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.require import require

ROOT = Path(__file__).parents[2]
_PACKAGES = "python3,make,ca-certificates"
_TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENTER = r"""
set -e
root=$1 readonly=$2; shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do mkdir -p "$root$2"; mount --bind "$1" "$root$2"; shift 2; done; shift
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
[ -z "$readonly" ] || mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


class Rooted:
    """A copy of the base root, at `path`."""

    def __init__(self, path: Path, release: str = "bookworm") -> None:
        self.path = path
        subprocess.run(["cp", "-a", _base(release), path], check=True)
        for name in ("/etc/resolv.conf", "/etc/hosts", str(_TRUSTED)):
            if Path(name).exists():
                shutil.copyfile(name, f"{path}{name}")  # what this machine trusts and resolves

    def command(
        self,
        *words: object,
        user: tuple[int, int] = (0, 0),
        mounts: Mapping[Path, str] | None = None,
        environment: Mapping[str, str] | None = None,
        is_container: bool = False,
    ) -> list[str]:
        """Return what runs `words` in here; `is_container`: read-only, without a capability."""
        pairs = [str(part) for pair in (mounts or {}).items() for part in pair]
        given = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", "SSL_CERT_FILE": str(_TRUSTED)}
        given |= {"PIP_CERT": str(_TRUSTED)} | dict(environment or {})
        become = [f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups"]
        if is_container:
            become += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        enter = ["bash", "-c", _ENTER, "enter", str(self.path), "1" if is_container else ""]
        clean = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in given.items())]
        inside = ["/usr/bin/setpriv", *become, *clean, *map(str, words)]
        return [*namespaces, *enter, *pairs, "--", *inside]

    def run(self, *words: object, **how: object) -> str:
        """Run a command in here; return what it prints. It must succeed."""
        command = self.command(*words, **how)  # type: ignore[arg-type]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def copy_checkout(self, to: str, only: Sequence[str] = ()) -> None:
        """Put what git would commit of this checkout, or of these parts of it, into the root."""
        listed = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed += ["--", *only]
        names = subprocess.run(listed, capture_output=True, check=True).stdout
        target = self.path / to.lstrip("/")
        target.mkdir(parents=True)
        pack = subprocess.run(
            ["tar", "-C", ROOT, "--null", "-T", "-", "-c"],
            input=names, capture_output=True, check=True,
        )  # fmt: skip
        subprocess.run(["tar", "-C", target, "-x"], input=pack.stdout, check=True)


def _base(release: str) -> Path:
    """Return the base root, which is made once: about a minute, from Debian's mirror."""
    require(present=os.geteuid() == 0, what="root, to make a root for containers")
    require(present=bool(shutil.which("debootstrap")), what="debootstrap (Debian: debootstrap)")
    base = ROOT / ".cache" / f"root-{release}"
    if not (base / "complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.parent.mkdir(exist_ok=True)
        made: Sequence[object] = (
            "debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release, base,
        )  # fmt: skip
        subprocess.run([str(word) for word in made], check=True, stdout=subprocess.DEVNULL)
        (base / "complete").touch()
    return base
