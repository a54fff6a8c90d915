"""Messages of gRPC's health protocol."""

from __future__ import annotations

from grpc_health.v1 import health_pb2

HEALTH_SERVICE: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_STATES = health_pb2.HealthCheckResponse.ServingStatus


def health_state(serving: bool) -> int:
    """The protocol's value for a service that serves, or does not."""
    return int(_STATES.Value("SERVING" if serving else "NOT_SERVING"))


def check_request() -> health_pb2.HealthCheckRequest:
    """Asks about the server as a whole."""
    return health_pb2.HealthCheckRequest()


def state_name(response: health_pb2.HealthCheckResponse) -> str:
    """`SERVING`, `NOT_SERVING` or another state of the protocol."""
    return str(_STATES.Name(response.status))
