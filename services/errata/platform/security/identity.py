"""Who calls: known to the code inside a call, without being passed to it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from errata.errors import PermissionDeniedError
from errata.platform.security.rules import READ_EVERY_NAMESPACE, Role

ALL_LANES = "*"
ALL_NAMESPACES = "*"
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
        namespaces: that he may read and write, `""` for the default one; `*` stands for all.
    """

    subject: str
    roles: frozenset[Role]
    lanes: frozenset[str] = frozenset({ALL_LANES})
    expires: float = 0.0
    peer: str = ""
    namespaces: frozenset[str] = frozenset({ALL_NAMESPACES})

    @property
    def expired(self) -> bool:
        """Whether the credential has ended meanwhile, as it can during a stream."""
        return 0 < self.expires < time.time()

    def may_use(self, lane: str) -> bool:
        """Whether the lane is one of his; `lanes/facts` and `facts` are the same."""
        return ALL_LANES in self.lanes or lane.removeprefix("lanes/") in self.lanes

    def may_read(self, namespace: str) -> bool:
        """Whether the namespace is one of his; to read all of them at once, `*`, needs a role."""
        if namespace == ALL_NAMESPACES:
            return ALL_NAMESPACES in self.namespaces and bool(self.roles & READ_EVERY_NAMESPACE)
        return not self.namespaces.isdisjoint((ALL_NAMESPACES, namespace))

    def to_bytes(self) -> bytes:
        """For `CALLER_KEY`."""
        return json.dumps(
            {
                "subject": self.subject,
                "roles": sorted(self.roles),
                "lanes": sorted(self.lanes),
                "expires": self.expires,
                "peer": self.peer,
                "namespaces": sorted(self.namespaces),
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
                frozenset(map(str, found.get("namespaces", (ALL_NAMESPACES,)))),
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


def require_namespaces(namespaces: Iterable[str]) -> None:
    """Returns if the caller may use all of these namespaces.

    Args:
        namespaces: names, `""` for the default one; or `*`.

    Raises:
        PermissionDeniedError: one is not his.
    """
    identity = current()
    if identity is None:
        return
    for namespace in sorted(namespaces):
        if not identity.may_read(namespace):
            raise PermissionDeniedError(
                f"{identity.subject} may not use {_called(namespace)}; {_instead(identity)}.",
                namespace=namespace,
            )


def own_namespaces() -> tuple[str, ...]:
    """What a request of the caller reads if it names nothing; empty for the default namespace.

    A credential that is limited to namespaces carries them, so that clients need not name them.
    """
    identity = current()
    if identity is None or ALL_NAMESPACES in identity.namespaces:
        return ()
    return tuple(sorted(identity.namespaces))


def _called(namespace: str) -> str:
    if namespace == ALL_NAMESPACES:
        return "all namespaces at once"
    return f"the namespace {namespace}" if namespace else "the default namespace"


def _instead(identity: Identity) -> str:
    if ALL_NAMESPACES in identity.namespaces:
        return f"that needs one of the roles {', '.join(sorted(READ_EVERY_NAMESPACE))}"
    names = ", ".join(name or "default" for name in sorted(identity.namespaces))
    return f"name one of {names}, or ask an operator" if names else "ask an operator for one"


def has_role(role: Role) -> bool:
    """Whether the caller is known and has a role."""
    identity = current()
    return identity is not None and role in identity.roles


def require_sight_of(edit: str, lane: str, namespace: str) -> None:
    """Returns if the caller may see an edit.

    Raises:
        PermissionDeniedError: he may not; nothing says which namespace it has.
    """
    identity = current()
    if identity is not None and not may_see(lane, namespace):
        raise PermissionDeniedError(
            f"{identity.subject} may not use {edit}; it belongs to another namespace.", edit=edit
        )


def may_see(lane: str, namespace: str | None = None) -> bool:
    """Whether the caller may read what concerns a lane, and a namespace if there is one."""
    identity = current()
    if identity is None:
        return True
    return identity.may_use(lane) and (namespace is None or identity.may_read(namespace))
