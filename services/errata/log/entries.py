"""Decoded log entries and their payloads; `payload_convert` reads and writes their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from errata.editing.chat import Prompt
from errata.editing.edit import Edit
from errata.errors import ErrataError, ImpossibleEntryError
from errata.log.canary_entries import CanaryEnded, CanarySet
from errata.log.signature import Signature


@dataclass(frozen=True, slots=True)
class Figures:
    """Measurements from the check of an edit.

    Attributes:
        reliability: share of target tokens that the edited model ranks first after the prompt.
        generality: the same share after the rephrases; None without rephrases.
        locality: share of probes that the edited and the unedited model continue identically.
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
class Schedule:
    """When an edit begins and ends; None where it has no such time.

    Attributes:
        effective_from: it waits until an entry releases it at this time.
        expires_at: an entry reverts or rejects it at this time.
    """

    effective_from: datetime | None = None
    expires_at: datetime | None = None


UNTIMED = Schedule()


@dataclass(frozen=True, slots=True)
class EditsRequested:
    """Accepted edits that are not fitted yet.

    Attributes:
        lane: that the edits belong to.
        edits: of one request.
        sources: of each edit.
        subjects_found: for each edit, whether the writer found the subject in the prompt; False
            if the client named it.
        schedules: of each edit; none at all if no edit has a time.
    """

    lane: str
    edits: tuple[Edit, ...]
    sources: tuple[str, ...]
    subjects_found: tuple[bool, ...]
    schedules: tuple[Schedule, ...] = ()

    @property
    def has_namespaces(self) -> bool:
        """Whether an edit is outside the default namespace, or in a canary."""
        return any(edit.namespace for edit in self.edits)

    @property
    def has_canaries(self) -> bool:
        """Whether an edit is in a canary."""
        return any(edit.canary for edit in self.edits)

    def scheduled(self) -> Iterator[tuple[Edit, Schedule]]:
        """Each edit with its schedule."""
        return zip(self.edits, self.schedules or (UNTIMED,) * len(self.edits), strict=True)


@dataclass(frozen=True, slots=True)
class EditsCommitted:
    """A fitted batch and the artifact that carries its effect."""

    lane: str
    edits: tuple[str, ...]
    figures: tuple[Figures, ...]
    artifact: ArtifactRef
    memory: ArtifactRef | None
    seed: int
    base_model_digest: str
    lane_config_digest: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """An accepted edit that was not committed, and the reason."""

    edit: str
    error: ErrataError
    figures: Figures | None


