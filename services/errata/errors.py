"""All errors with a reason that a user or operator can act on.

The tree is independent of gRPC; only `errata.platform.status` maps it to statuses. Each class has a
`reason`, a value of `ErrorReason` in `protos/errata/v1/types.proto`, which the client shares. The
variable parts of a message are also in `metadata`.

    ErrataError
    ├── InvalidInputError            cannot succeed: change the input
    │   ├── InvalidEditError         a field of an edit is unusable
    │   ├── InvalidRequestError      a field of any other request is unusable
    │   └── UnknownLaneError         no such lane
    ├── NotFoundError                no such edit or artifact
    ├── UnauthenticatedError         no valid credential
    ├── PermissionDeniedError        the caller's roles or lanes do not allow it
    ├── RequestIdReusedError         the same request id with other content
    ├── LimitExceededError           more than a configured limit
    │   ├── LaneFullError            a lane has no room for the edits
    │   └── QueueFullError           the queue is full; retry after a delay
    ├── PreconditionError            cannot succeed in the present state
    │   ├── EditNotRevertibleError   the edit is not committed, or already reverted
    │   ├── BaseModelMismatchError   an artifact or log of another base model
    │   └── LogNotEmptyError         the log has entries, but no witness file
    ├── ModelError                   a model that cannot be used
    │   ├── ModelNotFoundError       no model at that path or id
    │   └── UnsupportedModelError    not a causal LM, or an unsupported architecture
    ├── EpochLostError               a newer writer took over
    ├── SeqTrimmedError              a position below the log's floor
    ├── SeqBeyondHeadError           a position above the log's head
    ├── DeadlineExceededError        no answer before the caller's deadline
    ├── UnavailableError             a retry may succeed
    │   ├── LogUnavailableError      the log's Redis or service cannot be reached
    │   └── ReplicaBehindError       no replica reached `min_seq` before the deadline
    ├── DataLossError                the log or the store contradicts what was acknowledged
    │   ├── LogBehindWitnessError    the log's head is behind or differs from its witness
    │   ├── ImpossibleEntryError     an entry that contradicts the entries before it
    │   ├── CommitNotTrustedError    a commit that no trusted key signed
    │   └── ArtifactCorruptError     bytes that do not match their digest, or are not an artifact
    ├── FitError                     an edit or batch that cannot be fitted
    │   ├── SingularCovarianceError  the closed-form system cannot be factorised
    │   └── CheckFailedError         fitted, but failed its check
    └── StartupError                 a process that cannot start (port in use, no Redis, …)
"""

from __future__ import annotations

import traceback
from typing import Any, ClassVar

_MAX_MESSAGE_CHARS = 200


def traceback_of(error: BaseException) -> str:
    """Where an unexpected error occurred, for a log: frames, type and the start of its message.

    Omits the frames' variables and the messages of Errata's own errors, because both can contain
    prompts. Causes come first.
    """
    inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [] if inner is None else [traceback_of(inner), ""]
    lines += "".join(traceback.format_tb(error.__traceback__)).splitlines()
    name = type(error).__name__
    if isinstance(error, ErrataError):
        lines.append(f"{name} [{error.reason}]")
    else:
        first = str(error).strip().partition("\n")[0]
        lines.append(f"{name}: {first[:_MAX_MESSAGE_CHARS]}")
    if isinstance(error, BaseExceptionGroup):
        lines += [line for each in error.exceptions for line in ("", traceback_of(each))]
    return "\n".join(lines)


