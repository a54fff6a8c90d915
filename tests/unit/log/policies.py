"""Small logs with entries about policy."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from errata.editing.edit import Edit
from errata.errors import CheckFailedError
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRejected,
    EditsRequested,
    Entry,
    Figures,
    LaneConfigured,
    LanePolicySet,
    Payload,
    Rejection,
    Schedule,
)
from errata.log.fold import LogFold

TIME = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "ab" * 32
LANE = LaneConfigured("lanes/main", "recipe", "{}", hashlib.sha256(b"{}").hexdigest(), MODEL)


REVIEWED = LanePolicySet("lanes/main", True)
REF = ArtifactRef("cd" * 32, 7)


def requested(seq: int, *schedules: Schedule) -> EditsRequested:
    """A request with one edit."""
    edit = Edit(f"edits/{seq}-0", "The capital of France is", "Lyon", "France")
    return EditsRequested("lanes/main", (edit,), ("",), (False,), schedules)


def committed(name: str) -> EditsCommitted:
    """A commit of one edit."""
    figures = Figures(1, None, 1, False)
    return EditsCommitted(
        "lanes/main", (name,), (figures,), REF, None, 1, MODEL, LANE.config_digest
    )


def rejected(name: str) -> EditsRejected:
    """A rejection of one edit."""
    return EditsRejected("lanes/main", (Rejection(name, CheckFailedError("no"), None),))


def folded(*payloads: Payload) -> LogFold:
    """The fold of these entries, from position 1 on."""
    fold = LogFold()
    for seq, payload in enumerate(payloads, 1):
        fold.add(Entry(seq, f"id {seq}", TIME, "somebody", payload))
    return fold
