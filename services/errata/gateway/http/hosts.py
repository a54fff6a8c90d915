"""Refuses requests for hosts that the gateway does not serve.

Without authentication, whoever reaches a port of this machine may do everything, and so may a web
page whose own name is made to resolve to this machine (DNS rebinding). Its browser tells by `Host`.
"""

from __future__ import annotations

from starlette.datastructures import URL
from starlette.types import ASGIApp, Receive, Scope, Send

from errata.gateway.http.errors import HttpError, failure_of

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ANY = "*"
_MAX_SHOWN = 80  # characters of a foreign name in a message


def allowed_hosts(setting: str, listens_on: str, *, authenticated: bool) -> frozenset[str]:
    """The hosts that requests may name; empty if they may name any.

    Args:
        setting: names with commas between them, or `*`; empty lets this function decide.
        listens_on: the host of the HTTP address.
        authenticated: whether callers must say who they are.
    """
    named = frozenset(name.strip().lower() for name in setting.split(",") if name.strip())
    if named:
        return frozenset() if _ANY in named else named
    # Elsewhere the names by which people reach the port are not known here.
    return LOOPBACK if listens_on in LOOPBACK and not authenticated else frozenset()


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
        try:
            host = URL(scope=scope).hostname or ""
        except ValueError:
            host = ""
        if host.lower() in self._hosts:
            await self._app(scope, receive, send)
            return
        error = HttpError(
            421,
            f"the request is for the host {host[:_MAX_SHOWN]!r}, which this gateway does not "
            f"serve; it serves {', '.join(sorted(self._hosts))}. Add the name to "
            "gateway.allowed_hosts (ERRATA_GATEWAY__ALLOWED_HOSTS).",
            code="unknown_host",
        )
        await failure_of(error).response()(scope, receive, send)
