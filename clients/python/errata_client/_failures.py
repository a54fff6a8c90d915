"""Failures that no server explained, said in words: nobody there, somebody else, no answer in time.

gRPC's own texts differ by release and system, so they are never read: the address is looked at.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import Enum, auto

import grpc

from errata_client import errors

_LOOK_SECONDS = 1.0
_WHERE = "target, --target or ERRATA_TARGET"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was tried.

    Attributes:
        target: as the client was given it.
        method: name of the RPC.
        timeout: seconds that it had.
    """

    target: str
    method: str
    timeout: float


class _Seen(Enum):
    """What is to be found at an address."""

    NO_ADDRESS = auto()
    NAMELESS = auto()
    NOBODY = auto()
    SOMEBODY = auto()


def told(error: grpc.RpcError, asked: Asked) -> errors.ErrataError:
    """The error that a failed call stands for; takes a second at most to look who is there."""
    found = errors.from_rpc_error(error)
    if found.reason:
        return found
    match found.code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            seen = _look(asked.target)
            return _too_late(asked) if seen is _Seen.SOMEBODY else _unavailable(asked, seen)
        case grpc.StatusCode.UNAVAILABLE:
            return _unavailable(asked, _look(asked.target))
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.PreconditionError(
                f"what answers at {asked.target} does not know {asked.method}: it is no gateway of "
                f"Errata's, or an older one. Give the gateway's host:port ({_WHERE}).",
                reason="PRECONDITION_FAILED",
                code=found.code,
                metadata={"target": asked.target},
            )
    return found


def _too_late(asked: Asked) -> errors.ErrataError:
    return errors.DeadlineExceededError(
        f"{asked.method} had no answer from {asked.target} within {asked.timeout:g} s; the outcome "
        "is unknown. Allow more time (timeout, --timeout or ERRATA_TIMEOUT), or see with "
        "`errata status` whether the system is well; the same request id is safe to repeat.",
        reason="DEADLINE_EXCEEDED",
        code=grpc.StatusCode.DEADLINE_EXCEEDED,
        metadata={
            "target": asked.target,
            "method": asked.method,
            "timeout_seconds": f"{asked.timeout:g}",
        },
    )


def _unavailable(asked: Asked, seen: _Seen) -> errors.ErrataError:
    match seen:
        case _Seen.NO_ADDRESS:
            message = (
                f"{asked.target!r} is no address; give host:port, such as 127.0.0.1:7700 "
                f"({_WHERE})."
            )
        case _Seen.NAMELESS:
            message = (
                f"the host of {asked.target} is not known; correct the address ({_WHERE}), or the "
                "network's names."
            )
        case _Seen.NOBODY:
            message = (
                f"nothing answers at {asked.target}; is `errata up` running? If it is elsewhere, "
                f"give its host:port ({_WHERE})."
            )
        case _Seen.SOMEBODY:
            message = (
                f"something listens at {asked.target}, but broke the call off: it is no gateway of "
                f"Errata's, or wants TLS, or is just ending. Check the address ({_WHERE}), or try "
                "again."
            )
    return errors.UnavailableError(
        message,
        reason="UNAVAILABLE",
        code=grpc.StatusCode.UNAVAILABLE,
        metadata={"target": asked.target},
    )


def _look(target: str) -> _Seen:
    if target.startswith("unix:"):
        return _Seen.NOBODY
    if target.startswith(("http:", "https:")):
        return _Seen.NO_ADDRESS
    # dns:///host:port, dns:host:port, ipv4:host:port and plain host:port; IPv6 in brackets
    plain = target.rpartition("/")[2].removeprefix("dns:").removeprefix("ipv4:")
    host, _, port = plain.removeprefix("ipv6:").rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        return _Seen.NO_ADDRESS
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK_SECONDS):
            return _Seen.SOMEBODY
    except (socket.gaierror, UnicodeError):
        return _Seen.NAMELESS
    except OSError:
        return _Seen.NOBODY
