"""Log entries: proto ↔ domain."""

from __future__ import annotations

from datetime import UTC

from errata.editing.edit import Edit
from errata.log.chain import Entry as LogEntry
from errata.log.convert import decode_payload
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRejected,
    EditsRequested,
    EditsReverted,
    Entry,
    Figures,
    Kind,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    Rejection,
)
from errata.platform.status_convert import from_status, to_status
from errata_client._gen.errata.v1 import edit_log_pb2, types_pb2


def edit_name(seq: int, index: int) -> str:
    """The name of the `index`-th edit (from 0) of the request at `seq`."""
    return f"edits/{seq}-{index}"


def decode(entry: LogEntry) -> Entry:
    """Reads an entry.

    Raises:
        PreconditionError: of a kind that this version does not know; applying the rest without
            it would give another state.
    """
    message = decode_payload(entry)
    time = message.append_time.ToDatetime(UTC)
    kind = _kind(entry.seq, message)
    return Entry(entry.seq, message.request_id, time, message.author, kind, message.trace_parent)


def _kind(seq: int, message: edit_log_pb2.EntryPayload) -> Kind:
    match message.WhichOneof("kind"):
        case "edits_requested":
            return _requested(seq, message.edits_requested)
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
        case _:
            lane = message.lane_configured
            return LaneConfigured(
                lane.lane, lane.method, lane.config_json, lane.config_digest, lane.base_model_digest
            )


def _requested(seq: int, message: edit_log_pb2.EditsRequested) -> EditsRequested:
    edits = tuple(
        Edit(
            name=edit_name(seq, index),
            prompt=spec.prompt,
            target=spec.target,
            subject=spec.subject,
            rephrases=tuple(spec.rephrases),
            locality_probes=tuple(spec.locality_probes),
            separator=spec.separator if spec.HasField("separator") else None,
        )
        for index, spec in enumerate(message.edits)
    )
    return EditsRequested(
        message.lane,
        edits,
        tuple(spec.source for spec in message.edits),
        tuple(spec.subject_found for spec in message.edits),
    )


def _committed(message: edit_log_pb2.EditsCommitted) -> EditsCommitted:
    return EditsCommitted(
        lane=message.lane,
        edits=tuple(edit.edit for edit in message.edits),
        figures=tuple(_figures(edit.figures) for edit in message.edits),
        artifact=_ref(message.artifact),
        memory=_ref(message.memory) if message.HasField("memory") else None,
        seed=message.seed,
        base_model_digest=message.base_model_digest,
        lane_config_digest=message.lane_config_digest,
    )


def _lane_model(message: edit_log_pb2.LaneModelCommitted) -> LaneModelCommitted:
    return LaneModelCommitted(
        lane=message.lane,
        model=_ref(message.model),
        edits=tuple(message.edits),
        repository=_ref(message.repository) if message.HasField("repository") else None,
        base_model_digest=message.base_model_digest,
    )


def _compacted(message: edit_log_pb2.LaneCompacted) -> LaneCompacted:
    return LaneCompacted(
        lane=message.lane,
        edits=tuple(message.edits),
        artifact=_ref(message.artifact),
        seed=message.seed,
        base_model_digest=message.base_model_digest,
    )


def _rejection(message: types_pb2.EditRejection) -> Rejection:
    figures = _figures(message.figures) if message.HasField("figures") else None
    return Rejection(message.edit, from_status(message.error), figures)


def _figures(message: types_pb2.EditFigures) -> Figures:
    return Figures(
        reliability=message.reliability,
        generality=message.generality if message.HasField("generality") else None,
        locality=message.locality,
        already_answered=message.already_answered,
    )


def _ref(message: types_pb2.ArtifactRef) -> ArtifactRef:
    return ArtifactRef(message.digest, message.size_bytes)


def encode(kind: Kind, author: str, *, trace_parent: str = "") -> edit_log_pb2.EntryPayload:
    """The payload of a new entry; the log adds time and request id."""
    payload = edit_log_pb2.EntryPayload(author=author, trace_parent=trace_parent)
    match kind:
        case EditsRequested():
            payload.edits_requested.lane = kind.lane
            payload.edits_requested.edits.extend(
                spec_message(edit, source, found)
                for edit, source, found in zip(
                    kind.edits, kind.sources, kind.subjects_found, strict=True
                )
            )
        case EditsCommitted():
            payload.edits_committed.CopyFrom(_committed_message(kind))
        case EditsRejected():
            payload.edits_rejected.lane = kind.lane
            payload.edits_rejected.rejections.extend(map(_rejection_message, kind.rejections))
        case EditsReverted():
            payload.edits_reverted.edits.extend(kind.edits)
            payload.edits_reverted.comment = kind.comment
        case LaneModelCommitted():
            payload.lane_model_committed.CopyFrom(_lane_model_message(kind))
        case LaneCompacted():
            compacted = payload.lane_compacted
            compacted.lane, compacted.seed = kind.lane, kind.seed
            compacted.edits.extend(kind.edits)
            compacted.artifact.CopyFrom(ref_message(kind.artifact))
            compacted.base_model_digest = kind.base_model_digest
        case LaneConfigured():
            payload.lane_configured.lane = kind.lane
            payload.lane_configured.method = kind.method
            payload.lane_configured.config_json = kind.config_json
            payload.lane_configured.config_digest = kind.config_digest
            payload.lane_configured.base_model_digest = kind.base_model_digest
    return payload


def spec_message(edit: Edit, source: str, subject_found: bool) -> types_pb2.EditSpec:
    """A correction as its author stated it, with the subject filled in."""
    return types_pb2.EditSpec(
        prompt=edit.prompt,
        target=edit.target,
        subject=edit.subject,
        rephrases=edit.rephrases,
        locality_probes=edit.locality_probes,
        source=source,
        separator=edit.separator,
        subject_found=subject_found,
    )


def figures_message(figures: Figures) -> types_pb2.EditFigures:
    """Figures of a check."""
    return types_pb2.EditFigures(
        reliability=figures.reliability,
        generality=figures.generality,
        locality=figures.locality,
        already_answered=figures.already_answered,
    )


def ref_message(ref: ArtifactRef) -> types_pb2.ArtifactRef:
    """A reference to an artifact."""
    return types_pb2.ArtifactRef(digest=ref.digest, size_bytes=ref.size_bytes)


def _committed_message(kind: EditsCommitted) -> edit_log_pb2.EditsCommitted:
    return edit_log_pb2.EditsCommitted(
        lane=kind.lane,
        edits=[
            edit_log_pb2.CommittedEdit(edit=name, figures=figures_message(figures))
            for name, figures in zip(kind.edits, kind.figures, strict=True)
        ],
        artifact=ref_message(kind.artifact),
        memory=ref_message(kind.memory) if kind.memory else None,
        seed=kind.seed,
        base_model_digest=kind.base_model_digest,
        lane_config_digest=kind.lane_config_digest,
    )


def _lane_model_message(kind: LaneModelCommitted) -> edit_log_pb2.LaneModelCommitted:
    return edit_log_pb2.LaneModelCommitted(
        lane=kind.lane,
        model=ref_message(kind.model),
        edits=kind.edits,
        repository=ref_message(kind.repository) if kind.repository else None,
        base_model_digest=kind.base_model_digest,
    )


def _rejection_message(rejection: Rejection) -> types_pb2.EditRejection:
    return types_pb2.EditRejection(
        edit=rejection.edit,
        error=to_status(rejection.error),
        figures=figures_message(rejection.figures) if rejection.figures else None,
    )
