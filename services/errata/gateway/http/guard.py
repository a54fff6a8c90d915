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

    @property
    def demands_credentials(self) -> bool:
        """Whether callers must say who they are."""
        return self._security.authenticator is not None

    async def admit(self, request: Request, method: str) -> None:
        """The code that follows runs for the request's caller.

        Args:
            request: has the credential.
            method: path of the RPC that the route stands for; empty if everybody may.

        Raises:
            UnauthenticatedError: no valid credential.
            PermissionDeniedError: the caller's roles do not allow it.
        """
        everyone = self._security.settings.reflection == "everyone"
        if not self.demands_credentials or not method or (method == REFLECTION and everyone):
            return
        await self.identify(request, request.headers.get("authorization", ""), method)
        if method != REFLECTION:
            self.allow(request, method)

    async def identify(self, request: Request, header: str, method: str = "") -> Identity | None:
        """The caller, for whom the code that follows runs; None where nobody is asked.

        Args:
            request: of the caller.
            header: with his credential, as `Authorization` has it.
            method: named in the audit log if there is no such caller.

        Raises:
            UnauthenticatedError: no valid credential.
            UnavailableError: the keys of tokens cannot be fetched.
        """
        authenticator = self._security.authenticator
        if authenticator is None:
            return None
        try:
            known = await authenticator.of_header(header)
        except ErrataError as error:
            self._audit(request, method, None, error)
            raise
        caller = replace(known, peer=_peer(request))
        callers.enter(caller)
        return caller

    def allow(self, request: Request, method: str) -> None:
        """Returns if the roles of the identified caller allow a method.

        Args:
            request: of the caller.
            method: path of the RPC.

        Raises:
            UnauthenticatedError: his credential has expired.
            PermissionDeniedError: his roles do not allow it.
        """
        caller = callers.current()
        if caller is None:
            return
        try:
            authorise(method, caller)
        except ErrataError as error:
            self._audit(request, method, caller, error)
            raise

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
