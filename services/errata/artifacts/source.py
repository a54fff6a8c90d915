"""The contract of artifact sources, and how artifacts are named."""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

from errata.errors import ArtifactCorruptError, InvalidRequestError, LimitExceededError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactSource(Protocol):
    """Provides artifacts by digest."""

    async def get(self, digest: str, size_bytes: int | None = None) -> bytes:
        """The artifact's bytes, verified against their digest.

        Args:
            digest: of the artifact.
            size_bytes: its length, as the log announces it; never more is read. None if unknown.

        Raises:
            InvalidRequestError: `digest` is not 64 lower-case hex digits.
            LimitExceededError: the artifact is larger than allowed; nothing was read, or no more.
            NotFoundError: no artifact has this digest.
            ArtifactCorruptError: the bytes found do not match it, or are not `size_bytes` long.
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


def check_size(digest: str, size_bytes: int, max_bytes: int) -> None:
    """Checks a length before anything of it is read or written.

    Raises:
        LimitExceededError: it is above the limit.
        ArtifactCorruptError: it is negative.
    """
    if size_bytes < 0:
        raise ArtifactCorruptError(
            f"artifact {digest} is announced with {size_bytes} bytes; the entry is damaged.",
            digest=digest,
        )
    if size_bytes > max_bytes:
        raise LimitExceededError(
            f"artifact {digest} has {size_bytes:,} bytes; the limit is {max_bytes:,}. Raise "
            "artifacts.max_bytes (ERRATA_ARTIFACTS__MAX_BYTES) if it may be so large.",
            digest=digest,
            size_bytes=size_bytes,
            max_bytes=max_bytes,
        )


def other_size(digest: str, size_bytes: int, where: str) -> ArtifactCorruptError:
    """The error for an artifact that is longer or shorter than the log announces."""
    return ArtifactCorruptError(
        f"artifact {digest} in {where} is damaged: it does not have the {size_bytes:,} bytes that "
        "the log announces. Restore the file from a backup.",
        digest=digest,
        size_bytes=size_bytes,
    )


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
