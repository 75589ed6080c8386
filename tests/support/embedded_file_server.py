"""A file server over one spool as a process, for tests and benchmarks, in STATE/fileserver/."""

import os
import secrets
import sys
from pathlib import Path

from penstock.embedded.process import EmbeddedProcess, reserve
from support.answered import is_answered


class EmbeddedFileServer(EmbeddedProcess):
    """`penstock serve` on a free port of the loopback interface, with a token of its own.

    `config` is the penstock.toml that it reads; `spool` is served whatever that says.
    """

    folder = "fileserver"
    title = "embedded file server"
    remedy = "see its log"

    def __init__(self, state_directory: Path, *, spool: Path, config: Path | None = None) -> None:
        super().__init__(state_directory)
        self._spool = spool
        self._config = config
        self.token = secrets.token_hex(32)

    async def launch(self, previous: str, inherit: int) -> str:
        """Start the server on its previous port, if that is free."""
        token_file = self.directory / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(self.token)
        with reserve(previous) as listener:
            port = int(listener.getsockname()[1])
            command = [sys.executable, "-m", "penstock", "serve", str(self._spool)]
            command += ["--listen", f"fd://{listener.fileno()}", "--token-file", str(token_file)]
            command += ["--config", str(self._config)] if self._config else []
            self.spawn(command, dict(os.environ), [inherit, listener.fileno()])
        return f"http://127.0.0.1:{port}"

    async def answers(self) -> bool:
        """Tell whether the server answers; wait up to two seconds for it."""
        return await is_answered(f"{self.address}/healthz")
