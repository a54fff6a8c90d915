"""Entries and their payloads: proto ↔ domain."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from errata.errors import ErrataError, PreconditionError
from errata.log.canary_convert import canary_of, put_canary
from errata.log.canary_entries import CanaryEnded, CanarySet
from errata.log.chain import ChainedEntry
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRejected,
    EditsReleased,
    EditsRequested,
    EditsReverted,
    EditsReviewed,
    Entry,
    EntryVoided,
    Figures,
    KeysTrusted,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    LanePolicySet,
    Payload,
    ProbesSet,
    Rejection,
    SnapshotTaken,
    impossible_entry,
)
from errata.log.policy_convert import policy_of, put_policy
from errata.log.request_convert import put_requested, requested_of
from errata.log.signature_convert import (
    signature_message,
    signature_of,
    trust_message,
    trust_of,
)
from errata.platform.status_convert import from_status, to_status
from errata_client._gen.errata.v1 import edit_log_pb2, types_pb2


def decode(entry: ChainedEntry) -> Entry:
    """Decodes an entry.

    Raises:
        PreconditionError: this version does not know the entry's kind; a state without its effect
            would be wrong.
        ImpossibleEntryError: the bytes are not an entry of any version.
    """
    message = decode_payload(entry)
    try:
        return Entry(
            seq=entry.seq,
            request_id=message.request_id,
            append_time=_time_of(message),
            author=message.author,
            on_behalf_of=message.on_behalf_of,
            payload=_payload(entry.seq, message),
            trace_parent=message.trace_parent,
        )
    except ErrataError:
        raise
    except Exception as error:  # such as times and details that no service writes
        problem = f"its content cannot be read ({type(error).__name__})."
        raise impossible_entry(entry.seq, problem) from error


def _time_of(message: edit_log_pb2.EntryPayload) -> datetime:
    """As `ToDatetime`, which takes longer than all other fields together.

    Raises:
        ValueError, OverflowError, OSError: no time that a service writes.
    """
    stamp = message.append_time
    return datetime.fromtimestamp(stamp.seconds, UTC).replace(microsecond=stamp.nanos // 1_000)


def decode_payload(entry: ChainedEntry) -> edit_log_pb2.EntryPayload:
    """The message in an entry.

    Raises:
        PreconditionError: this version does not know the entry's kind; a reader must stop before
            the entry, because it cannot know what the entry changes.
        ImpossibleEntryError: the bytes are not an entry of any version.
    """
    message = edit_log_pb2.EntryPayload()
    try:
        message.ParseFromString(entry.payload)
    except DecodeError as error:
        raise impossible_entry(entry.seq, "its bytes are not a message.") from error
    if message.WhichOneof("kind") is None:
        known, unknown = message.DESCRIPTOR.fields_by_number, UnknownFieldSet(message)
        if all(unknown[index].field_number in known for index in range(len(unknown))):
            raise impossible_entry(entry.seq, "it has no content.")
        raise PreconditionError(
            f"entry {entry.seq} has a kind that this version does not know. Upgrade this process; "
            "it stays at the entry before.",
            seq=entry.seq,
        )
    return message


def _payload(seq: int, message: edit_log_pb2.EntryPayload) -> Payload:
    match message.WhichOneof("kind"):
        case "edits_requested" | "edits_scheduled" | "edits_namespaced" | "edits_canaried" as kind:
            return requested_of(seq, kind, getattr(message, kind))
        case "edits_committed":
            return _committed(message.edits_committed)
        case "edits_rejected":
            rejected = message.edits_rejected
            return EditsRejected(rejected.lane, tuple(map(_rejection, rejected.rejections)))
        case "edits_reverted":
            reverted = message.edits_reverted
            return EditsReverted(tuple(reverted.edits), reverted.comment)
        case "lane_model_committed":
            return _lane_model(message.lane_model_committed)
        case "lane_compacted":
            return _compacted(message.lane_compacted)
        case "keys_trusted":
            return trust_of(message.keys_trusted)
        case "snapshot_taken":
            return snapshot_of(message.snapshot_taken)
        case "entry_voided":
            return EntryVoided(message.entry_voided.seq, message.entry_voided.reason)
        case "lane_configured":
            lane = message.lane_configured
            return LaneConfigured(
                lane.lane, lane.method, lane.config_json, lane.config_digest, lane.base_model_digest
            )
        case _:
            other = policy_of(message) or canary_of(message)
            assert other is not None, "every kind is read"
            return other


def _committed(message: edit_log_pb2.EditsCommitted) -> EditsCommitted:
    return EditsCommitted(
        lane=message.lane,
        edits=tuple([edit.edit for edit in message.edits]),
        figures=tuple([_figures(edit.figures) for edit in message.edits]),
        artifact=_ref(message.artifact),
        memory=_ref(message.memory) if message.HasField("memory") else None,
        seed=message.seed,
        base_model_digest=message.base_model_digest,
        lane_config_digest=message.lane_config_digest,
        signature=signature_of(message),
    )


def _lane_model(message: edit_log_pb2.LaneModelCommitted) -> LaneModelCommitted:
    return LaneModelCommitted(
        lane=message.lane,
        model=_ref(message.model),
        edits=tuple(message.edits),
        repository=_ref(message.repository) if message.HasField("repository") else None,
        base_model_digest=message.base_model_digest,
        signature=signature_of(message),
    )


def _compacted(message: edit_log_pb2.LaneCompacted) -> LaneCompacted:
    return LaneCompacted(
        lane=message.lane,
        edits=tuple(message.edits),
        artifact=_ref(message.artifact),
        seed=message.seed,
        base_model_digest=message.base_model_digest,
        signature=signature_of(message),
    )


def snapshot_of(message: edit_log_pb2.SnapshotTaken) -> SnapshotTaken:
    """What an entry, or the log service, says about a snapshot."""
    return SnapshotTaken(
        seq=message.seq,
        chain_digest=message.chain_digest,
        manifest=_ref(message.manifest),
        state_digest=message.state_digest,
        base_model_digest=message.base_model_digest,
        verified_by=message.verified_by,
        signature=signature_of(message),
    )


def _rejection(message: types_pb2.EditRejection) -> Rejection:
    figures = _figures(message.figures) if message.HasField("figures") else None
    error = from_status(message.error)
    to_status(error)  # whoever lists the edit needs it: fails here if its details are malformed
    return Rejection(message.edit, error, figures)


def _figures(message: types_pb2.EditFigures) -> Figures:
    return Figures(
        message.reliability,
        message.generality if message.HasField("generality") else None,
        message.locality,
        message.already_answered,
    )


def _ref(message: types_pb2.ArtifactRef) -> ArtifactRef:
    return ArtifactRef(message.digest, message.size_bytes)


def encode(
    payload: Payload, author: str, *, trace_parent: str = "", on_behalf_of: str = ""
) -> edit_log_pb2.EntryPayload:
    """The message of a new entry; the log sets its time and request id."""
    message = edit_log_pb2.EntryPayload(
        author=author, trace_parent=trace_parent, on_behalf_of=on_behalf_of
    )
    match payload:
        case EditsRequested():
            put_requested(message, payload)
        case EditsCommitted():
            message.edits_committed.CopyFrom(_committed_message(payload))
        case EditsRejected():
            message.edits_rejected.lane = payload.lane
            message.edits_rejected.rejections.extend(map(_rejection_message, payload.rejections))
        case EditsReverted():
            message.edits_reverted.edits.extend(payload.edits)
            message.edits_reverted.comment = payload.comment
        case LaneModelCommitted():
            message.lane_model_committed.CopyFrom(_lane_model_message(payload))
        case LaneCompacted():
            message.lane_compacted.CopyFrom(_compacted_message(payload))
        case KeysTrusted():
            message.keys_trusted.CopyFrom(trust_message(payload))
        case LaneConfigured():
            message.lane_configured.lane = payload.lane
            message.lane_configured.method = payload.method
            message.lane_configured.config_json = payload.config_json
            message.lane_configured.config_digest = payload.config_digest
            message.lane_configured.base_model_digest = payload.base_model_digest
        case SnapshotTaken():
            message.snapshot_taken.CopyFrom(snapshot_message(payload))
        case ProbesSet() | LanePolicySet() | EditsReviewed() | EditsReleased():
            put_policy(message, payload)
        case CanarySet() | CanaryEnded():
            put_canary(message, payload)
        case EntryVoided():
            message.entry_voided.seq = payload.seq
            message.entry_voided.reason = payload.reason
    return message


def figures_message(figures: Figures) -> types_pb2.EditFigures:
    """The measurements of a check."""
    return types_pb2.EditFigures(
        reliability=figures.reliability,
        generality=figures.generality,
        locality=figures.locality,
        already_answered=figures.already_answered,
    )


def ref_message(ref: ArtifactRef) -> types_pb2.ArtifactRef:
    """A reference to an artifact."""
    return types_pb2.ArtifactRef(digest=ref.digest, size_bytes=ref.size_bytes)


def _committed_message(payload: EditsCommitted) -> edit_log_pb2.EditsCommitted:
    return edit_log_pb2.EditsCommitted(
        lane=payload.lane,
        edits=[
            edit_log_pb2.CommittedEdit(edit=name, figures=figures_message(figures))
            for name, figures in zip(payload.edits, payload.figures, strict=True)
        ],
        artifact=ref_message(payload.artifact),
        memory=ref_message(payload.memory) if payload.memory else None,
        seed=payload.seed,
        base_model_digest=payload.base_model_digest,
        lane_config_digest=payload.lane_config_digest,
        signature=signature_message(payload.signature),
    )


def _lane_model_message(payload: LaneModelCommitted) -> edit_log_pb2.LaneModelCommitted:
    return edit_log_pb2.LaneModelCommitted(
        lane=payload.lane,
        model=ref_message(payload.model),
        edits=payload.edits,
        repository=ref_message(payload.repository) if payload.repository else None,
        base_model_digest=payload.base_model_digest,
        signature=signature_message(payload.signature),
    )


def _compacted_message(payload: LaneCompacted) -> edit_log_pb2.LaneCompacted:
    return edit_log_pb2.LaneCompacted(
        lane=payload.lane,
        edits=payload.edits,
        artifact=ref_message(payload.artifact),
        seed=payload.seed,
        base_model_digest=payload.base_model_digest,
        signature=signature_message(payload.signature),
    )


def snapshot_message(payload: SnapshotTaken) -> edit_log_pb2.SnapshotTaken:
    """The message that `snapshot_of` reads."""
    return edit_log_pb2.SnapshotTaken(
        seq=payload.seq,
        chain_digest=payload.chain_digest,
        manifest=ref_message(payload.manifest),
        state_digest=payload.state_digest,
        base_model_digest=payload.base_model_digest,
        verified_by=payload.verified_by,
        signature=signature_message(payload.signature),
    )


def _rejection_message(rejection: Rejection) -> types_pb2.EditRejection:
    return types_pb2.EditRejection(
        edit=rejection.edit,
        error=to_status(rejection.error),
        figures=figures_message(rejection.figures) if rejection.figures else None,
    )
