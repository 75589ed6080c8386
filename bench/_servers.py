"""The servers that tests run, for benchmarks too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from support.embedded_file_server import EmbeddedFileServer
from support.embedded_nginx import EmbeddedNginx

__all__ = ["EmbeddedFileServer", "EmbeddedNginx"]
