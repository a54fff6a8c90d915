"""Ports that are a test's own, also where tests run side by side."""

from __future__ import annotations

import random
import socket
from contextlib import closing

# Between the ports that Ray's workers take and those that the kernel gives to whoever asks for
# any: nobody takes one by chance in the seconds until the test's own process listens on it.
_FIRST, _LAST = 20_000, 32_000
_rng = random.SystemRandom()


def free_port() -> int:
    """A loopback port that nobody listens on, and that no other test is given."""
    while True:
        port = _rng.randint(_FIRST, _LAST)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def free_addresses() -> dict[str, dict[str, str]]:
    """Settings that put the services on such ports."""
    names = ("log", "writer", "retrieval", "gateway")
    return {name: {"address": f"127.0.0.1:{free_port()}"} for name in names}
