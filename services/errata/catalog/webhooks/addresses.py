"""Where a webhook's host really is: no request goes into the own network unless it may."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from errata.errors import PermissionDeniedError, UnavailableError

# Addresses that carry an IPv4 address, to which a gateway may lead on.
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
# All that is assigned for the public internet (RFC 4291, section 2.4). Outside of it, `is_global`
# also holds for site-local, IPv4-compatible, IPv4-translated and reserved addresses.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_DOCUMENTATION = IPv6Network("3fff::/20")  # RFC 9637; `is_global` of older Pythons holds for it


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the public internet, and not of this machine or network."""
    if isinstance(address, IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if inside is not None:
            return is_public(inside)
        if any(address in network for network in _NAT64) or address.teredo is not None:
            return False
        if address not in _GLOBAL_UNICAST or address in _DOCUMENTATION:
            return False
    return address.is_global and not address.is_multicast


def check_allowed(
    host: str, addresses: Sequence[IPv4Address | IPv6Address], *, allow_private: bool
) -> None:
    """Returns if a request may go to these addresses of a host.

    Raises:
        PermissionDeniedError: one of them is private; then none is used.
    """
    private = next((each for each in addresses if not is_public(each)), None)
    if private is not None and not allow_private:
        raise PermissionDeniedError(
            f"{host} has the address {private}, which is not public, and no request was sent. If "
            "that is intended, set allow_private = true for this target.",
            address=private,
        )


async def resolve(host: str, port: int) -> list[IPv4Address | IPv6Address]:
    """The addresses of a host, in the order in which to try them.

    Raises:
        UnavailableError: the name has none now.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"the host {host} is not known: {error}.", host=host) from error
    # A scope, as in fe80::1%eth0, is no part of the address.
    texts = dict.fromkeys(str(each[4][0]).partition("%")[0] for each in found)
    return [ip_address(text) for text in texts]
