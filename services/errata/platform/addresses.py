"""Addresses as settings give them."""

from __future__ import annotations

from errata.errors import StartupError


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
