"""Small logs with entries about policy."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from errata.log.entries import Entry, LaneConfigured, Payload
from errata.log.fold import LogFold

TIME = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "ab" * 32
LANE = LaneConfigured("lanes/main", "recipe", "{}", hashlib.sha256(b"{}").hexdigest(), MODEL)


def folded(*payloads: Payload) -> LogFold:
    """The fold of these entries, from position 1 on."""
    fold = LogFold()
    for seq, payload in enumerate(payloads, 1):
        fold.add(Entry(seq, f"id {seq}", TIME, "somebody", payload))
    return fold
