"""Errors as the services report them, one class for each reason.

`ErrataError.retryable` says whether the same call, with the same request id, may succeed later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "errata.v1"
DETAILS_KEY = "grpc-status-details-bin"


class ErrataError(Exception):
    """Base of all errors that the SDK raises.

    Attributes:
        reason: machine-readable, such as `INVALID_EDIT`; empty if the server sent none.
        code: gRPC status code.
        field: the invalid request field, if there is one.
        metadata: the variable parts of the message.
        retry_after_seconds: how long to wait, if the server sent it.
    """

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds


class InvalidRequestError(ErrataError):
    """The input is invalid; `field` names the field to change."""


class InvalidEditError(InvalidRequestError):
    """A field of an edit is invalid; nothing was accepted."""


class UnknownLaneError(InvalidRequestError):
    """The lane does not exist."""


class NotFoundError(ErrataError):
    """The edit or artifact does not exist."""


class UnauthenticatedError(ErrataError):
    """The call has no credential, or one that is not valid."""


class PermissionDeniedError(ErrataError):
    """The credential does not allow this call, or not in this lane."""


class RequestIdReusedError(ErrataError):
    """The request id was used before with other content."""


class LimitExceededError(ErrataError):
    """The request exceeds a configured limit."""


class LaneFullError(LimitExceededError):
    """The lane has no room for another fact."""


class QueueFullError(LimitExceededError):
    """The queue is full; wait `retry_after_seconds`."""

    retryable = True


class PreconditionError(ErrataError):
    """The call cannot succeed in the present state."""


class EditNotRevertibleError(PreconditionError):
    """The edit is not committed, or already reverted."""


class EpochLostError(ErrataError):
    """A newer writer took over; retry once it serves."""


class OutOfRangeError(ErrataError):
    """The position is below the log's floor or above its head."""


class UnavailableError(ErrataError):
    """The service is unavailable; retry with the same request id."""

    retryable = True


class ReplicaBehindError(UnavailableError):
    """No replica reached `min_seq` before the deadline."""


class DataLossError(ErrataError):
    """The log contradicts what it acknowledged; an operator must intervene."""


class EditRejectedError(ErrataError):
    """The edit was accepted, but could not be fitted or failed its check."""


class DeadlineExceededError(ErrataError):
    """The call's deadline passed; its outcome is unknown, retry with the same request id."""

    retryable = True


_BY_REASON: dict[str, type[ErrataError]] = {
    "INVALID_REQUEST": InvalidRequestError,
    "INVALID_EDIT": InvalidEditError,
    "UNKNOWN_LANE": UnknownLaneError,
    "NOT_FOUND": NotFoundError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "REQUEST_ID_REUSED": RequestIdReusedError,
    "LIMIT_EXCEEDED": LimitExceededError,
    "LANE_FULL": LaneFullError,
    "QUEUE_FULL": QueueFullError,
    "PRECONDITION_FAILED": PreconditionError,
    "EDIT_NOT_REVERTIBLE": EditNotRevertibleError,
    "BASE_MODEL_MISMATCH": PreconditionError,
    "WITNESS_MISSING": PreconditionError,
    "MODEL_UNUSABLE": PreconditionError,
    "MODEL_NOT_FOUND": PreconditionError,
    "MODEL_UNSUPPORTED": PreconditionError,
    "EPOCH_LOST": EpochLostError,
    "SEQ_TRIMMED": OutOfRangeError,
    "SEQ_BEYOND_HEAD": OutOfRangeError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "UNAVAILABLE": UnavailableError,
    "LOG_UNAVAILABLE": UnavailableError,
    "REPLICA_BEHIND": ReplicaBehindError,
    "DATA_LOSS": DataLossError,
    "LOG_BEHIND_WITNESS": DataLossError,
    "IMPOSSIBLE_ENTRY": DataLossError,
    "ARTIFACT_CORRUPT": DataLossError,
    "COMMIT_NOT_TRUSTED": DataLossError,
    "FIT_FAILED": EditRejectedError,
    "SINGULAR_COVARIANCE": EditRejectedError,
    "CHECK_FAILED": EditRejectedError,
    "STARTUP_FAILED": PreconditionError,
    "INTERNAL": ErrataError,
}

_BY_CODE: dict[grpc.StatusCode, type[ErrataError]] = {
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
}


def known_reasons() -> frozenset[str]:
    """Every reason that is mapped to a class."""
    return frozenset(_BY_REASON)


def from_status(status: status_pb2.Status) -> ErrataError:
    """Converts a rich status to an error; an unknown reason gets the class of its code."""
    code = next((c for c in grpc.StatusCode if c.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    reason = ""
    metadata: dict[str, str] = {}
    field: str | None = None
    delay: float | None = None
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if packed.Unpack(info) and info.domain == DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        elif packed.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, ErrataError)
    return kind(
        status.message,
        reason=reason,
        code=code,
        field=field,
        metadata=metadata,
        retry_after_seconds=delay,
    )


def from_rpc_error(error: grpc.RpcError) -> ErrataError:
    """Converts a failed call to an error."""
    code: grpc.StatusCode = getattr(error, "code", lambda: grpc.StatusCode.UNKNOWN)()
    details: str = getattr(error, "details", lambda: None)() or str(error)
    metadata: Any = getattr(error, "trailing_metadata", tuple)() or ()
    packed = next((value for key, value in metadata if key == DETAILS_KEY), None)
    if isinstance(packed, bytes):
        try:
            return from_status(status_pb2.Status.FromString(packed))
        except DecodeError:
            pass  # a proxy damaged the details; code and message are still valid
    return _BY_CODE.get(code, ErrataError)(details, code=code)
