"""Addresses in settings: host:port."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from contextlib import closing

from errata.errors import StartupError

_LOOK_SECONDS = 0.5
# Between the ports of Ray's workers and the kernel's ephemeral ports: no connection takes one by
# chance in the seconds until the process that it is chosen for listens on it.
_FIRST_FREE, LAST_FREE = 20_000, 32_000
# Chosen by the system's source of chance: processes that share a seed must not share a port.
_chance = random.SystemRandom()
# Whoever was given a port listens on it only later: until then, a probe finds it free.
_drawn: set[int] = set()


def free_port() -> int:
    """A loopback port on which no process listens, chosen at random.

    A process gets no port twice before it has drawn them all.
    """
    while True:
        if len(_drawn) > LAST_FREE - _FIRST_FREE:
            _drawn.clear()
        port = _chance.randint(_FIRST_FREE, LAST_FREE)
        if port in _drawn:
            continue
        _drawn.add(port)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def host_and_port(address: str) -> tuple[str, int]:
    """Splits host:port; an IPv6 host is in brackets.

    Raises:
        StartupError: it is not host:port.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise StartupError(
            f"{address!r} is not an address; give host:port, such as 127.0.0.1:7700.",
            address=address,
        )
    return host.strip("[]"), int(port)


async def wait_for_listener(address: str, setting: str, seconds: float) -> None:
    """Returns once a process accepts connections at an address.

    Args:
        address: host:port; the host's name need not resolve yet.
        setting: name of the setting and its variable, for the error.
        seconds: how long to wait.

    Raises:
        StartupError: no process did in time.
    """
    host, port = host_and_port(address)
    deadline = time.monotonic() + seconds
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            if time.monotonic() > deadline:
                raise StartupError(
                    f"no process answers at {address}, which {setting} names: {error}.",
                    address=address,
                ) from error
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        writer.close()
        await writer.wait_closed()
        return
