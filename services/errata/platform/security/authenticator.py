"""Turns a call's credentials into an identity."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from errata.errors import UnauthenticatedError
from errata.platform.security.bindings import read_bindings
from errata.platform.security.identity import CALLER_KEY, Identity
from errata.platform.security.rules import SERVICES, Role
from errata.platform.security.tokens import Tokens
from errata.platform.settings.security import SecuritySettings

_BEARER = "bearer "
_MAX_TOKEN = 16_384
_MAX_VERIFIED = 4_096  # tokens whose verification is remembered


class Authenticator:
    """Knows callers by their certificate or their token."""

    def __init__(self, settings: SecuritySettings) -> None:
        """Reads keys and bindings.

        Raises:
            StartupError: they cannot be used.
        """
        self._bindings = read_bindings(settings.bindings_file)
        self._tokens = Tokens(settings, self._bindings) if settings.takes_tokens else None
        self._prefix = f"spiffe://{settings.trust_domain}/"
        self._remembered_seconds = settings.jwks_cache_seconds
        self._verified: dict[str, tuple[Identity, float]] = {}  # and when it was verified

    async def of_call(
        self, metadata: Iterable[tuple[str, Any]], auth_context: Mapping[str, Iterable[bytes]]
    ) -> Identity:
        """Who makes a gRPC call.

        A token counts more than a certificate, since a person can use a machine's. A gateway may
        call for somebody else.

        Raises:
            UnauthenticatedError: no credential, or one that is not valid.
            UnavailableError: the keys of tokens cannot be fetched.
        """
        values = dict(metadata)
        certified = self._certified(auth_context)
        if certified is not None and Role.GATEWAY in certified.roles and CALLER_KEY in values:
            return _forwarded(values[CALLER_KEY])
        if "authorization" in values:
            return await self.of_header(str(values["authorization"]))
        if certified is None:
            raise _nobody()
        return certified

    async def of_header(self, value: str) -> Identity:
        """Who sends an `Authorization` header.

        Raises:
            UnauthenticatedError, UnavailableError: as `of_call`.
        """
        if not value:
            raise _nobody()
        if not value[: len(_BEARER)].lower() == _BEARER or len(value) > _MAX_TOKEN:
            raise UnauthenticatedError("the authorization header must be `Bearer TOKEN`.")
        if self._tokens is None:
            raise UnauthenticatedError(
                "this service takes no tokens: it has no keys to verify them with "
                "(security.jwks_file or jwks_url)."
            )
        token = value[len(_BEARER) :].strip()
        known, verified_at = self._verified.get(token, (None, 0.0))
        now = time.monotonic()
        # Verified anew after a while: its key can have been withdrawn.
        if known is not None and not known.expired and now < verified_at + self._remembered_seconds:
            return known
        identity = await asyncio.to_thread(self._tokens.identity, token)
        if len(self._verified) >= _MAX_VERIFIED:
            self._verified.clear()
        self._verified[token] = identity, now
        return identity

    def _certified(self, context: Mapping[str, Iterable[bytes]]) -> Identity | None:
        """The identity in a verified certificate's URI; None without one."""
        for name in context.get("x509_subject_alternative_name", ()):
            uri = name.decode(errors="replace")
            if not uri.startswith(self._prefix):
                continue
            bound = self._bindings.get(uri)
            if bound is not None:
                return Identity(uri, bound.roles, bound.lanes, namespaces=bound.namespaces)
            role = uri.removeprefix(self._prefix)
            return Identity(uri, frozenset(known for known in Role if known.value == role))
        return None


def _forwarded(data: bytes) -> Identity:
    """Whom a gateway calls for: a person, since services call one another themselves."""
    try:
        caller = Identity.from_bytes(data)
    except ValueError as error:
        raise UnauthenticatedError(f"the gateway names no caller: {error}.") from error
    return replace(caller, roles=caller.roles - SERVICES)


def _nobody() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the call has no credential; give a token (ERRATA_TOKEN, or the header Authorization: "
        "Bearer TOKEN) or a client certificate."
    )
