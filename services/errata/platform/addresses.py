"""Addresses as settings give them."""

from __future__ import annotations

import asyncio
import time

from errata.errors import StartupError

_LOOK_SECONDS = 0.5


def host_and_port(address: str) -> tuple[str, int]:
    """Splits host:port; an IPv6 host stands in brackets.

    Raises:
        StartupError: it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise StartupError(
            f"{address!r} is no address; give host:port, such as 127.0.0.1:7700.", address=address
        )
    return host.strip("[]"), int(port)


async def wait_for_listener(address: str, setting: str, seconds: float) -> None:
    """Returns once somebody accepts connections at an address.

    Args:
        address: host:port; the host may still be nobody's name.
        setting: with its variable, for the error.
        seconds: how long to wait.

    Raises:
        StartupError: nobody did in time.
    """
    host, port = host_and_port(address)
    deadline = time.monotonic() + seconds
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            if time.monotonic() > deadline:
                raise StartupError(
                    f"nobody answers at {address}, which {setting} names: {error}.",
                    address=address,
                ) from error
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        writer.close()
        await writer.wait_closed()
        return
