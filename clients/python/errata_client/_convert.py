"""Converts messages to values; only this module and `_calls` use `_pb2` types."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

from errata_client import errors, types
from errata_client._chat import chat_of, prompt_of
from errata_client._gen.errata.v1 import (
    edit_log_pb2,
    editing_pb2,
    inference_pb2,
    types_pb2,
)

_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}


def figures(message: types_pb2.EditFigures) -> types.Figures:
    """Figures of a check."""
    return types.Figures(
        reliability=message.reliability,
        generality=message.generality if message.HasField("generality") else None,
        locality=message.locality,
        already_answered=message.already_answered,
    )


def spec(message: types_pb2.EditSpec) -> types.EditSpec:
    """A correction."""
    return types.EditSpec(
        prompt=prompt_of(message),
        target=message.target,
        subject=message.subject,
        rephrases=(*message.rephrases, *map(chat_of, message.chat_rephrases)),
        locality_probes=(*message.locality_probes, *map(chat_of, message.chat_locality_probes)),
        source=message.source,
        separator=message.separator if message.HasField("separator") else None,
        effective_from=(
            message.effective_from.ToDatetime(UTC) if message.HasField("effective_from") else None
        ),
        expires_at=message.expires_at.ToDatetime(UTC) if message.HasField("expires_at") else None,
        namespace=message.namespace,
        canary=message.canary,
    )


def edit(message: editing_pb2.Edit) -> types.Edit:
    """An edit and its state."""
    return types.Edit(
        name=message.name,
        state=types.EditState(message.state),
        spec=spec(message.spec),
        lane=message.lane,
        author=message.author,
        request_time=message.request_time.ToDatetime(UTC),
        commit_seq=message.commit_seq,
        revert_seq=message.revert_seq,
        figures=figures(message.figures) if message.HasField("figures") else None,
        artifact_digest=message.artifact.digest,
        artifact_size=message.artifact.size_bytes,
        method=message.method,
        base_model_digest=message.base_model_digest,
        error=message.error.message,
        superseded_by=message.superseded_by,
        reason=errors.from_status(message.error).reason,
        subject_found=message.spec.subject_found,
        review=_review(message.review) if message.HasField("review") else None,
        on_behalf_of=message.on_behalf_of,
    )


def _review(message: editing_pb2.Review) -> types.Review:
    return types.Review(
        message.seq, message.reviewer, message.comment, message.time.ToDatetime(UTC)
    )


def lane(message: editing_pb2.Lane) -> types.Lane:
    """A lane."""
    return types.Lane(
        name=message.name,
        method=message.method,
        config_json=message.config_json,
        config_digest=message.config_digest,
        base_model_digest=message.base_model_digest,
        configured_seq=message.configured_seq,
        is_default=message.is_default,
        reversal=message.reversal,
        sizes=dict(message.sizes),
        warnings=tuple(message.warnings),
        requires_approval=message.requires_approval,
    )


def compaction(message: editing_pb2.CompactLaneResponse) -> types.Compaction:
    """A compaction of a lane."""
    known = message.HasField("after")
    return types.Compaction(
        seq=message.seq,
        before=figures(message.before) if known else None,
        after=figures(message.after) if known else None,
        sizes_before=dict(message.sizes_before),
    )


def provenance(message: inference_pb2.Provenance) -> types.Provenance:
    """The state and edits under which an answer was computed."""
    return types.Provenance(
        applied_seq=message.applied_seq,
        chain_digest=message.chain_digest.hex(),
        state_digest=message.state_digest,
        replica=message.replica,
        edits=tuple(message.edits),
        num_edits_in_force=message.num_edits_in_force,
        prompt_cut=message.prompt_cut,
        canaries=tuple(message.canaries),
        canary_key=message.canary_key,
    )


def answer(message: inference_pb2.GenerateResponse) -> types.Answer:
    """A continuation."""
    return types.Answer(
        text=message.text,
        finish_reason=_FINISH_REASONS.get(message.finish_reason, ""),
        num_prompt_tokens=message.num_prompt_tokens,
        num_tokens=message.num_tokens,
        provenance=provenance(message.provenance),
        tokens=_choices(message.tokens),
    )


def _choices(messages: Iterable[inference_pb2.TokenChoice]) -> tuple[types.TokenChoice, ...]:
    return tuple(
        types.TokenChoice(
            token=message.token,
            token_id=message.token_id,
            log_probability=message.log_probability,
            alternatives=tuple(
                types.TokenAlternative(other.token, other.token_id, other.log_probability)
                for other in message.alternatives
            ),
        )
        for message in messages
    )


def chunk(message: inference_pb2.StreamGenerateResponse) -> types.Chunk:
    """A piece of a continuation."""
    return types.Chunk(
        text=message.text,
        finish_reason=_FINISH_REASONS.get(message.finish_reason, ""),
        num_tokens=message.num_tokens,
        provenance=provenance(message.provenance),
        tokens=_choices(message.tokens),
    )


def score(message: inference_pb2.ScoreResponse) -> types.Score:
    """A scored continuation."""
    return types.Score(
        tokens=tuple(
            types.TokenScore(
                token=token.token,
                token_id=token.token_id,
                log_probability=token.log_probability,
                argmax_token=token.argmax_token,
                argmax_token_id=token.argmax_token_id,
            )
            for token in message.tokens
        ),
        provenance=provenance(message.provenance),
    )


def model(message: inference_pb2.GetModelResponse) -> types.Model:
    """The model that is served, and its limits."""
    return types.Model(
        name=message.name,
        base_model_digest=message.base_model_digest,
        max_positions=message.max_positions,
        max_tokens=message.max_tokens,
        has_chat_template=message.has_chat_template,
    )


def replica_answer(message: inference_pb2.ReplicaAnswer) -> types.ReplicaAnswer:
    """One replica's answer or error."""
    return types.ReplicaAnswer(
        replica=message.replica,
        answer=answer(message.response) if message.HasField("response") else None,
        error=message.error.message,
    )


def replica(message: edit_log_pb2.ReplicaPosition) -> types.Replica:
    """Position and state of a replica."""
    return types.Replica(
        name=message.replica,
        role=message.role,
        applied_seq=message.applied_seq,
        lag=message.lag,
        chain_digest=message.chain_digest.hex(),
        state_digest=message.state_digest,
        agrees=message.agrees,
        report_time=message.report_time.ToDatetime(UTC),
        resident={lane: dict(sizes.values) for lane, sizes in message.resident.items()},
    )


def head(message: edit_log_pb2.GetHeadResponse) -> types.Head:
    """The log's head."""
    return types.Head(
        log_id=message.log_id,
        seq=message.head_seq,
        chain_digest=message.chain_digest.hex(),
        floor_seq=message.floor_seq,
        epoch=message.epoch,
    )
