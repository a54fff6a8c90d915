"""Ports that no other test uses, even if tests run in parallel."""

from __future__ import annotations

import random
import socket
from contextlib import closing

# Between the ports of Ray's workers and the kernel's ephemeral ports: no other process takes one by
# chance in the seconds until the test's own process listens on it.
_FIRST, _LAST = 20_000, 32_000
_rng = random.SystemRandom()


def free_port() -> int:
    """A loopback port without a listener, chosen at random so that no other test gets it."""
    while True:
        port = _rng.randint(_FIRST, _LAST)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def free_addresses() -> dict[str, dict[str, str]]:
    """Settings that put every service on a free port."""
    names = ("log", "writer", "retrieval", "gateway")
    found = {name: {"address": f"127.0.0.1:{free_port()}"} for name in names}
    found["gateway"]["http_address"] = f"127.0.0.1:{free_port()}"
    return found


def address_variables(addresses: dict[str, dict[str, str]]) -> dict[str, str]:
    """The environment variables of such settings."""
    return {
        f"ERRATA_{section}__{name}".upper(): address
        for section, values in addresses.items()
        for name, address in values.items()
    }
