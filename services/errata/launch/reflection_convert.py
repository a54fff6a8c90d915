"""Messages of gRPC's reflection protocol."""

from __future__ import annotations

from grpc_reflection.v1alpha import reflection_pb2


def list_services_request() -> reflection_pb2.ServerReflectionRequest:
    """Asks which services a server has."""
    return reflection_pb2.ServerReflectionRequest(list_services="")


def service_names(response: reflection_pb2.ServerReflectionResponse) -> set[str]:
    """Full names of the services that a server listed."""
    return {service.name for service in response.list_services_response.service}
