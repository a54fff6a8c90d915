"""Explains failures for which no server sent a reason: nothing there, another server, no answer.

gRPC's own texts differ by release and system, so they are never read; the address is probed.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import Enum, auto

import grpc

from errata_client import errors

_PROBE_SECONDS = 1.0
_ADDRESS_OPTIONS = "target, --target or ERRATA_TARGET"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call that was tried.

    Attributes:
        target: the address as it was given to the client.
        method: name of the RPC.
        timeout: its time limit, in seconds.
    """

    target: str
    method: str
    timeout: float


class _Endpoint(Enum):
    """Result of probing an address."""

    NO_ADDRESS = auto()
    UNKNOWN_HOST = auto()
    SILENT = auto()
    LISTENS = auto()


def explain(error: grpc.RpcError, attempt: Attempt) -> errors.ErrataError:
    """Converts a failed call to an error; probing the address takes a second at most."""
    found = errors.from_rpc_error(error)
    if found.reason:
        return found
    match found.code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            endpoint = _probe(attempt.target)
            if endpoint is _Endpoint.LISTENS:
                return _deadline_exceeded(attempt)
            return _unavailable(attempt, endpoint)
        case grpc.StatusCode.UNAVAILABLE:
            return _unavailable(attempt, _probe(attempt.target))
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.PreconditionError(
                f"the server at {attempt.target} does not know {attempt.method}: it is not an "
                "Errata gateway, or it is an older one. Give the gateway's host:port "
                f"({_ADDRESS_OPTIONS}).",
                reason="PRECONDITION_FAILED",
                code=found.code,
                metadata={"target": attempt.target},
            )
    return found


def _deadline_exceeded(attempt: Attempt) -> errors.ErrataError:
    return errors.DeadlineExceededError(
        f"{attempt.method} got no answer from {attempt.target} within {attempt.timeout:g} s; the "
        "outcome is unknown. Allow more time (timeout, --timeout or ERRATA_TIMEOUT), or check the "
        "system with `errata status`; it is safe to repeat the same request id.",
        reason="DEADLINE_EXCEEDED",
        code=grpc.StatusCode.DEADLINE_EXCEEDED,
        metadata={
            "target": attempt.target,
            "method": attempt.method,
            "timeout_seconds": f"{attempt.timeout:g}",
        },
    )


def _unavailable(attempt: Attempt, endpoint: _Endpoint) -> errors.ErrataError:
    match endpoint:
        case _Endpoint.NO_ADDRESS:
            message = (
                f"{attempt.target!r} is not an address; give host:port, such as 127.0.0.1:7700 "
                f"({_ADDRESS_OPTIONS})."
            )
        case _Endpoint.UNKNOWN_HOST:
            message = (
                f"the host of {attempt.target} is unknown; correct the address "
                f"({_ADDRESS_OPTIONS}) or the network's name resolution."
            )
        case _Endpoint.SILENT:
            message = (
                f"nothing answers at {attempt.target}; is `errata up` running? If it runs "
                f"elsewhere, give its host:port ({_ADDRESS_OPTIONS})."
            )
        case _Endpoint.LISTENS:
            message = (
                f"something listens at {attempt.target}, but it broke off the call: it is not "
                "an Errata gateway, it requires TLS (ERRATA_TLS_CA), or it is shutting down. Check "
                f"the address ({_ADDRESS_OPTIONS}), or retry."
            )
    return errors.UnavailableError(
        message,
        reason="UNAVAILABLE",
        code=grpc.StatusCode.UNAVAILABLE,
        metadata={"target": attempt.target},
    )


def _probe(target: str) -> _Endpoint:
    if target.startswith("unix:"):
        return _Endpoint.SILENT
    if target.startswith(("http:", "https:")):
        return _Endpoint.NO_ADDRESS
    # dns:///host:port, dns:host:port, ipv4:host:port and plain host:port; IPv6 in brackets
    plain = target.rpartition("/")[2].removeprefix("dns:").removeprefix("ipv4:")
    host, _, port = plain.removeprefix("ipv6:").rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        return _Endpoint.NO_ADDRESS
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS):
            return _Endpoint.LISTENS
    except (socket.gaierror, UnicodeError):
        return _Endpoint.UNKNOWN_HOST
    except OSError:
        return _Endpoint.SILENT
