"""Reads the health of services by gRPC's health protocol."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from errata.platform.health_convert import check_request, state_name


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


def health_of(address: str, timeout_seconds: float) -> str:
    """The state of the service at an address, as `HealthProbe.state`."""
    with grpc.insecure_channel(address) as channel:
        return HealthProbe(channel).state(timeout_seconds)
