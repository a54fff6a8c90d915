"""Which namespaces and canaries a request reads: what it names, or what its credential has."""

from __future__ import annotations

import secrets
from collections.abc import Collection

from errata.editing.namespaces import DEFAULT, reading_of, shown
from errata.platform.security.identity import own_namespaces, require_namespaces


def readable(names: Collection[str]) -> tuple[str, ...]:
    """The namespaces that workers may read for the current call; empty for the default one alone.

    Args:
        names: that the request names; if none, a credential that is limited to namespaces reads
            all of its own.

    Raises:
        InvalidRequestError, LimitExceededError: as `reading_of`.
        PermissionDeniedError: one is not the caller's.
    """
    own = () if names else own_namespaces()
    if not names and not own:
        require_namespaces([DEFAULT])
        return ()
    reading = reading_of(names or own)
    require_namespaces(reading)
    return tuple(map(shown, reading))


def drawn_key() -> str:
    """The canary key of a request that brings none: each such request is drawn by itself."""
    return secrets.token_hex(8)
