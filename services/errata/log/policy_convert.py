"""Entries about policy: proto ↔ domain."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from errata.errors import PreconditionError
from errata.log.chat_convert import chats_in, prompts_of, texts_in
from errata.log.entries import (
    EditsReleased,
    EditsRequested,
    EditsReviewed,
    LanePolicySet,
    ProbesSet,
    Schedule,
    Verdict,
)
from errata.log.signature_convert import signature_message, signature_of
from errata_client._gen.errata.v1 import edit_log_pb2, types_pb2

_VERDICTS = {
    Verdict.APPROVED: edit_log_pb2.EditsReviewed.VERDICT_APPROVED,
    Verdict.REJECTED: edit_log_pb2.EditsReviewed.VERDICT_REJECTED,
    Verdict.WITHDRAWN: edit_log_pb2.EditsReviewed.VERDICT_WITHDRAWN,
}
PolicyPayload = ProbesSet | LanePolicySet | EditsReviewed | EditsReleased


def policy_of(message: edit_log_pb2.EntryPayload) -> PolicyPayload | None:
    """What an entry says about policy; None if it is of another kind.

    Raises:
        PreconditionError: only newer versions know it.
    """
    match message.WhichOneof("kind"):
        case "probes_set":
            return ProbesSet(prompts_of(message.probes_set.prompts, message.probes_set.chats))
        case "lane_policy_set":
            policy = message.lane_policy_set
            return LanePolicySet(policy.lane, policy.requires_approval, signature_of(policy))
        case "edits_reviewed":
            return _reviewed(message.edits_reviewed)
        case "edits_released":
            return EditsReleased(tuple(message.edits_released.edits))
        case _:
            return None


def scheduled_of(requested: EditsRequested, message: edit_log_pb2.EditsRequested) -> EditsRequested:
    """A request with the times that its message has."""
    return replace(requested, schedules=tuple(map(schedule_of, message.edits)))


def schedule_of(message: types_pb2.EditSpec) -> Schedule:
    """When an edit begins and ends.

    Raises:
        ValueError, OverflowError: a time that cannot be represented.
    """
    return Schedule(
        *(
            getattr(message, name).ToDatetime(UTC) if message.HasField(name) else None
            for name in ("effective_from", "expires_at")
        )
    )


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time to send; None stays unset."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message


def _reviewed(message: edit_log_pb2.EditsReviewed) -> EditsReviewed:
    verdict = next((own for own, value in _VERDICTS.items() if value == message.verdict), None)
    if verdict is None:
        raise PreconditionError(
            f"a review has the verdict {message.verdict}, which this version does not know. "
            "Upgrade this process; it stays at the entry before.",
        )
    return EditsReviewed(
        tuple(message.edits), verdict, message.comment, message.reviewer, signature_of(message)
    )


def put_policy(message: edit_log_pb2.EntryPayload, payload: PolicyPayload) -> None:
    """Makes a message that of an entry about policy."""
    match payload:
        case ProbesSet(prompts=prompts):
            message.probes_set.prompts.extend(texts_in(prompts))
            message.probes_set.chats.extend(chats_in(prompts))
            message.probes_set.SetInParent()  # also if it is empty
        case LanePolicySet():
            message.lane_policy_set.CopyFrom(
                edit_log_pb2.LanePolicySet(
                    lane=payload.lane,
                    requires_approval=payload.requires_approval,
                    signature=signature_message(payload.signature),
                )
            )
        case EditsReleased(edits=edits):
            message.edits_released.edits.extend(edits)
        case EditsReviewed():
            message.edits_reviewed.CopyFrom(
                edit_log_pb2.EditsReviewed(
                    edits=payload.edits,
                    verdict=_VERDICTS[payload.verdict],
                    comment=payload.comment,
                    reviewer=payload.reviewer,
                    signature=signature_message(payload.signature),
                )
            )
