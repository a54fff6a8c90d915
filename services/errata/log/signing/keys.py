"""Ed25519 keys: files, ids, signatures."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from errata.errors import StartupError

PUBLIC_KEY_BYTES = 32
_ID_DIGITS = 16
_MAX_FILE_BYTES = 16 * 1024


def fingerprint_of(public_key: bytes) -> str:
    """SHA-256 of the raw public key, 64 hex digits; the key's id is its beginning."""
    return hashlib.sha256(public_key).hexdigest()


def key_id_of(public_key: bytes) -> str:
    """The key's id: the first 16 hex digits of its fingerprint."""
    return fingerprint_of(public_key)[:_ID_DIGITS]


def verifies(public_key: bytes, value: bytes, data: bytes) -> bool:
    """Whether `value` is the key's signature over `data`; False for bytes that are no key."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(value, data)
    except (InvalidSignature, ValueError):
        return False
    return True


class SigningKey:
    """A private key.

    Attributes:
        public_key: the raw public key, 32 bytes.
        key_id: names it in entries.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        """Wraps a key of the library."""
        self._private = private
        self.public_key = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = key_id_of(self.public_key)

    @classmethod
    def generate(cls) -> SigningKey:
        """A new random key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """Reads a PEM file.

        Raises:
            StartupError: the file cannot be read, or is not an unencrypted private Ed25519 key.
        """
        try:
            key = load_pem_private_key(_content(path), None)
        except (ValueError, TypeError) as error:  # TypeError: the key is encrypted
            raise _not_a_key(path, "an unencrypted private") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _not_a_key(path, "an unencrypted private")
        return cls(key)

    def write(self, path: Path) -> None:
        """Writes a new PEM file that only its owner can read.

        Raises:
            StartupError: the file exists already, or cannot be written.
        """
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError as error:
            raise StartupError(
                f"{path} exists already; a key is never overwritten. Give another file."
            ) from error
        except OSError as error:
            raise StartupError(
                f"the key file {path} cannot be written: {error.strerror}."
            ) from error

    def sign(self, data: bytes) -> bytes:
        """The signature over `data`, 64 bytes; the same for the same data."""
        return self._private.sign(data)


def read_public_key(path: Path) -> bytes:
    """The raw public key of a PEM file with a private or a public Ed25519 key.

    Raises:
        StartupError: the file cannot be read, or holds neither.
    """
    content = _content(path)
    try:
        key = load_pem_public_key(content)
    except (ValueError, TypeError):
        return SigningKey.read(path).public_key
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key(path, "an")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise StartupError(
            f"the key file {path} cannot be read: {error.strerror}. `errata keys new FILE` makes a "
            "key."
        ) from error


def _not_a_key(path: Path, kind: str) -> StartupError:
    return StartupError(
        f"{path} does not hold {kind} Ed25519 key in PEM; `errata keys new FILE` makes one."
    )
