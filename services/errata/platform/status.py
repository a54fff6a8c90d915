"""The only map from Errata's errors to gRPC status codes."""

from __future__ import annotations

import grpc

from errata import errors

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"  # a negative value stops retries by the client's channel

# The nearest mapped ancestor decides, so a new subclass has a status from the start.
CODES: dict[type[errors.ErrataError], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.RequestIdReusedError: grpc.StatusCode.ALREADY_EXISTS,
    errors.LimitExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EpochLostError: grpc.StatusCode.ABORTED,
    errors.SeqTrimmedError: grpc.StatusCode.OUT_OF_RANGE,
    errors.SeqBeyondHeadError: grpc.StatusCode.OUT_OF_RANGE,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DataLossError: grpc.StatusCode.DATA_LOSS,
    errors.FitError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StartupError: grpc.StatusCode.FAILED_PRECONDITION,
}


def code_of(kind: type[errors.ErrataError]) -> grpc.StatusCode:
    """The gRPC code of an error class.

    Raises:
        KeyError: the class has no mapped ancestor; a test checks that every class has one.
    """
    for ancestor in kind.__mro__:
        if ancestor in CODES:
            return CODES[ancestor]
    raise KeyError(kind.__name__)
