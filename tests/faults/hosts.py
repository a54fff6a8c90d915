"""Several hosts on one machine: network namespaces of their own, with addresses, on one switch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_NETWORK = f"10.213.{os.getpid() % 254 + 1}"  # two runs on one machine have two networks
_OWN = 1  # this process's last number on that network


_OWN_RAY = 'mkdir -p "$0" /tmp/ray && mount --bind "$0" /tmp/ray && exec "$@"'


@dataclass(frozen=True)
class Host:
    """A namespace."""

    namespace: str
    address: str
    folder: Path

    def command(self, command: Sequence[str]) -> list[str]:
        """The command, run on this host.

        Ray keeps a node's address in /tmp/ray: hosts that shared it would take each other's.
        """
        own = ["sh", "-c", _OWN_RAY, str(self.folder / "ray"), *command]
        return ["ip", "netns", "exec", self.namespace, *own]

    def run(self, *command: str) -> None:
        whole = ["ip", "netns", "exec", self.namespace, *command]
        subprocess.run(whole, check=True, capture_output=True)


def cut(one: Host, other: Host) -> None:
    """Drops all that the two would send each other; nobody is told, as by a dead switch."""
    for here, there in ((one, other), (other, one)):
        here.run("ip", "route", "add", "blackhole", f"{there.address}/32")


def heal(one: Host, other: Host) -> None:
    """Takes `cut` back."""
    for here, there in ((one, other), (other, one)):
        here.run("ip", "route", "del", "blackhole", f"{there.address}/32")


@contextmanager
def hosts(names: Sequence[str], folder: Path) -> Iterator[dict[str, Host]]:
    """Hosts that reach each other and this process; gone afterwards.

    Args:
        names: of the hosts.
        folder: gets one for each.

    Skips the test where the machine makes no namespaces.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    mark = f"e{os.getpid() % 100_000}"
    switch = Host(f"{mark}-switch", "", folder)
    made = {
        name: Host(f"{mark}-{name}", f"{_NETWORK}.{number}", folder / name)
        for number, name in enumerate(names, start=_OWN + 1)
    }
    try:
        try:
            _ip("netns", "add", switch.namespace)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        switch.run("ip", "link", "add", "name", "br0", "type", "bridge")
        switch.run("ip", "link", "set", "br0", "up")
        for number, host in enumerate(made.values()):
            _ip("netns", "add", host.namespace)
            host.run("ip", "link", "set", "lo", "up")
            _plug(host.namespace, "eth0", f"{host.address}/24", switch, f"port{number}")
            # It leads nowhere; Ray asks by which address this host would go out.
            host.run("ip", "route", "add", "default", "via", f"{_NETWORK}.{_OWN}")
        _plug(None, f"{mark}h", f"{_NETWORK}.{_OWN}/24", switch, "own")
        yield made
    finally:
        for host in (*made.values(), switch):  # links go with their namespaces
            subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)


def _plug(namespace: str | None, device: str, address: str, switch: Host, port: str) -> None:
    """A cable from a namespace (None is this process's) to the switch."""
    peer = ["peer", "name", device, *(["netns", namespace] if namespace else [])]
    _ip("link", "add", port, "netns", switch.namespace, "type", "veth", *peer)
    switch.run("ip", "link", "set", port, "master", "br0")
    switch.run("ip", "link", "set", port, "up")
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    for command in (["addr", "add", address, "dev", device], ["link", "set", device, "up"]):
        subprocess.run([*prefix, "ip", *command], check=True, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
