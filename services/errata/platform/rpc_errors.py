"""From a failed call to a service back to the error that it stands for."""

from __future__ import annotations

import grpc

from errata import errors
from errata_client import errors as client_errors

# What carries no reason comes from the transport, not from a service.
_TRANSPORT_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)


def service_error(
    error: grpc.RpcError,
    service: str = "the log service",
    unavailable: type[errors.UnavailableError] = errors.LogUnavailableError,
) -> errors.ErrataError:
    """The error that a service raised before it crossed the wire.

    Args:
        error: of the call.
        service: for the message.
        unavailable: what a failed transport is.

    Returns:
        The class that the status's reason names; without a known reason `unavailable` where a
        retry may help, else a bare `ErrataError` (no permission, unknown method, …).
    """
    told = client_errors.from_rpc_error(error)
    if told.reason in _by_reason():
        return rebuilt(told)
    transport = told.code in _TRANSPORT_CODES
    kind = unavailable if transport else errors.ErrataError
    return kind(f"{service} answered {told.code.name}: {told.message}.")


def error_classes() -> list[type[errors.ErrataError]]:
    """Every class of the tree below `ErrataError`, parents before their children."""
    found: list[type[errors.ErrataError]] = []
    level = errors.ErrataError.__subclasses__()
    while level:
        found += level
        level = [leaf for kind in level for leaf in kind.__subclasses__()]
    return found


def _by_reason() -> dict[str, type[errors.ErrataError]]:
    """Classes by reason; where a class and its child share one, the child, which says more."""
    return {kind.reason: kind for kind in error_classes()}


def rebuilt(told: client_errors.ErrataError) -> errors.ErrataError:
    """The service's error for the client's; an unknown reason gives the base class."""
    kind = _by_reason().get(told.reason, errors.ErrataError)
    error = kind(told.message, field=told.field)
    error.metadata = told.metadata
    return error
