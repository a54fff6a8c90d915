"""Entries of a log without tensors: lanes of a method that any process can leave out."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from typing import Any

from errata.editing.edit import Edit
from errata.errors import CheckFailedError
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRejected,
    EditsRequested,
    EditsReverted,
    Figures,
    LaneConfigured,
    Payload,
    Rejection,
    SnapshotTaken,
)
from errata.log.payload_convert import encode
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.integration.log.harness import BASE_MODEL, RunningLog
from tests.waiting import PATIENCE

FIGURES = Figures(1.0, None, 1.0, False)
CONFIG = "{}"
CONFIG_DIGEST = hashlib.sha256(CONFIG.encode()).hexdigest()
BYTES = b"an artifact"
REF = ArtifactRef(hashlib.sha256(BYTES).hexdigest(), len(BYTES))


def lane(name: str = "lanes/a", **changes: str) -> LaneConfigured:
    values = {"method": "adaple", "config_json": CONFIG, "config_digest": CONFIG_DIGEST}
    return LaneConfigured(**{"lane": name, **values, "base_model_digest": BASE_MODEL} | changes)


def request(name: str = "lanes/a", num_edits: int = 1) -> EditsRequested:
    edits = tuple(
        Edit("", f"The capital of country {k} is", "Pisa", "country") for k in range(num_edits)
    )
    return EditsRequested(name, edits, ("",) * num_edits, (False,) * num_edits)


def commit(*edits: str, name: str = "lanes/a", artifact: ArtifactRef = REF) -> EditsCommitted:
    figures = (FIGURES,) * len(edits)
    return EditsCommitted(name, edits, figures, artifact, None, 1, BASE_MODEL, CONFIG_DIGEST)


def reject(*edits: str, name: str = "lanes/a") -> EditsRejected:
    error = CheckFailedError("reliability is 0.2", metric="reliability")
    return EditsRejected(name, tuple(Rejection(edit, error, FIGURES) for edit in edits))


def revert(*edits: str) -> EditsReverted:
    return EditsReverted(edits, "why")


def snapshot(seq: int, **changes: Any) -> SnapshotTaken:
    taken = SnapshotTaken(seq, b"\x01" * 32, REF, "ab" * 32, BASE_MODEL, "replica")
    return replace(taken, **changes)


async def append(log: RunningLog, epoch: int, payload: Payload) -> int:
    """Appends an entry; its position."""
    asked = pb.AppendRequest(request_id=str(uuid.uuid4()), epoch=epoch, payload=message(payload))
    return int((await log.stub.Append(asked, timeout=PATIENCE)).seq)


def message(payload: Payload) -> pb.EntryPayload:
    return encode(payload, "tests")
