"""Run a command that ends when its parent ends, even by kill -9.

    python -I -S tether.py PARENT_PID COMMAND [ARGUMENT...]

A small process sets this up and then becomes the command (exec), because Python code between fork
and exec could deadlock. On Linux the kernel sends SIGTERM when the parent's *thread* that started
it ends, so start it from the main thread. Elsewhere the command outlives a killed parent; its
inherited lock keeps a second one away. Run by its path, without Penstock's imports, it takes 15 ms.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def tethered(*command: str) -> list[str]:
    """Return the command line that runs `command` tied to this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the call
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  this process becomes the command


if __name__ == "__main__":
    main()
