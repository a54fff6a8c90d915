"""Verifies JWT bearer tokens: signature, issuer, audience and times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import structlog
from jwt import PyJWK, PyJWKClient, PyJWKSet

from errata.errors import StartupError, UnauthenticatedError, UnavailableError
from errata.platform.security.bindings import Grant, lanes_of, namespaces_of, roles_of
from errata.platform.security.identity import Identity
from errata.platform.settings.security import SecuritySettings

_log = structlog.get_logger(__name__)
_FETCH_SECONDS = 5.0
_LEAST_PAUSE_SECONDS = 10.0  # between two looks for a key that was unknown


class Tokens:
    """The verifier of one process."""

    def __init__(self, settings: SecuritySettings, bindings: dict[str, Grant]) -> None:
        """Prepares; a JWKS file is read at once, a URL at the first token.

        Raises:
            StartupError: the file holds no keys.
        """
        self._settings = settings
        self._bindings = bindings
        self._algorithms = [name.strip() for name in settings.algorithms.split(",")]
        self._keys: Callable[[str], PyJWK] = (
            _UrlKeys(settings) if settings.jwks_url else _FileKeys(settings.jwks_file)
        )

    def identity(self, token: str) -> Identity:
        """Who presents a token; can wait for the URL of the keys, so call it off the event loop.

        Raises:
            UnauthenticatedError: the token is not valid.
            UnavailableError: the keys cannot be fetched.
        """
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            claims: dict[str, Any] = jwt.decode(
                token,
                self._keys(str(header.get("kid", ""))),
                algorithms=self._algorithms,
                audience=settings.audience,
                issuer=settings.issuer or None,
                leeway=settings.leeway_seconds,
                options={"require": ["exp", "sub", "aud", *(["iss"] if settings.issuer else [])]},
            )
            subject = str(claims["sub"])
            roles = roles_of(claims.get(settings.roles_claim, []), settings.roles_claim)
            for claim in (settings.lanes_claim, settings.namespaces_claim):
                if claim in claims and claims[claim] is None:  # not the same as no limit
                    raise ValueError(f"{claim} is null; leave it out, or give a list")
            lanes = lanes_of(claims.get(settings.lanes_claim), settings.lanes_claim)
            claim = settings.namespaces_claim
            namespaces = namespaces_of(claims.get(claim), claim)
        except (jwt.PyJWTError, ValueError) as error:
            raise UnauthenticatedError(
                f"the token is not valid: {error}. Get a new one from the issuer."
            ) from error
        bound = self._bindings.get(subject)
        if bound is not None:
            if self._settings.lanes_claim not in claims:
                lanes = bound.lanes
            if claim not in claims:
                namespaces = bound.namespaces
            roles = roles | bound.roles
        expires = float(claims["exp"]) + settings.leeway_seconds
        return Identity(subject, roles, lanes, expires, namespaces=namespaces)


class _FileKeys:
    """Keys of a file, which is read again when it changes."""

    def __init__(self, path: Path | None) -> None:
        assert path is not None, "tokens are verified only if there are keys"
        self._path = path
        self._lock = threading.Lock()
        self._changed = 0
        self._keys: list[PyJWK] = []
        try:
            self._read()
        except (OSError, ValueError, jwt.PyJWTError) as error:
            raise StartupError(f"security.jwks_file {path}: {error}.") from error

    def __call__(self, kid: str) -> PyJWK:
        with self._lock:
            try:
                self._read()
            except (OSError, ValueError, jwt.PyJWTError) as error:
                _log.warning(
                    "the file of keys cannot be read; the former keys stay", why=str(error)
                )
        return _chosen(self._keys, kid)

    def _read(self) -> None:
        changed = self._path.stat().st_mtime_ns
        if changed != self._changed:
            self._keys = PyJWKSet.from_json(self._path.read_text()).keys
            self._changed = changed


class _UrlKeys:
    """Keys of a URL, cached; an unknown key id looks there again, but not at every call."""

    def __init__(self, settings: SecuritySettings) -> None:
        self._client = PyJWKClient(
            settings.jwks_url,
            cache_keys=False,
            lifespan=settings.jwks_cache_seconds,
            timeout=_FETCH_SECONDS,
        )
        self._lock = threading.Lock()
        self._looked = 0.0

    def __call__(self, kid: str) -> PyJWK:
        try:
            with self._lock:
                keys = self._client.get_signing_keys()
                is_known = any(key.key_id == kid for key in keys)
                if not is_known and time.monotonic() - self._looked > _LEAST_PAUSE_SECONDS:
                    self._looked = time.monotonic()
                    keys = self._client.get_signing_keys(refresh=True)
        except jwt.PyJWKClientConnectionError as error:
            raise UnavailableError(f"the keys of tokens cannot be fetched: {error}.") from error
        return _chosen(keys, kid)


def _chosen(keys: list[PyJWK], kid: str) -> PyJWK:
    """The key that a token names; a token may leave it out if there is only one."""
    if not kid and len(keys) == 1:
        return keys[0]
    for key in keys:
        if key.key_id == kid:
            return key
    raise jwt.InvalidKeyError(f"no key has the id {kid[:80]!r}")
