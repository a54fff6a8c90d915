"""The writer's key: signs commits, begins the log's trust, and replaces the key before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from errata.errors import StartupError
from errata.log.entries import KeysTrusted, Signed, TrustedKey
from errata.log.signing.keys import SigningKey
from errata.platform.settings import WriterSettings
from errata.replica.commit_gate import CommitGate

S = TypeVar("S", bound=Signed)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WriterKeys:
    """The keys that the settings name.

    Attributes:
        key: signs commits; None signs nothing.
        previous: the key before it, which signs its own replacement; None without one.
    """

    key: SigningKey | None = None
    previous: SigningKey | None = None

    @classmethod
    def of(cls, settings: WriterSettings) -> WriterKeys:
        """Reads the files.

        Raises:
            StartupError: a file is not a key.
        """
        file, before = settings.signing_key_file, settings.previous_signing_key_file
        return cls(
            SigningKey.read(file) if file else None, SigningKey.read(before) if before else None
        )


class Signer:
    """Signs what the writer appends, at the place in the log that the writer has reached."""

    def __init__(self, keys: WriterKeys, gate: CommitGate) -> None:
        """Signs nothing yet.

        Args:
            keys: of the writer.
            gate: trust as of the log that the writer knows.
        """
        self._keys = keys
        self._gate = gate

    def signed(self, payload: S) -> S:
        """The payload with the signature for its place; itself if the writer has no key."""
        return payload if self._keys.key is None else self._signed(payload, self._keys.key)

    def trust_entry(self, log_id: str) -> KeysTrusted | None:
        """The trust entry, signed, that must be appended before the writer's first commit.

        A restored log begins like the log that its backup is of. An entry with its own identity
        parts the two: what is signed behind it cannot be moved into the other one, nor the reverse.

        Args:
            log_id: the log's identity.

        Returns:
            The entry: the first of its log, the first after a restore, or one that replaces the
            previous key; None if the writer's key is trusted already, or it has none and needs
            none.

        Raises:
            StartupError: the log does not trust the writer's key.
        """
        state, key, previous = self._gate.state, self._keys.key, self._keys.previous
        if key is None:
            if state.has_begun:
                raise StartupError(
                    "commits on this log must be signed, and the writer has no key: set "
                    "writer.signing_key_file (ERRATA_WRITER__SIGNING_KEY_FILE) to the private key "
                    f"of {' or '.join(sorted(state.keys))}.",
                    remedy="set writer.signing_key_file",
                )
            _log.warning("commits are not signed: writer.signing_key_file is not set")
            return None
        own = TrustedKey(key.key_id, key.public_key)
        if key.key_id in state.keys and state.log_id == log_id:
            return None
        if key.key_id in state.keys or not state.has_begun:
            return self._signed(KeysTrusted((own,), (), log_id), key)
        if previous is None or previous.key_id not in state.keys:
            raise StartupError(
                f"the log does not trust the writer's key {key.key_id}; it trusts "
                f"{', '.join(sorted(state.keys))}. Start with a trusted key; or, to replace it, "
                "name its file as writer.previous_signing_key_file "
                "(ERRATA_WRITER__PREVIOUS_SIGNING_KEY_FILE).",
                remedy="set writer.signing_key_file to a trusted key",
                key_id=key.key_id,
            )
        return self._signed(KeysTrusted((own,), (previous.key_id,), log_id), previous)

    def _signed(self, payload: S, key: SigningKey) -> S:
        return replace(payload, signature=self._gate.state.signature(payload, key))
