"""The signature that an entry carries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature over the manifest of an entry; see `log.signing`.

    Attributes:
        key_id: first 16 hex digits of the SHA-256 of the raw public key.
        value: Ed25519, 64 bytes.
        previous: digest of the signed entry before it in this log, 32 bytes; zeros for the first.
    """

    key_id: str
    value: bytes
    previous: bytes
