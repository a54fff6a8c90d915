"""Refuses calls of unknown callers, and calls that the caller's roles do not allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc

from errata.errors import ErrataError, PermissionDeniedError, UnauthenticatedError
from errata.platform.interceptors import Around, Stream, Unary
from errata.platform.security import identity as callers
from errata.platform.security.audit import AuditLog, outcome_of
from errata.platform.security.authenticator import Authenticator
from errata.platform.security.identity import ALL_LANES, ALL_NAMESPACES, Identity
from errata.platform.security.rules import HEALTH, REFLECTION, RULES


def authorise(method: str, caller: Identity) -> None:
    """Returns if the caller may call the method.

    Args:
        method: its path.
        caller: whoever calls.

    Raises:
        UnauthenticatedError: the credential has expired.
        PermissionDeniedError: none of his roles is enough, or the method shows lanes or
            namespaces that are not his.
    """
    if caller.expired:
        raise UnauthenticatedError("the credential has expired; get a new one.")
    rule = RULES.get(method)
    if rule is None or not rule.roles & caller.roles:
        needed = ", ".join(sorted(rule.roles)) if rule is not None else "none"
        has = ", ".join(sorted(caller.roles)) or "none"
        raise PermissionDeniedError(
            f"{caller.subject} may not call {method.rpartition('/')[2]}: it needs one of the roles "
            f"{needed}, and the caller has {has}.",
            method=method.removeprefix("/"),
        )
    if rule.of_all_lanes and ALL_NAMESPACES not in caller.namespaces:
        names = ", ".join(name or "default" for name in sorted(caller.namespaces))
        raise PermissionDeniedError(
            f"{caller.subject} may not call {method.rpartition('/')[2]}, which shows all "
            f"namespaces; the caller has {names or 'none'}.",
            method=method.removeprefix("/"),
        )
    if rule.of_all_lanes and ALL_LANES not in caller.lanes:
        raise PermissionDeniedError(
            f"{caller.subject} may not call {method.rpartition('/')[2]}, which shows all lanes; "
            f"the caller has {', '.join(sorted(caller.lanes)) or 'none'}.",
            method=method.removeprefix("/"),
        )


class Access(Around):
    """Authenticates and authorises every call, and audits what changes or is refused."""

    def __init__(
        self, authenticator: Authenticator | None, audit: AuditLog | None, *, reflection: str
    ) -> None:
        """Prepares.

        Args:
            authenticator: knows callers; None lets everybody do everything.
            audit: takes the lines; None writes none.
            reflection: of the settings.
        """
        self._authenticator = authenticator
        self._audit = audit
        self._reflection = reflection

    def unary(self, call: grpc.HandlerCallDetails, handle: Unary) -> Unary:
        """Guards a call with one response."""
        method = str(call.method)
        if self._is_open(method):
            return handle

        async def guarded(request: Any, context: Any) -> Any:
            caller: Identity | None = None
            begun = False
            try:
                caller = await self._identify(context)
                self._authorise(method, caller)
                callers.enter(caller)
                begun = await self._begin(method, caller, context)
                response = await handle(request, context)
            except BaseException as error:  # also if cancelled
                self._end(method, caller, context, begun, error, None)
                raise
            self._end(method, caller, context, begun, None, response)
            return response

        return guarded

    def stream(self, call: grpc.HandlerCallDetails, handle: Stream) -> Stream:
        """Guards a stream; a credential that expires ends it."""
        method = str(call.method)
        if self._is_open(method):
            return handle

        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            caller: Identity | None = None
            try:
                caller = await self._identify(context)
                self._authorise(method, caller)
                callers.enter(caller)
                async for response in handle(request, context):
                    if caller is not None and caller.expired:
                        raise UnauthenticatedError("the credential has expired; get a new one.")
                    yield response
            except ErrataError as error:
                self._end(method, caller, context, False, error, None)
                raise

        return guarded

    def _is_open(self, method: str) -> bool:
        if method.startswith(HEALTH):
            return True
        return method.startswith(REFLECTION) and self._reflection == "everyone"

    async def _identify(self, context: Any) -> Identity | None:
        if self._authenticator is None:
            return None
        metadata = context.invocation_metadata() or ()
        caller = await self._authenticator.of_call(metadata, context.auth_context())
        return replace(caller, peer=caller.peer or context.peer())

    def _authorise(self, method: str, caller: Identity | None) -> None:
        if caller is not None and not method.startswith(REFLECTION):
            authorise(method, caller)

    async def _begin(self, method: str, caller: Identity | None, context: Any) -> bool:
        """Audits a change before it happens: if the line cannot be written, it must not."""
        rule = RULES.get(method)
        if self._audit is None or rule is None or not rule.changes:
            return False
        await asyncio.to_thread(self._audit.begin, *_who(caller, context), method)
        return True

    def _end(
        self,
        method: str,
        caller: Identity | None,
        context: Any,
        begun: bool,
        error: BaseException | None,
        response: Any,
    ) -> None:
        if self._audit is None or not self._audit.wants(begun, error):
            return
        seq = getattr(response, "seq", 0)
        self._audit.end(*_who(caller, context), method, outcome_of(error), seq=seq)


def _who(caller: Identity | None, context: Any) -> tuple[str, str]:
    """Subject and address; those of a gateway's caller, if it calls for one."""
    return ("", context.peer()) if caller is None else (caller.subject, caller.peer)
