"""Admits HTTP requests by the same rules as gRPC calls."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.routing import Route

from errata.errors import ErrataError
from errata.platform.security import identity as callers
from errata.platform.security.access import authorise
from errata.platform.security.active import Security
from errata.platform.security.audit import outcome_of
from errata.platform.security.identity import Identity
from errata.platform.security.rules import REFLECTION


class Guard:
    """Knows who sends a request, and refuses what he may not do."""

    def __init__(self, security: Security) -> None:
        """Uses what the process uses."""
        self._security = security

    def described(self, *routes: Route) -> tuple[Route, ...]:
        """These routes, unless the settings turn descriptions off."""
        return () if self._security.settings.reflection == "off" else routes

    async def admit(self, request: Request, method: str) -> None:
        """The code that follows runs for the request's caller.

        Args:
            request: has the credential.
            method: path of the RPC that the route stands for; empty if everybody may.

        Raises:
            UnauthenticatedError: no valid credential.
            PermissionDeniedError: the caller's roles do not allow it.
        """
        authenticator = self._security.authenticator
        everyone = self._security.settings.reflection == "everyone"
        if authenticator is None or not method or (method == REFLECTION and everyone):
            return
        caller: Identity | None = None
        try:
            known = await authenticator.of_header(request.headers.get("authorization", ""))
            caller = replace(known, peer=_peer(request))
            if method != REFLECTION:
                authorise(method, caller)
        except ErrataError as error:
            self._audit(request, method, caller, error)
            raise
        callers.enter(caller)

    def _audit(
        self, request: Request, method: str, caller: Identity | None, error: ErrataError
    ) -> None:
        audit = self._security.audit
        if audit is None or not audit.wants(False, error):
            return
        subject = "" if caller is None else caller.subject
        audit.end(subject, _peer(request), method, outcome_of(error))


def _peer(request: Request) -> str:
    return "" if request.client is None else f"{request.client.host}:{request.client.port}"
