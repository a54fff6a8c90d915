"""What the caller of a canary may see of it, and whether he may change it."""

from __future__ import annotations

from errata.errors import PermissionDeniedError, PreconditionError
from errata.platform.security.identity import may_see
from errata.writer.canary_book import CanaryRecord


def require_changeable(known: CanaryRecord) -> None:
    """Returns if the caller may set the audience of a canary.

    Raises:
        PreconditionError: it is not his to see, so that the name alone is refused.
        PermissionDeniedError: it has readers that he may not see, and would take from it.
    """
    if not may_see(known.lane, known.namespace):
        raise PreconditionError(
            f"a canary cannot be called {known.name}; choose another name.", field="name"
        )
    if known.is_open and len(seen_readers(known)) < len(known.readers):
        raise PermissionDeniedError(
            f"{known.name} has readers that you may not see; ask an operator to change it."
        )


def seen_readers(canary: CanaryRecord) -> tuple[str, ...]:
    """The readers that the caller may know."""
    return tuple(name for name in canary.readers if may_see(canary.lane, name))