@dataclass(frozen=True, slots=True)
class EditsRejected:
    """Edits that were not committed and have no effect."""

    lane: str
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True)
class EditsReverted:
    """Committed edits that lose their effect."""

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
    """A version of a lane's model, with all active edits of the lane encoded by it.

    Attributes:
        lane: that the model belongs to.
        model: the lane model; its digest names the version.
        edits: all active edits of the lane, oldest first.
        repository: carries their effect from this entry on; None without edits.
        base_model_digest: of the LLM.
        signature: by the writer; None in logs without trusted keys.
    """

    lane: str
    model: ArtifactRef
    edits: tuple[str, ...]
    repository: ArtifactRef | None
    base_model_digest: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class LaneCompacted:
    """A lane that was retrained from its active edits.

    Attributes:
        lane: the retrained lane.
        edits: all active edits of the lane, oldest first.
        artifact: carries their effect from this entry on.
        seed: of the fit.
        base_model_digest: of the LLM.
        signature: by the writer; None in logs without trusted keys.
    """

    lane: str
    edits: tuple[str, ...]
    artifact: ArtifactRef
    seed: int
    base_model_digest: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key whose signatures count: its id and its 32 bytes."""

    key_id: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class KeysTrusted:
    """Changes which keys may sign; after the first one, every commit must be signed.

    Attributes:
        keys: trusted from this position on.
        distrusted: ids of keys that are no longer trusted from this position on.
        log_id: the log's identity when the entry was made; so two logs never begin alike.
        signature: by one of `keys` in the first such entry, later by a trusted key.
    """

    keys: tuple[TrustedKey, ...]
    distrusted: tuple[str, ...]
    log_id: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """A verified snapshot, from which readers may start; it changes nothing.

    Attributes:
        seq: it is the fold of the entries 1 to `seq`.
        chain_digest: H(seq), 32 bytes.
        manifest: names its parts.
        state_digest: SHA-256, hex, of the state of every lane there.
        base_model_digest: of the LLM.
        verified_by: the replica that restored it and found the same digest.
        signature: by the writer; None in logs without trusted keys.
    """

    seq: int
    chain_digest: bytes
    manifest: ArtifactRef
    state_digest: str
    base_model_digest: str
    verified_by: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class LanePolicySet:
    """Whether the edits that a lane gets from here on wait for approval."""

    lane: str
    requires_approval: bool
    signature: Signature | None = None


class Verdict(StrEnum):
    """A decision on edits that waited."""

    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class EditsReviewed:
    """A decision on edits that waited.

    Attributes:
        edits: their names; approved ones are fitted as if requested here, in log order.
        verdict: what was decided.
        comment: why.
        reviewer: the entry's author, here so that the signature covers him.
        signature: by the writer; None in logs without trusted keys.
    """

    edits: tuple[str, ...]
    verdict: Verdict
    comment: str
    reviewer: str
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class EditsReleased:
    """Scheduled edits whose time has come; they are fitted as if requested here."""

    edits: tuple[str, ...]


Signed = (
    EditsCommitted
    | LaneModelCommitted
    | LaneCompacted
    | KeysTrusted
    | SnapshotTaken
    | LanePolicySet
    | EditsReviewed
    | CanarySet
    | CanaryEnded
)
"""The payloads that the writer signs."""


@dataclass(frozen=True, slots=True)
class EntryVoided:
    """An earlier entry that no reader can apply counts as absent.

    Attributes:
        seq: of that entry.
        reason: for operators.
    """

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class ProbesSet:
    """The deployment's probe set: prompts that edits should not change."""

    prompts: tuple[Prompt, ...]


Payload = (
    EditsRequested
    | EditsCommitted
    | EditsRejected
    | EditsReverted
    | LaneConfigured
    | LaneModelCommitted
    | LaneCompacted
    | KeysTrusted
    | EntryVoided
    | SnapshotTaken
    | ProbesSet
    | LanePolicySet
    | EditsReviewed
    | EditsReleased
    | CanarySet
    | CanaryEnded
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log.

    Attributes:
        seq: position.
        request_id: idempotency key of the append.
        append_time: set by the log.
        author: of the request.
        payload: what the entry records.
        trace_parent: W3C `traceparent` of the call that appended it; empty if not traced.
        on_behalf_of: whom the author named beside himself, unverified.
    """

    seq: int
    request_id: str
    append_time: datetime
    author: str
    payload: Payload
    trace_parent: str = ""
    on_behalf_of: str = ""


def artifacts_of(payload: Payload) -> tuple[ArtifactRef, ...]:
    """The artifacts that an entry names."""
    match payload:
        case EditsCommitted(artifact=artifact, memory=other):
            return (artifact,) if other is None else (artifact, other)
        case LaneModelCommitted(model=artifact, repository=other):
            return (artifact,) if other is None else (artifact, other)
        case LaneCompacted(artifact=artifact) | SnapshotTaken(manifest=artifact):
            return (artifact,)
        case _:
            return ()


def impossible_entry(seq: int, problem: str) -> ImpossibleEntryError:
    """The error of every reader at an entry that contradicts those before it.

    Args:
        seq: of the entry.
        problem: what it contradicts; whole sentences.
    """
    return ImpossibleEntryError(
        f"entry {seq} cannot be applied: {problem} Every reader of the log stops before it. Run "
        f"`errata log repair --seq {seq} --reason TEXT` to void it.",
        seq=seq,
        problem=problem,
    )