class ErrataError(Exception):
    """Base of all errors with a reason.

    Args:
        message: names the subject, the limit and the remedy.
        field: the field at fault, as a path such as `edits[3].target`, relative to what the raiser
            was given.
        metadata: the variable parts of the message, kept as strings for programs.
    """

    reason: ClassVar[str] = "UNSPECIFIED"

    def __init__(self, message: str, *, field: str | None = None, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.metadata = {name: str(value) for name, value in metadata.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps every attribute when the error crosses a process boundary."""
        return type(self), (self.message,), self.__dict__


class InvalidInputError(ErrataError):
    """The input cannot succeed, now or later."""

    reason = "INVALID_REQUEST"


class InvalidEditError(InvalidInputError):
    """A field of an edit is unusable; nothing was appended."""

    reason = "INVALID_EDIT"


class InvalidRequestError(InvalidInputError):
    """A field of a request is unusable; nothing was done."""

    reason = "INVALID_REQUEST"


class UnknownLaneError(InvalidInputError):
    """The request names a lane that is not configured."""

    reason = "UNKNOWN_LANE"


class NotFoundError(ErrataError):
    """The named edit or artifact does not exist."""

    reason = "NOT_FOUND"


class UnauthenticatedError(ErrataError):
    """The call has no credential, or one that is not valid."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(ErrataError):
    """The caller is known, and may not do this."""

    reason = "PERMISSION_DENIED"


class RequestIdReusedError(ErrataError):
    """The request id was used for other content; `first_seq` is in the metadata."""

    reason = "REQUEST_ID_REUSED"


class LimitExceededError(ErrataError):
    """More than a configured limit; smaller requests succeed."""

    reason = "LIMIT_EXCEEDED"


class LaneFullError(LimitExceededError):
    """The lane has no room for this batch; active edits stay as they are.

    Args:
        message, field, metadata: as for every error.
        lane_is_full: the lane has no room for any further edit, so a smaller batch fails too.
    """

    reason = "LANE_FULL"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        lane_is_full: bool = False,
        **metadata: object,
    ) -> None:
        super().__init__(message, field=field, **metadata)
        self.lane_is_full = lane_is_full


class QueueFullError(LimitExceededError):
    """The queue is full; retry after `retry_after_seconds`."""

    reason = "QUEUE_FULL"

    @property
    def retry_after_seconds(self) -> float | None:
        """When a retry makes sense; clients get it as `google.rpc.RetryInfo`."""
        seconds = self.metadata.get("retry_after_seconds")
        return None if seconds is None else float(seconds)


class PreconditionError(ErrataError):
    """The request cannot succeed in the present state."""

    reason = "PRECONDITION_FAILED"


class EditNotRevertibleError(PreconditionError):
    """The edit is not committed yet, was rejected, or is already reverted."""

    reason = "EDIT_NOT_REVERTIBLE"


class BaseModelMismatchError(PreconditionError):
    """The log or the artifact belongs to another base model."""

    reason = "BASE_MODEL_MISMATCH"


class LogNotEmptyError(PreconditionError):
    """The log has entries, but its witness file is missing."""

    reason = "WITNESS_MISSING"


class ModelError(ErrataError):
    """The model cannot be used."""

    reason = "MODEL_UNUSABLE"


class ModelNotFoundError(ModelError):
    """No model exists at the path or hub id."""

    reason = "MODEL_NOT_FOUND"


class UnsupportedModelError(ModelError):
    """The model is not a causal LM, or its architecture is not supported."""

    reason = "MODEL_UNSUPPORTED"


class EpochLostError(ErrataError):
    """A newer writer holds the epoch; nothing was appended."""

    reason = "EPOCH_LOST"


class SeqTrimmedError(ErrataError):
    """The position is below the log's floor."""

    reason = "SEQ_TRIMMED"


class SeqBeyondHeadError(ErrataError):
    """The position is above the log's head."""

    reason = "SEQ_BEYOND_HEAD"


class DeadlineExceededError(ErrataError):
    """The caller's deadline passed before the answer was complete."""

    reason = "DEADLINE_EXCEEDED"


class UnavailableError(ErrataError):
    """A retry may succeed; use the same request id.

    Args:
        message, field, metadata: as for every error.
        only_by_caller: whether a retry is the caller's decision, so that no channel or SDK may
            repeat the call by itself; the class's own value if None.
    """

    reason = "UNAVAILABLE"
    only_by_caller: bool = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        only_by_caller: bool | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message, field=field, **metadata)
        if only_by_caller is not None:
            self.only_by_caller = only_by_caller


class LogUnavailableError(UnavailableError):
    """The edit log or its Redis cannot be reached; nothing was acknowledged."""

    reason = "LOG_UNAVAILABLE"


class ReplicaBehindError(UnavailableError):
    """The replica did not reach `min_seq` before the deadline."""

    reason = "REPLICA_BEHIND"
    only_by_caller = True  # waiting used up the deadline; a retry would hide the reason


class DataLossError(ErrataError):
    """Stored data contradicts what was acknowledged; an operator must act."""

    reason = "DATA_LOSS"


class LogBehindWitnessError(DataLossError):
    """The log's head is behind its witness, or has another digest."""

    reason = "LOG_BEHIND_WITNESS"


class ImpossibleEntryError(DataLossError):
    """An entry contradicts those before it; readers stop there until `errata log repair` voids it.

    `seq` and `problem` are in the metadata.
    """

    reason = "IMPOSSIBLE_ENTRY"


class ArtifactCorruptError(DataLossError):
    """The artifact's bytes do not match its digest, or its content is not allowed."""

    reason = "ARTIFACT_CORRUPT"


class CommitNotTrustedError(DataLossError):
    """No key that is trusted at its position signed the entry; a replica stops before it."""

    reason = "COMMIT_NOT_TRUSTED"


class FitError(ErrataError):
    """The edit or batch cannot be fitted; the model is unchanged."""

    reason = "FIT_FAILED"


class SingularCovarianceError(FitError):
    """The closed-form system cannot be factorised; no weight has changed."""

    reason = "SINGULAR_COVARIANCE"


class CheckFailedError(FitError):
    """The edit was fitted, but its reliability or locality is too low."""

    reason = "CHECK_FAILED"


class StartupError(ErrataError):
    """The process cannot start; the message says what to change.

    Args:
        message, field, metadata: as for every error.
        remedy: what to change, in a few words for `errata doctor`; can be empty.
    """

    reason = "STARTUP_FAILED"

    def __init__(
        self, message: str, *, field: str | None = None, remedy: str = "", **metadata: object
    ) -> None:
        super().__init__(message, field=field, **metadata)
        self.remedy = remedy
