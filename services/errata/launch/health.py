"""Reads the health of services by gRPC's health protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from errata.platform.health_convert import check_request, state_name
from errata.platform.server import open_blocking_channel
from errata.platform.settings import SecuritySettings
from errata_client._credentials import blocking_channel


class HealthProbe:
    """Asks one service, over a channel that stays open."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Asks over `channel`."""
        self._stub: Any = health_pb2_grpc.HealthStub(channel)

    def state(self, timeout_seconds: float) -> str:
        """`SERVING`, `NOT_SERVING`, or the code of a call that failed."""
        try:
            return state_name(self._stub.Check(check_request(), timeout=timeout_seconds))
        except grpc.RpcError as error:
            return str(error.code().name)


def health_channel(
    address: str,
    options: Sequence[tuple[str, Any]] = (),
    settings: SecuritySettings | None = None,
) -> grpc.Channel:
    """A channel with the certificate that settings name, or with the environment's credentials."""
    if settings is not None and settings.has_tls:
        return open_blocking_channel(address, options, settings)
    return blocking_channel(address, options)


def health_of(
    address: str, timeout_seconds: float, settings: SecuritySettings | None = None
) -> str:
    """The state of the service at an address, as `HealthProbe.state`."""
    with health_channel(address, settings=settings) as channel:
        return HealthProbe(channel).state(timeout_seconds)
