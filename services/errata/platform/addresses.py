"""Addresses in settings: host:port."""

from __future__ import annotations

import asyncio
import time

from errata.errors import StartupError

_LOOK_SECONDS = 0.5


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
