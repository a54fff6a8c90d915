"""The manifest: the bytes that a signature covers, the same for writer, replicas and verifiers.

A manifest is canonical JSON of everything that an entry says, of the configuration of its lane, and
of the signed entry before it. So a signature holds for one place in one log: moved, repeated or
taken from another log, it does not verify.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from errata.log.canary_entries import CanaryEnded, CanarySet
from errata.log.entries import (
    EditsCommitted,
    EditsReviewed,
    KeysTrusted,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    LanePolicySet,
    Signed,
    SnapshotTaken,
)
from errata.log.signature import Signature

_PREFIX = b"errata commit manifest 1\n"
_KINDS: dict[type, str] = {
    EditsCommitted: "edits_committed",
    LaneModelCommitted: "lane_model_committed",
    LaneCompacted: "lane_compacted",
    KeysTrusted: "keys_trusted",
    SnapshotTaken: "snapshot_taken",
    LanePolicySet: "lane_policy_set",
    EditsReviewed: "edits_reviewed",
    CanarySet: "canary_set",
    CanaryEnded: "canary_ended",
}


def manifest_of(payload: Signed, lane_digest: str, previous: bytes) -> bytes:
    """What the signature of an entry covers; the payload's own signature does not count.

    Args:
        payload: of the entry.
        lane_digest: `lane_digest_of` the lane's configuration; empty for entries of no lane.
        previous: `digest_of` the signed entry before it; zeros for the first.
    """
    says = asdict(payload)
    del says["signature"]
    if isinstance(payload, EditsCommitted):
        # Whole numbers come back from the log as floats.
        says["figures"] = [_exact(figures) for figures in says["figures"]]
    if isinstance(payload, KeysTrusted):
        says["keys"] = [{**key, "public_key": key["public_key"].hex()} for key in says["keys"]]
    if isinstance(payload, SnapshotTaken):
        says["chain_digest"] = payload.chain_digest.hex()
    return _PREFIX + _canonical(
        {
            "kind": _KINDS[type(payload)],
            "says": says,
            "lane_digest": lane_digest,
            "previous": previous.hex(),
        }
    )


def digest_of(manifest: bytes, signature: Signature) -> bytes:
    """The digest of a signed entry, 32 bytes, which the next signed entry names."""
    return hashlib.sha256(manifest + signature.value).digest()


def lane_digest_of(lane: LaneConfigured) -> str:
    """SHA-256, hex, of everything that configures a lane."""
    return hashlib.sha256(_canonical(asdict(lane))).hexdigest()


def _exact(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(value).hex() if isinstance(value, int | float) else value
        for name, value in figures.items()
    }


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
