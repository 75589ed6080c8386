"""A real nginx for tests and benchmarks, in STATE/nginx/, with the shipped configuration."""

import getpass
import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from penstock.embedded import process
from penstock.embedded.process import EmbeddedProcess
from penstock.errors import Halt
from support.answered import is_answered

_CONFIGURATION = Path(process.__file__).with_name("nginx.conf")  # planted bugs are in this one
# nginx makes all of them at its start, and those it was built with belong to root.
_TEMP_PATHS = ("proxy_temp_path", "fastcgi_temp_path", "uwsgi_temp_path", "scgi_temp_path")


class EmbeddedNginx(EmbeddedProcess):
    """An nginx on a free port of the loopback interface, with two tokens of its own.

    It serves `root`/spool and moves files to `root`/archive and `root`/rejected; by default `root`
    is where the state directory lies. One process, without nginx's master: it ends when we do.
    """

    folder = "nginx"
    title = "embedded nginx"
    remedy = "install nginx 1.22 or newer (apt-get install nginx)"

    def __init__(
        self, state_directory: Path, *, root: Path | None = None, share: bool = False
    ) -> None:
        super().__init__(state_directory, share=share)
        self._root = root.absolute() if root else state_directory.absolute().parent
        self._reservation: socket.socket | None = None

    @property
    def url(self) -> str:
        """The address for `source.url`: nginx+http://127.0.0.1:PORT/spool/."""
        return f"nginx+{self.address}/spool/"

    @property
    def read_token(self) -> str:
        """The token that lists and reads."""
        return self._token("read")

    @property
    def move_token(self) -> str:
        """The token that moves and deletes, too."""
        return self._token("move")

    async def launch(self, previous: str, inherit: int) -> str:
        """Start nginx on its previous port if that is free. Raises Halt if there is none."""
        program = nginx_program()
        if program is None:
            raise Halt(f"{self.title}: no nginx on PATH; {self.remedy}")
        self._make_tokens()
        (self.directory / "temporary").mkdir(exist_ok=True)
        self._reservation = _reserved(previous)
        port = int(self._reservation.getsockname()[1])
        path = self.directory / "nginx.conf"
        path.write_text(_with_values(_CONFIGURATION.read_text(), self._values(port)))
        command = [program, "-e", "stderr", "-c", str(path)]
        command += ["-g", "daemon off; master_process off;"]
        self.spawn(command, {"PATH": os.defpath, "LC_ALL": "C"}, [inherit])
        return f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """End nginx, and let go of its port."""
        await super().stop()
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    async def answers(self) -> bool:
        """Tell whether nginx answers; wait up to two seconds for it."""
        return await is_answered(f"{self.address}/", HTTPStatus.UNAUTHORIZED)

    def _values(self, port: int) -> Mapping[str, str]:
        """Return what stands in the shipped file for another place, by directive."""
        temporary = self.directory / "temporary"
        bodies = _quoted(temporary / "body")
        if os.geteuid():
            others = [f"{name} {_quoted(temporary / name)}" for name in _TEMP_PATHS]
            bodies = "; ".join([bodies, *others])
        return {
            "user": getpass.getuser(),
            "pid": _quoted(self.directory / "nginx.pid"),
            "error_log": "stderr warn",
            "listen": f"127.0.0.1:{port} reuseport",
            "root": _quoted(self._root),
            "include": _quoted(self._tokens),
            "client_body_temp_path": bodies,
        }

    @property
    def _tokens(self) -> Path:
        return self.directory / "penstock.tokens"

    def _make_tokens(self) -> None:
        """Write the tokens file, unless an earlier life did: clients keep what they have."""
        if not self._tokens.exists():
            lines = [f'"Bearer {secrets.token_hex(32)}" {may};\n' for may in ("read", "move")]
            draft = self._tokens.with_suffix(".draft")
            draft.touch(mode=0o600)
            draft.write_text("".join(lines))
            draft.rename(self._tokens)

    def _token(self, may: str) -> str:
        found = re.search(rf'^"Bearer ([0-9a-f]+)" {may};$', self._tokens.read_text(), re.MULTILINE)
        if found is None:
            raise Halt(f"{self.title}: {self._tokens} has no token to {may}; delete that file")
        return found[1]


def nginx_program() -> str | None:
    """Return the path of nginx: on PATH, or where distributions put it, out of a user's PATH."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def _reserved(previous: str) -> socket.socket:
    """Return a socket that keeps a port, that of `previous` if it is free, for nginx to bind."""
    for port in (urlsplit(previous).port or 0, 0):
        reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind(("127.0.0.1", port))
        except OSError:
            reserved.close()
        else:
            return reserved
    raise Halt("no port is free")


def _with_values(text: str, values: Mapping[str, str]) -> str:
    """Return a configuration with other values for some directives, each of which it has once."""
    for directive, value in values.items():
        line = re.compile(rf"^( *{directive}) [^;]*;", re.MULTILINE)
        text, found = line.subn(lambda match, value=value: f"{match[1]} {value};", text)
        if found != 1:
            raise RuntimeError(f"{_CONFIGURATION}: {found} times `{directive}`, not once")
    return text


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
