"""The contract of artifact sources, and how artifacts are named."""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

from errata.errors import ArtifactCorruptError, InvalidRequestError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactSource(Protocol):
    """Provides artifacts by digest."""

    async def get(self, digest: str) -> bytes:
        """The artifact's bytes, verified against their digest.

        Raises:
            InvalidRequestError: `digest` is not 64 lower-case hex digits.
            NotFoundError: no artifact has this digest.
            ArtifactCorruptError: the bytes found do not match it.
            UnavailableError: the source cannot be reached; retry.
        """
        ...


def digest_of(data: bytes) -> str:
    """The name of an artifact: SHA-256 of its bytes, lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def check_digest(digest: str, field: str = "digest") -> str:
    """Returns `digest` if it can name an artifact; it becomes part of a path.

    Raises:
        InvalidRequestError: not 64 lower-case hex digits.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequestError(
            f"{field} must be a SHA-256 of 64 lower-case hex digits, not {digest[:80]!r}.",
            field=field,
        )
    return digest


def check_content(digest: str, found: str, where: str) -> None:
    """Compares the requested digest with that of the bytes.

    Raises:
        ArtifactCorruptError: they differ; the bytes must not be used.
    """
    if found != digest:
        raise ArtifactCorruptError(
            f"artifact {digest} in {where} is damaged: its bytes have the SHA-256 {found}. Restore "
            "the file from a backup, or store the artifact again.",
            digest=digest,
            found=found,
        )
