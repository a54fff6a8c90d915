"""From a failed call to the log service back to the error that it stands for."""

from __future__ import annotations

import grpc

from errata import errors
from errata_client.errors import from_rpc_error

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


def service_error(error: grpc.RpcError) -> errors.ErrataError:
    """The error that a service raised before it crossed the wire.

    Returns:
        The class that the status's reason names; without a known reason a `LogUnavailableError`
        where a retry may help, else a bare `ErrataError` (no permission, unknown method, …).
    """
    told = from_rpc_error(error)
    kind = _classes().get(told.reason)
    if kind is None:
        kind = errors.LogUnavailableError if told.code in _TRANSPORT_CODES else errors.ErrataError
        return kind(f"the log service answered {told.code.name}: {told.message}.")
    rebuilt = kind(told.message, field=told.field)
    rebuilt.metadata = told.metadata
    return rebuilt


def _classes() -> dict[str, type[errors.ErrataError]]:
    """Classes by reason; where a class and its child share one, the child, which says more."""
    found: dict[str, type[errors.ErrataError]] = {}
    pending: list[type[errors.ErrataError]] = [errors.ErrataError]
    for kind in pending:
        found[kind.reason] = kind
        pending.extend(kind.__subclasses__())
    del found[errors.ErrataError.reason]
    return found
