"""Who calls: known to the code inside a call, without being passed to it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from errata.errors import PermissionDeniedError
from errata.platform.security.rules import Role

ALL_LANES = "*"
CALLER_KEY = "errata-caller-bin"
"""Metadata with the identity that a gateway calls for."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller.

    Attributes:
        subject: of the token, or URI of the certificate.
        roles: what he may do.
        lanes: names of the lanes in which he may; `*` stands for all.
        expires: Unix time of the credential's end; 0 if it has none.
        peer: address from which he calls.
    """

    subject: str
    roles: frozenset[Role]
    lanes: frozenset[str] = frozenset({ALL_LANES})
    expires: float = 0.0
    peer: str = ""

    @property
    def expired(self) -> bool:
        """Whether the credential has ended meanwhile, as it can during a stream."""
        return 0 < self.expires < time.time()

    def may_use(self, lane: str) -> bool:
        """Whether the lane is one of his; `lanes/facts` and `facts` are the same."""
        return ALL_LANES in self.lanes or lane.removeprefix("lanes/") in self.lanes

    def to_bytes(self) -> bytes:
        """For `CALLER_KEY`."""
        return json.dumps(
            {
                "subject": self.subject,
                "roles": sorted(self.roles),
                "lanes": sorted(self.lanes),
                "expires": self.expires,
                "peer": self.peer,
            }
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: the bytes are something else.
        """
        try:
            found = json.loads(data)
            return cls(
                str(found["subject"]),
                frozenset(map(Role, found["roles"])),
                frozenset(map(str, found["lanes"])),
                float(found["expires"]),
                str(found["peer"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no identity: {error}") from error


_current: ContextVar[Identity | None] = ContextVar("caller", default=None)
_on_behalf_of: ContextVar[str] = ContextVar("on_behalf_of", default="")


def current() -> Identity | None:
    """Who calls; None where calls are not authenticated."""
    return _current.get()


def enter(identity: Identity | None) -> None:
    """The code that follows in this task runs for `identity`."""
    _current.set(identity)


def caller_metadata() -> tuple[tuple[str, bytes], ...]:
    """Tells the next service for whom a gateway calls."""
    identity = current()
    return () if identity is None else ((CALLER_KEY, identity.to_bytes()),)


def author_of(claimed: str) -> str:
    """The author of a change: the caller's subject if he is known, else what he claims.

    Whom he names beside himself is kept for the entry, as `on_behalf_of` tells.
    """
    identity = current()
    if identity is None:
        return claimed
    _on_behalf_of.set(claimed if claimed != identity.subject else "")
    return identity.subject


def on_behalf_of() -> str:
    """Whom the author of the current change names; empty if nobody."""
    return _on_behalf_of.get()


def require_lanes(lanes: Iterable[str]) -> None:
    """Returns if the caller may use all of these lanes.

    Raises:
        PermissionDeniedError: one is not his.
    """
    identity = current()
    if identity is None:
        return
    for lane in lanes:
        if not identity.may_use(lane):
            raise PermissionDeniedError(
                f"{identity.subject} may not use {lane}; ask an operator for this lane.", lane=lane
            )


def has_role(role: Role) -> bool:
    """Whether the caller is known and has a role."""
    identity = current()
    return identity is not None and role in identity.roles


def may_see(lane: str) -> bool:
    """Whether the caller may read what concerns a lane."""
    identity = current()
    return identity is None or identity.may_use(lane)
