"""A log whose commits are signed, without a service: entries, and the trust after each."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from errata.log.canary_entries import (
    CanaryComparison,
    CanaryCounts,
    CanaryEnded,
    CanaryRule,
    CanarySet,
    Outcome,
)
from errata.log.chain import ORIGIN, ChainedEntry, extend
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsReviewed,
    Entry,
    Figures,
    KeysTrusted,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    LanePolicySet,
    Payload,
    Signed,
    SnapshotTaken,
    TrustedKey,
    Verdict,
)
from errata.log.payload_convert import encode
from errata.log.signing.keys import SigningKey
from errata.log.signing.trust import Pins, TrustState

LANE = LaneConfigured("lanes/main", "adaple", "{}", "digest", "model")
REF, OTHER = ArtifactRef("ab" * 32, 123), ArtifactRef("cd" * 32, 45)
COMMIT = EditsCommitted(
    "lanes/main",
    ("edits/3-0", "edits/3-1"),
    (Figures(1, None, 1, False), Figures(0.5, 1 / 3, 1.0, True)),
    REF,
    OTHER,
    -42,
    "model",
    "digest",
)
LANE_MODEL = LaneModelCommitted("lanes/main", REF, ("edits/3-0",), OTHER, "model")
COMPACTED = LaneCompacted("lanes/main", ("edits/3-0",), REF, 2**64 - 1, "model")
SNAPSHOT = SnapshotTaken(2, b"\x07" * 32, REF, "ab" * 32, "model", "replica")
REVIEW = EditsReviewed(("edits/3-0",), Verdict.APPROVED, "well", "eve")
COMMITS: tuple[Signed, ...] = (COMMIT, LANE_MODEL, COMPACTED, SNAPSHOT)
OPENED = CanarySet(
    *("canaries/c", "lanes/main", "team", 100_000, ("acme",), CanaryRule(9, 0.5, 60), "a trial"),
    rolls_back=True,
)
COUNTS = CanaryComparison(2, CanaryCounts(9, 8, 7, 6, 5, 4), CanaryCounts(6, 5, 4, 3, 2, 1))
ENDED = CanaryEnded("canaries/c", Outcome.PROMOTED, ("edits/3-0",), "well", COUNTS)
DECISIONS: tuple[Signed, ...] = (LanePolicySet("lanes/main", True), REVIEW, OPENED, ENDED)


def trusting(*keys: SigningKey, distrusted: tuple[str, ...] = (), log_id: str = "a") -> KeysTrusted:
    """An unsigned trust entry."""
    named = tuple(TrustedKey(key.key_id, key.public_key) for key in keys)
    return KeysTrusted(named, distrusted, log_id)


class SignedLog:
    """Entries as a writer appends them."""

    def __init__(self, pins: Pins | None = None) -> None:
        self.trust = TrustState(pins)
        self.entries: list[Entry] = []

    def entry(self, payload: Payload) -> Entry:
        """The payload as the next entry, which is not appended."""
        seq = len(self.entries) + 1
        return Entry(seq, f"id-{seq}", datetime.now(UTC), "test", payload)

    def append(self, payload: Payload) -> Entry:
        """Appends what the log's trust accepts."""
        entry = self.entry(payload)
        self.trust = self.trust.after(entry)
        self.entries.append(entry)
        return entry

    def signed(self, payload: Signed, key: SigningKey) -> Signed:
        """The payload, signed for the next place."""
        return replace(payload, signature=self.trust.signature(payload, key))

    def sign(self, payload: Signed, key: SigningKey) -> Entry:
        """Signs and appends."""
        return self.append(self.signed(payload, key))

    @classmethod
    def begun(cls, key: SigningKey, log_id: str = "a") -> SignedLog:
        """A log that trusts one key, and has one lane."""
        log = cls()
        log.sign(trusting(key, log_id=log_id), key)
        log.append(LANE)
        return log


def chained(entries: list[Entry]) -> list[ChainedEntry]:
    """The entries as they are stored."""
    position, stored = ORIGIN, []
    for entry in entries:
        payload = encode(entry.payload, entry.author)
        payload.request_id = entry.request_id
        payload.append_time.FromDatetime(entry.append_time)
        data = payload.SerializeToString(deterministic=True)
        position = extend(position, data)
        stored.append(ChainedEntry(entry.seq, data, position.chain_digest))
    return stored
