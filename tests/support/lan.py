"""A network of this machine's own, whose hosts can be cut off from each other: namespaces.

The tests stay where they are, at the network's first address, and reach every host all the time.
"""

import os
import secrets
import shutil
import subprocess
from contextlib import ExitStack, suppress

import pytest


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Lan:
    """Hosts at 10.N.0.2, 10.N.0.3, … each in a namespace, on one bridge."""

    def __init__(self, hosts: int, stack: ExitStack) -> None:
        """Make it. Skips the test where a kernel or a user may not."""
        name = f"pt{secrets.token_hex(3)}"
        net = f"10.{secrets.randbelow(90) + 100}.0"
        self.hosts = [f"{net}.{number + 2}" for number in range(hosts)]
        self._names = {host: f"{name}h{number}" for number, host in enumerate(self.hosts)}
        if os.geteuid() or not shutil.which("ip"):
            pytest.skip("missing: root and the command ip (Debian: iproute2), to make a network")
        try:
            self._make(name, net, stack)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"missing: a kernel that makes a network: {error.stderr.decode().strip()}")

    def _make(self, bridge: str, net: str, stack: ExitStack) -> None:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_quietly, "link", "del", bridge)
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host, name in self._names.items():
            _ip("netns", "add", name)
            stack.callback(_quietly, "netns", "del", name)
            _ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "e0", "netns", name)
            stack.callback(_quietly, "link", "del", f"{name}v")
            _ip("link", "set", f"{name}v", "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{host}/24", "dev", "e0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "e0", "up")

    def command(self, host: str) -> list[str]:
        """Return what goes before a command that is to run on a host."""
        return ["ip", "netns", "exec", self._names[host]]

    def cut_off(self, host: str) -> None:
        """Let a host reach no other host, nor any of them it."""
        for other in self.hosts:
            if other != host:
                _ip("-n", self._names[host], "route", "add", "blackhole", f"{other}/32")

    def join(self, host: str) -> None:
        """Undo `cut_off`."""
        for other in self.hosts:
            if other != host:
                _quietly("-n", self._names[host], "route", "del", "blackhole", f"{other}/32")


def _quietly(*words: str) -> None:
    with suppress(subprocess.SubprocessError):
        _ip(*words)
