"""An edit as the bytes of its message, which the catalog keeps, and what entries change in them."""

from __future__ import annotations

from collections.abc import Callable

from errata.errors import ErrataError
from errata.log.entries import EditsCommitted, Figures, Rejection
from errata.log.payload_convert import figures_message, ref_message
from errata.platform.status_convert import to_status
from errata.writer.convert import STATES, edit_message, review_message
from errata.writer.record import EditRecord, Review, State
from errata_client._gen.errata.v1 import editing_pb2


def edit_bytes(record: EditRecord, method: str) -> bytes:
    """An edit as the writer knows it."""
    return edit_message(record, method, "").SerializeToString()


def with_state(data: bytes, state: State) -> bytes:
    """The edit in another state."""
    return _changed(data, state, lambda _: None)


def with_commit(
    data: bytes, state: State, seq: int, figures: Figures, commit: EditsCommitted
) -> bytes:
    """The edit with the entry that committed it."""

    def change(message: editing_pb2.Edit) -> None:
        message.commit_seq = seq
        message.figures.CopyFrom(figures_message(figures))
        message.artifact.CopyFrom(ref_message(commit.artifact))
        message.base_model_digest = commit.base_model_digest

    return _changed(data, state, change)


def with_rejection(rejection: Rejection, data: bytes, state: State) -> bytes:
    """The edit with the reason of its rejection."""

    def change(message: editing_pb2.Edit) -> None:
        message.error.CopyFrom(to_status(rejection.error))
        if rejection.figures is not None:
            message.figures.CopyFrom(figures_message(rejection.figures))

    return _changed(data, state, change)


def with_reversal(data: bytes, state: State, seq: int) -> bytes:
    """The edit without effect from `seq` on."""

    def change(message: editing_pb2.Edit) -> None:
        message.revert_seq = seq

    return _changed(data, state, change)


def with_review(review: Review, error: ErrataError | None, data: bytes, state: State) -> bytes:
    """The edit with a decision on it."""

    def change(message: editing_pb2.Edit) -> None:
        message.review.CopyFrom(review_message(review))
        if error is not None:
            message.error.CopyFrom(to_status(error))

    return _changed(data, state, change)


def _changed(data: bytes, state: State, change: Callable[[editing_pb2.Edit], None]) -> bytes:
    message = editing_pb2.Edit.FromString(data)
    message.state = STATES[state]
    change(message)
    return message.SerializeToString()
