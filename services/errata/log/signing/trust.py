"""Whom the log trusts: a fold of the log that accepts an entry or refuses it.

Until the first trust entry, commits need no signature; from then on, each must continue the chain
of signed entries and be signed by a key that is trusted at its position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from errata.errors import CommitNotTrustedError
from errata.log.canary_entries import CanaryEnded
from errata.log.entries import (
    EditsReviewed,
    Entry,
    KeysTrusted,
    LaneConfigured,
    Signed,
    SnapshotTaken,
)
from errata.log.signature import Signature
from errata.log.signing.keys import (
    PUBLIC_KEY_BYTES,
    SigningKey,
    fingerprint_of,
    key_id_of,
    verifies,
)
from errata.log.signing.manifest import digest_of, lane_digest_of, manifest_of

_DIGEST_BYTES = 32
_REMEDY = "Run `errata verify`, and see docs/signing.md."


@dataclass(frozen=True, slots=True)
class Pins:
    """Keys with which trust may begin, chosen by the operator instead of by the log.

    Attributes:
        keys: key ids or longer beginnings of fingerprints, hex.
        unsigned_until: commits up to this position may be unsigned: those of a log that is older
            than its signatures.
    """

    keys: frozenset[str]
    unsigned_until: int = 0

    def name(self, public_key: bytes) -> bool:
        """Whether one of the pins names this key."""
        return fingerprint_of(public_key).startswith(tuple(self.keys))


@dataclass(frozen=True, slots=True)
class TrustState:
    """Trust as of a position of the log; never changed, only followed by another.

    Attributes:
        pins: limit how trust may begin; None trusts the first trust entry.
        since: position of the first trust entry; 0 before it.
        keys: trusted public keys by id.
        last: digest of the last signed entry, 32 bytes; zeros before the first.
        lanes: digests of the lanes' configurations.
        log_id: the log that the last trust entry names; empty before the first.
    """

    pins: Pins | None = None
    since: int = 0
    keys: Mapping[str, bytes] = field(default_factory=dict)
    last: bytes = bytes(_DIGEST_BYTES)
    lanes: Mapping[str, str] = field(default_factory=dict)
    log_id: str = ""

    @property
    def has_begun(self) -> bool:
        """Whether every commit must be signed from here on."""
        return self.since > 0

    def after(self, entry: Entry) -> TrustState:
        """Trust after one more entry; this object itself if the entry does not matter to it.

        Raises:
            CommitNotTrustedError: the entry must be signed by a trusted key and is not.
        """
        match entry.payload:
            case LaneConfigured() as lane:
                if lane.lane in self.lanes:  # the first configuration counts
                    return self
                return replace(self, lanes={**self.lanes, lane.lane: lane_digest_of(lane)})
            case KeysTrusted() as trust:
                return self._after_trust(entry.seq, trust)
            case commit if isinstance(commit, Signed):
                return self._after_commit(entry.seq, commit)
            case _:
                return self

    def signature(self, payload: Signed, key: SigningKey) -> Signature:
        """The signature with which `payload` may follow here."""
        value = key.sign(self._manifest(payload))
        return Signature(key.key_id, value, self.last)

    def _manifest(self, payload: Signed) -> bytes:
        if isinstance(payload, KeysTrusted | SnapshotTaken | EditsReviewed | CanaryEnded):
            return manifest_of(payload, "", self.last)
        return manifest_of(payload, self.lanes.get(payload.lane, ""), self.last)

    def _after_commit(self, seq: int, commit: Signed) -> TrustState:
        if self.has_begun:
            return replace(self, last=self._check_signature(seq, commit, self.keys))
        if self.pins is not None and seq > self.pins.unsigned_until:
            raise CommitNotTrustedError(
                f"entry {seq} is a commit, and the log has no trusted keys yet, but "
                "trusted_keys_file demands signatures. If the log is older than its signatures, "
                "set unsigned_until_seq to its last unsigned commit. " + _REMEDY,
                seq=seq,
            )
        return self

    def _after_trust(self, seq: int, trust: KeysTrusted) -> TrustState:
        new = {key.key_id: key.public_key for key in trust.keys}
        if len(new) < len(trust.keys) or any(
            len(key) != PUBLIC_KEY_BYTES or key_id != key_id_of(key) for key_id, key in new.items()
        ):
            raise _refused(seq, "names a key that does not match its id")
        if not self.has_begun:
            for key_id, key in new.items():
                if self.pins is not None and not self.pins.name(key):
                    raise _refused(
                        seq,
                        f"begins trust with key {key_id}, which trusted_keys_file does not name",
                    )
        last = self._check_signature(seq, trust, self.keys if self.has_begun else new)
        keys = {
            key_id: key
            for key_id, key in {**self.keys, **new}.items()
            if key_id not in trust.distrusted
        }
        if not keys:
            raise _refused(seq, "leaves no trusted key")
        since = self.since or seq
        return replace(self, since=since, keys=keys, last=last, log_id=trust.log_id)

    def _check_signature(self, seq: int, payload: Signed, keys: Mapping[str, bytes]) -> bytes:
        """The digest of a signed entry, if one of `keys` signed it at this place."""
        signature = payload.signature
        if signature is None:
            raise _refused(seq, "is not signed, but the log has trusted keys")
        if signature.key_id not in keys:
            trusted = ", ".join(sorted(keys)) or "none"
            raise _refused(
                seq,
                f"is signed with key {signature.key_id[:64]!r}, which is not trusted at this "
                f"position (trusted: {trusted})",
            )
        if signature.previous != self.last:
            raise _refused(seq, "was signed for another place or another log")
        manifest = self._manifest(payload)
        if not verifies(keys[signature.key_id], signature.value, manifest):
            raise _refused(seq, "was changed after it was signed, or its lane was")
        return digest_of(manifest, signature)

    def to_json(self) -> dict[str, Any]:
        """JSON values, from which `from_json` makes an equal object."""
        pins = self.pins
        return {
            "pins": None if pins is None else [sorted(pins.keys), pins.unsigned_until],
            "since": self.since,
            "keys": {key_id: key.hex() for key_id, key in self.keys.items()},
            "last": self.last.hex(),
            "lanes": dict(self.lanes),
            "log_id": self.log_id,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrustState:
        """Reads what `to_json` made.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        pins = values["pins"]
        return cls(
            pins=None if pins is None else Pins(frozenset(pins[0]), pins[1]),
            since=values["since"],
            keys={key_id: bytes.fromhex(key) for key_id, key in values["keys"].items()},
            last=bytes.fromhex(values["last"]),
            lanes=dict(values["lanes"]),
            log_id=str(values["log_id"]),
        )


def _refused(seq: int, why: str) -> CommitNotTrustedError:
    return CommitNotTrustedError(
        f"entry {seq} {why}. Nothing of it was applied. {_REMEDY}", seq=seq, problem=f"it {why}."
    )
