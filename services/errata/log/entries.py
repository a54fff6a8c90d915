"""Log entries as the domain sees them; `convert` reads and writes their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from errata.editing.edit import Edit
from errata.errors import ErrataError


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured when an edit was checked.

    Attributes:
        reliability: share of target tokens that the edited model ranks first after the prompt.
        generality: the same over the rephrases; None without rephrases.
        locality: share of probes that edited and unedited model continue alike.
        already_answered: the model answered the target before the edit.
    """

    reliability: float
    generality: float | None
    locality: float
    already_answered: bool


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """A content-addressed file: SHA-256 hex and length in bytes."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class EditsRequested:
    """Edits asked for; beside each its source, and whether its subject was found, not named."""

    lane: str
    edits: tuple[Edit, ...]
    sources: tuple[str, ...]
    subjects_found: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class EditsCommitted:
    """A batch and the artifact that carries its effect."""

    lane: str
    edits: tuple[str, ...]
    figures: tuple[Figures, ...]
    artifact: ArtifactRef
    memory: ArtifactRef | None
    seed: int
    base_model_digest: str
    lane_config_digest: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """An accepted edit that cannot be served, and why."""

    edit: str
    error: ErrataError
    figures: Figures | None


@dataclass(frozen=True, slots=True)
class EditsRejected:
    """Edits that have no effect."""

    lane: str
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True)
class EditsReverted:
    """Edits that lose their effect."""

    edits: tuple[str, ...]
    comment: str


@dataclass(frozen=True, slots=True)
class LaneConfigured:
    """A lane: one configured method on one base model."""

    lane: str
    method: str
    config_json: str
    config_digest: str
    base_model_digest: str


@dataclass(frozen=True, slots=True)
class LaneModelCommitted:
    """A version of a lane's model, with all edits of the lane in force encoded by it.

    Attributes:
        lane: whose.
        model: the lane model; its digest is the version's name.
        edits: all edits of the lane in force, oldest first.
        repository: what carries their effect from here on; None without edits.
        base_model_digest: of the LLM.
    """

    lane: str
    model: ArtifactRef
    edits: tuple[str, ...]
    repository: ArtifactRef | None
    base_model_digest: str


@dataclass(frozen=True, slots=True)
class LaneCompacted:
    """A lane that was learned anew from its edits in force.

    Attributes:
        lane: whose.
        edits: all edits of the lane in force, oldest first.
        artifact: what carries their effect from here on.
        seed: of the fit.
        base_model_digest: of the LLM.
    """

    lane: str
    edits: tuple[str, ...]
    artifact: ArtifactRef
    seed: int
    base_model_digest: str


Payload = (
    EditsRequested
    | EditsCommitted
    | EditsRejected
    | EditsReverted
    | LaneConfigured
    | LaneModelCommitted
    | LaneCompacted
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log.

    Attributes:
        seq: position.
        request_id: idempotency key of the append.
        append_time: set by the log.
        author: who asked.
        payload: what it says.
        trace_parent: W3C `traceparent` of the call that appended it; empty if not traced.
    """

    seq: int
    request_id: str
    append_time: datetime
    author: str
    payload: Payload
    trace_parent: str = ""
