"""Editing messages: proto ↔ domain."""

from __future__ import annotations

from datetime import UTC, datetime

from errata.editing.lane.contract import LaneReport
from errata.editing.namespaces import DEFAULT, namespace_of
from errata.errors import InvalidEditError, InvalidRequestError
from errata.log.chat_convert import chat_of, prompts_of
from errata.log.entries import LaneConfigured
from errata.log.payload_convert import figures_message, ref_message
from errata.log.policy_convert import schedule_of
from errata.log.request_convert import spec_message
from errata.platform.status_convert import to_status
from errata.writer.compaction import DEFAULT_MAX_LOSS, Compacted, CompactionOptions
from errata.writer.filters import EditFilter
from errata.writer.intake import Draft
from errata.writer.record import EditRecord, Review, State
from errata.writer.reversals import reversal_meaning
from errata_client._gen.errata.v1 import editing_pb2, types_pb2

STATES = {
    State.REQUESTED: editing_pb2.Edit.STATE_REQUESTED,
    State.FITTING: editing_pb2.Edit.STATE_FITTING,
    State.COMMITTED: editing_pb2.Edit.STATE_COMMITTED,
    State.REJECTED: editing_pb2.Edit.STATE_REJECTED,
    State.REVERTED: editing_pb2.Edit.STATE_REVERTED,
    State.PROPOSED: editing_pb2.Edit.STATE_PROPOSED,
    State.SCHEDULED: editing_pb2.Edit.STATE_SCHEDULED,
    State.WITHDRAWN: editing_pb2.Edit.STATE_WITHDRAWN,
}


def draft(index: int, message: types_pb2.EditSpec, unnamed: str = DEFAULT) -> Draft:
    """An edit as the client sent it, with the namespace in its canonical form.

    Args:
        index: of the edit in its request.
        message: that the client sent.
        unnamed: the namespace if it names none.

    Raises:
        InvalidEditError: a time that cannot be represented, or an impossible namespace.
    """
    field = f"edits[{index}].namespace"
    try:
        namespace = namespace_of(message.namespace, field) if message.namespace else unnamed
    except InvalidRequestError as error:
        raise InvalidEditError(error.message, field=field) from error
    try:
        times = schedule_of(message)
    except (OverflowError, ValueError) as error:
        raise InvalidEditError(
            f"edits[{index}] has no valid time: {error}.", field=f"edits[{index}]"
        ) from error
    return Draft(
        prompt=message.prompt,
        chat=chat_of(message.chat) if message.HasField("chat") else None,
        target=message.target,
        subject=message.subject,
        rephrases=prompts_of(message.rephrases, message.chat_rephrases),
        locality_probes=prompts_of(message.locality_probes, message.chat_locality_probes),
        source=message.source,
        separator=message.separator if message.HasField("separator") else None,
        times=times,
        namespace=namespace,
        canary=message.canary,
    )


def state_of(value: int) -> State | None:
    """The state that a filter names; None for unspecified or unknown values."""
    return next((state for state, number in STATES.items() if number == value), None)


def edit_filter(request: editing_pb2.ListEditsRequest) -> EditFilter:
    """Which edits the client wants to see.

    Raises:
        InvalidRequestError: a state that is unknown, a time that cannot be represented, or an
            impossible namespace.
    """
    state = state_of(request.state)
    if state is None and request.state != editing_pb2.Edit.STATE_UNSPECIFIED:
        raise InvalidRequestError(f"state {request.state} is unknown.", field="state")
    return EditFilter(
        state=state,
        lane=request.lane,
        author=request.author,
        from_time=_time(request, "from_time"),
        until_time=_time(request, "until_time"),
        contains=request.contains,
        namespace=(
            namespace_of(request.namespace, "namespace") if request.HasField("namespace") else None
        ),
        canary=request.canary,
    )


def _time(request: editing_pb2.ListEditsRequest, field: str) -> datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    try:
        found: datetime = getattr(request, field).ToDatetime(UTC)
    except (OverflowError, ValueError) as error:
        raise InvalidRequestError(f"{field} is not a valid time: {error}.", field=field) from error
    return found


def edit_message(record: EditRecord, method: str, superseded_by: str) -> editing_pb2.Edit:
    """An edit and its state."""
    message = editing_pb2.Edit(
        name=record.edit.name,
        state=STATES[record.state],
        spec=spec_message(record.edit, record.source, record.subject_found, record.times),
        lane=record.lane,
        author=record.author,
        commit_seq=record.commit_seq,
        revert_seq=record.revert_seq,
        figures=figures_message(record.figures) if record.figures else None,
        artifact=ref_message(record.artifact) if record.artifact else None,
        method=method,
        base_model_digest=record.base_model_digest,
        error=to_status(record.error) if record.error else None,
        superseded_by=superseded_by,
        on_behalf_of=record.on_behalf_of,
        review=review_message(record.review) if record.review else None,
    )
    message.request_time.FromDatetime(record.request_time)
    return message


def review_message(review: Review) -> editing_pb2.Review:
    """A decision on an edit."""
    message = editing_pb2.Review(seq=review.seq, reviewer=review.reviewer, comment=review.comment)
    message.time.FromDatetime(review.time)
    return message


def lane_message(
    seq: int,
    lane: LaneConfigured,
    default_lane: str,
    report: LaneReport,
    *,
    requires_approval: bool,
) -> editing_pb2.Lane:
    """A lane and what it contains."""
    return editing_pb2.Lane(
        name=lane.lane,
        method=lane.method,
        config_json=lane.config_json,
        config_digest=lane.config_digest,
        base_model_digest=lane.base_model_digest,
        configured_seq=seq,
        is_default=lane.lane == default_lane,
        reversal=reversal_meaning(lane),
        sizes=report.sizes,
        warnings=report.warnings,
        requires_approval=requires_approval,
    )


def order(request: editing_pb2.CompactLaneRequest) -> CompactionOptions:
    """How the client wants a lane compacted.

    Raises:
        InvalidRequestError: a number is out of range.
    """
    max_loss = request.max_loss if request.HasField("max_loss") else DEFAULT_MAX_LOSS
    if not 0.0 <= max_loss <= 1.0:
        raise InvalidRequestError("max_loss must be between 0 and 1.", field="max_loss")
    if request.num_experts < 0:
        raise InvalidRequestError("num_experts must not be negative.", field="num_experts")
    return CompactionOptions(request.num_experts, max_loss)


def compacted_message(seq: int, made: Compacted | None) -> editing_pb2.CompactLaneResponse:
    """The position and the figures of a compaction; without figures if it was an earlier one."""
    if made is None:
        return editing_pb2.CompactLaneResponse(seq=seq)
    return editing_pb2.CompactLaneResponse(
        seq=seq,
        before=figures_message(made.before),
        after=figures_message(made.after),
        sizes_before=made.sizes_before,
    )
