"""Refuses requests for hosts that the gateway does not serve.

Without authentication, whoever reaches a port of this machine may do everything, and so may a web
page whose own name is made to resolve to this machine (DNS rebinding). Its browser tells by `Host`.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from errata.errors import StartupError
from errata.gateway.http.errors import HttpError, failure_of

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ANY = "*"
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII)
_MAX_SHOWN = 80  # characters of a foreign name in a message


def allowed_hosts(setting: str, listens_on: str, *, authenticated: bool) -> frozenset[str]:
    """The hosts that requests may name; empty if they may name any.

    Args:
        setting: names with commas between them, or `*`; empty lets this function decide.
        listens_on: the host of the HTTP address.
        authenticated: whether callers must say who they are.

    Raises:
        StartupError: the setting names what is no host.
    """
    named = [name.strip() for name in setting.split(",") if name.strip()]
    if named:
        return frozenset() if _ANY in named else frozenset(map(_listed, named))
    # Elsewhere the names by which people reach the port are not known here.
    return LOOPBACK if _is_loopback(listens_on) and not authenticated else frozenset()


def _listed(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        host = host_of(name)
    if not host or ":" in name:
        raise StartupError(
            f"gateway.allowed_hosts (ERRATA_GATEWAY__ALLOWED_HOSTS) names {name[:_MAX_SHOWN]!r}; "
            "give names or addresses without ports, separated by commas, or *."
        )
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(header: str) -> str:
    """The host in a `Host` header, without port and brackets; empty if it is not one.

    Browsers send what a page's address says, however odd, and nothing may stand in for it.
    """
    found = _HOST.fullmatch(header.strip().lower())
    return "" if found is None else (found[1] or found[2]).rstrip(".")


class KnownHosts:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        """Wraps `app`, which serves `hosts`; any if there are none."""
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on, or refuses it."""
        if scope["type"] != "http" or not self._hosts:
            await self._app(scope, receive, send)
            return
        header = Headers(scope=scope).get("host", "")
        if host_of(header) in self._hosts:
            await self._app(scope, receive, send)
            return
        error = HttpError(
            421,
            f"the request is for the host {header[:_MAX_SHOWN]!r}, which this gateway does not "
            f"serve; it serves {', '.join(sorted(self._hosts))}. Add the name to "
            "gateway.allowed_hosts (ERRATA_GATEWAY__ALLOWED_HOSTS).",
            code="unknown_host",
        )
        await failure_of(error).response()(scope, receive, send)
