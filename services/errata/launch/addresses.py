"""Checks of addresses: free, used by Errata or by another program, or on another machine."""

from __future__ import annotations

import errno
import http.client
import socket
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from errata.launch.findings import Finding
from errata.launch.health import health_channel, health_of
from errata.launch.reflection_convert import list_services_request, service_names
from errata.platform.addresses import host_and_port
from errata.platform.security.transport import client_context
from errata.platform.settings import SecuritySettings, Settings

_SERVICES = ("log", "writer", "retrieval", "catalog", "gateway")
_SECONDS = 2.0
# Each service by a gRPC service that only it has; the gateway first, because it forwards others.
_KINDS = {
    "gateway": "errata.v1.InferenceService",
    "catalog": "errata.v1.CatalogService",
    "writer": "errata.v1.EditingService",
    "log": "errata.v1.EditLogService",
    "retrieval": "errata.v1.RetrievalService",
}
_OTHER_BOX = "a second system on this machine: `errata up --port 7800 --data-dir DIR`"


class _AddressState(Enum):
    """The state of an address."""

    ANSWERED = auto()
    FREE = auto()  # on this machine and unused
    HELD = auto()  # on this machine and used, but nothing answers
    SILENT = auto()  # on another machine, and nothing answers
    UNKNOWN_HOST = auto()  # the host's name does not resolve


def check_addresses(settings: Settings) -> Iterator[Finding]:
    """One finding for each address that the settings name."""
    services = {f"{name}.address": getattr(settings, name).address for name in _SERVICES}
    for name, address in services.items():
        yield _service(name, address)
    asked = settings.worker.retrieval_address
    if asked and asked != settings.retrieval.address:
        yield _service("worker.retrieval_address", asked)
    yield _ray("worker.ray_address", settings.worker.ray_address)
    if settings.gateway.ray_address not in ("local", settings.worker.ray_address):
        yield _ray("gateway.ray_address", settings.gateway.ray_address)
    if address := settings.gateway.http_address:
        served = "the HTTP API of Errata answers"
        yield _http("gateway.http_address", address, "/health", served, settings.security)
    for name in (*_SERVICES, "worker"):
        if address := getattr(settings, name).metrics_address:
            served = "metrics of Errata are served"
            yield _http(f"{name}.metrics_address", address, "/metrics", served, settings.security)


def _service(name: str, address: str) -> Finding:
    state = _state_of(address)
    if state is not _AddressState.ANSWERED:
        return _unanswered(name, address, state)
    kind = service_at(address)
    if not kind:
        found = f"{address} is taken by a program that is not Errata"
        return Finding("fail", name, found, f"stop it, or set {name}")
    expected = name.partition(".")[0].replace("worker", "retrieval")
    if kind != expected:
        found = f"{address} is taken by an Errata {kind} service, not by a {expected} service"
        return Finding("fail", name, found, f"correct {name}, or stop what runs there")
    if health_of(address, _SECONDS) != "SERVING":
        remedy = "wait while it catches up; if it does not, its last log lines give the reason"
        found = f"{address} is in use by an Errata {kind} service, which is not ready"
        return Finding("warn", name, found, remedy)
    found = f"{address} is in use by an Errata {kind} service, which is healthy"
    return Finding("ok", name, found, _OTHER_BOX if kind == "gateway" else "")


def service_at(address: str) -> str:
    """The name of the Errata service that answers at an address; empty if none does."""
    with health_channel(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        try:
            (answer,) = stub.ServerReflectionInfo(iter([list_services_request()]), timeout=_SECONDS)
        except (grpc.RpcError, ValueError):
            return ""
    names = service_names(answer)
    return next((kind for kind, name in _KINDS.items() if name in names), "")


def check_listening(addresses: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Finds the addresses at which a box cannot listen.

    Args:
        addresses: (setting, host:port).
    """
    first: dict[str, str] = {}
    for name, address in addresses:
        other = first.setdefault(address, name)
        if other != name:
            found = f"{address} is also the address of {other}"
            yield Finding("fail", name, found, f"give {name} another port than {other}")
            continue
        state = _state_of(address)
        if state is _AddressState.FREE:
            continue
        variable = f"ERRATA_{name.replace('.', '__').upper()}"
        if state in (_AddressState.UNKNOWN_HOST, _AddressState.SILENT):
            found = f"{address} is not an address of this machine"
            yield Finding("fail", name, found, f"correct {name} ({variable})")
            continue
        kind = service_at(address)
        found = (
            f"{address} is taken by another Errata {kind} service"
            if kind
            else f"{address} is taken by a program that is not Errata"
        )
        yield Finding("fail", name, found, f"stop it, or set another address: {variable}")


def free_shift(addresses: Iterable[tuple[str, str]]) -> int:
    """The smallest multiple of 100 by which all ports can move to free ones; 0 if none fits.

    Args:
        addresses: (setting, host:port) on this machine.
    """
    ports = [host_and_port(address) for _, address in addresses]
    for by in range(100, 2_000, 100):
        moved = [f"{host}:{port + by}" for host, port in ports if port + by < 65_536]
        if len(moved) == len(ports) and all(
            _state_of(address) is _AddressState.FREE for address in moved
        ):
            return by
    return 0


def is_local(address: str) -> bool:
    """Whether an address belongs to this machine."""
    return _state_of(address) not in (_AddressState.SILENT, _AddressState.UNKNOWN_HOST)


def _ray(name: str, address: str) -> Finding:
    state = _state_of(address)
    if state is _AddressState.ANSWERED:
        return Finding("ok", name, f"{address} answers: Ray, if workers run")
    return _unanswered(name, address, state)


def _http(name: str, address: str, path: str, served: str, security: SecuritySettings) -> Finding:
    """The address is free, or an Errata already answers there."""
    state = _state_of(address)
    if state is not _AddressState.ANSWERED:
        return _unanswered(name, address, state)
    if _answers_as_errata(address, path, security):
        return Finding("ok", name, f"{address}: {served}")
    return Finding("fail", name, f"{address} is taken", f"stop what uses it, or set {name}")


def _answers_as_errata(address: str, path: str, security: SecuritySettings) -> bool:
    host, port = host_and_port(address)
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    if security.has_tls:
        context = client_context(security)
        connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    try:
        connection.request("GET", path)
        return b"errata" in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _unanswered(name: str, address: str, state: _AddressState) -> Finding:
    match state:
        case _AddressState.UNKNOWN_HOST:
            found = f"the host of {address} is not known"
            return Finding("fail", name, found, f"correct {name}, or the network's name service")
        case _AddressState.SILENT:
            found = f"{address} is on another machine, and nothing answers there"
            return Finding("warn", name, found, f"start it there, or correct {name}")
        case _AddressState.HELD:
            found = f"{address} is taken, and nothing answers"
            return Finding("fail", name, found, f"stop what uses it, or set {name}")
        case _:
            return Finding("ok", name, f"{address} is free")


def _state_of(address: str) -> _AddressState:
    host, port = host_and_port(address.removeprefix("dns:///"))
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        return _AddressState.UNKNOWN_HOST
    with socket.socket(family, kind) as caller:
        caller.settimeout(_SECONDS)
        if caller.connect_ex(target) == 0:
            return _AddressState.ANSWERED
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(target)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return _AddressState.SILENT
            return _AddressState.HELD
    return _AddressState.FREE
