"""The state of a client between calls, and the outcome of an edit."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from errata_client import errors
from errata_client._gen.errata.v1 import (
    catalog_pb2_grpc,
    edit_log_pb2_grpc,
    editing_pb2_grpc,
    inference_pb2_grpc,
)
from errata_client.types import Edit, EditState

_STUBS = {
    "CatalogService": catalog_pb2_grpc.CatalogServiceStub,
    "EditLogService": edit_log_pb2_grpc.EditLogServiceStub,
    "EditingService": editing_pb2_grpc.EditingServiceStub,
    "InferenceService": inference_pb2_grpc.InferenceServiceStub,
}


class Session:
    """The highest position whose effect this client has seen; its reads never go below it."""

    def __init__(self) -> None:
        self.last_seq = 0

    def saw(self, edits: Iterable[Edit]) -> None:
        """Records commits and reversals."""
        for edit in edits:
            self.last_seq = max(self.last_seq, edit.commit_seq, edit.revert_seq)

    def min_seq(self, given: int | None) -> int | None:
        """The position to request: the caller's, or else the highest one seen, if any."""
        return given if given is not None else (self.last_seq or None)


def stubs(channel: grpc.Channel | grpc.aio.Channel) -> dict[str, object]:
    """One stub for each service, synchronous or asynchronous like the channel."""
    return {name: make(channel) for name, make in _STUBS.items()}


def ensure_committed(edit: Edit) -> Edit:
    """Returns the edit if it took effect, or waits for a decision or a time.

    Raises:
        EditRejectedError: it was accepted, but could not be fitted or failed its check.
        DeadlineExceededError: it is not settled yet; wait again.
    """
    if edit.state is EditState.REJECTED:
        raise errors.EditRejectedError(
            f"{edit.name} was rejected: {edit.error}",
            reason=edit.reason,
            metadata={"edit": edit.name},
        )
    if not edit.state.settled and not edit.state.waits:
        raise errors.DeadlineExceededError(
            f"{edit.name} is not settled yet; call wait_edits([{edit.name!r}]) again.",
            reason="DEADLINE_EXCEEDED",
            code=grpc.StatusCode.DEADLINE_EXCEEDED,
            metadata={"edit": edit.name},
        )
    return edit
