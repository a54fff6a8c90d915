"""Restores the error that a service raised from the status of a failed call."""

from __future__ import annotations

import grpc

from errata import errors
from errata_client import errors as client_errors

# A status with one of these codes and no reason comes from the transport, not from a service.
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
    """The error that a service raised, rebuilt from a failed call.

    Args:
        error: of the call.
        service: named in the message.
        unavailable: the class for a failed transport.

    Returns:
        An error of the class that the status's reason names. Without a known reason: `unavailable`
        where a retry can help, else a plain `ErrataError` (no permission, unknown method, …).
    """
    received = client_errors.from_rpc_error(error)
    if received.reason in _by_reason():
        return rebuilt(received)
    transport = received.code in _TRANSPORT_CODES
    kind = unavailable if transport else errors.ErrataError
    return kind(f"{service} answered {received.code.name}: {received.message}.")


def error_classes() -> list[type[errors.ErrataError]]:
    """Every class of the tree below `ErrataError`, parents before their children.

    Ray makes subclasses of its own for errors of its tasks; they are not in the tree.
    """
    found: list[type[errors.ErrataError]] = []
    level = errors.ErrataError.__subclasses__()
    while level:
        found += level
        level = [leaf for kind in level for leaf in kind.__subclasses__()]
    return [kind for kind in found if kind.__module__ == errors.__name__]


def _by_reason() -> dict[str, type[errors.ErrataError]]:
    """Classes by reason; if a class and its subclass share a reason, the subclass."""
    return {kind.reason: kind for kind in error_classes()}


def rebuilt(received: client_errors.ErrataError) -> errors.ErrataError:
    """The service's error for a client's error; an unknown reason gives the base class."""
    kind = _by_reason().get(received.reason, errors.ErrataError)
    error = kind(received.message, field=received.field)
    error.metadata = received.metadata
    return error
