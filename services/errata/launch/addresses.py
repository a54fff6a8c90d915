"""A look at addresses: free, held by Errata or by something else, or of a machine out of reach."""

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
from errata.launch.health import health_of
from errata.launch.reflection_convert import list_services_request, service_names
from errata.platform.addresses import host_and_port
from errata.platform.settings import Settings

_SERVICES = ("log", "writer", "retrieval", "gateway")
_SECONDS = 2.0
# By what only it serves, the gateway first: it passes the others' calls on.
_KINDS = {
    "gateway": "errata.v1.InferenceService",
    "writer": "errata.v1.EditingService",
    "log": "errata.v1.EditLogService",
    "retrieval": "errata.v1.RetrievalService",
}
_OTHER_BOX = "a second system on this machine: `errata up --port 7800 --data-dir DIR`"


class _Seen(Enum):
    """What is to be found at an address."""

    ANSWERED = auto()
    FREE = auto()  # of this machine, and nothing holds it
    HELD = auto()  # of this machine, taken, and nothing answers
    SILENT = auto()  # of another machine, and nothing answers
    NAMELESS = auto()  # the host's name leads nowhere


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
    for name in (*_SERVICES, "worker"):
        address = getattr(settings, name).metrics_address
        if address:
            yield _metrics(f"{name}.metrics_address", address)


def _service(name: str, address: str) -> Finding:
    seen = _look(address)
    if seen is not _Seen.ANSWERED:
        return _unanswered(name, address, seen)
    kind = service_at(address)
    if not kind:
        found = f"{address} is taken by what is no service of Errata's"
        return Finding("fail", name, found, f"stop it, or set {name}")
    expected = name.partition(".")[0].replace("worker", "retrieval")
    if kind != expected:
        found = f"{address} is taken: an Errata runs, and its {kind} is there, no {expected}"
        return Finding("fail", name, found, f"correct {name}, or stop what runs there")
    if health_of(address, _SECONDS) != "SERVING":
        remedy = "wait while it catches up; its last lines say why it does not"
        found = f"{address} is in use: an Errata's {kind} runs there, and is not ready"
        return Finding("warn", name, found, remedy)
    found = f"{address} is in use: an Errata's {kind} runs there, and is healthy"
    return Finding("ok", name, found, _OTHER_BOX if kind == "gateway" else "")


def service_at(address: str) -> str:
    """Which of Errata's services answers at an address; empty if none does."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        try:
            (answer,) = stub.ServerReflectionInfo(iter([list_services_request()]), timeout=_SECONDS)
        except (grpc.RpcError, ValueError):
            return ""
    names = service_names(answer)
    return next((kind for kind, name in _KINDS.items() if name in names), "")


def check_listening(addresses: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Whether a box can listen at all of its addresses; tells only of those where it cannot.

    Args:
        addresses: (setting, host:port).
    """
    first: dict[str, str] = {}
    for name, address in addresses:
        other = first.setdefault(address, name)
        if other != name:
            found = f"{address} is {other}'s, too"
            yield Finding("fail", name, found, f"give {name} another port than {other}")
            continue
        seen = _look(address)
        if seen is _Seen.FREE:
            continue
        variable = f"ERRATA_{name.replace('.', '__').upper()}"
        if seen in (_Seen.NAMELESS, _Seen.SILENT):
            found = f"{address} is no address of this machine"
            yield Finding("fail", name, found, f"correct {name} ({variable})")
            continue
        kind = service_at(address)
        found = (
            f"{address} is taken: an Errata runs already, its {kind} is there"
            if kind
            else f"{address} is taken by something that is not Errata's"
        )
        yield Finding("fail", name, found, f"stop it, or set another address: {variable}")


def free_shift(addresses: Iterable[tuple[str, str]]) -> int:
    """By how much to move ports so that all are free; 0 if no round number does.

    Args:
        addresses: (setting, host:port) of this machine.
    """
    ports = [host_and_port(address) for _, address in addresses]
    for by in range(100, 2_000, 100):
        moved = [f"{host}:{port + by}" for host, port in ports if port + by < 65_536]
        if len(moved) == len(ports) and all(_look(address) is _Seen.FREE for address in moved):
            return by
    return 0


def is_local(address: str) -> bool:
    """Whether this machine can listen at an address, if nothing else does."""
    return _look(address) not in (_Seen.SILENT, _Seen.NAMELESS)


def _ray(name: str, address: str) -> Finding:
    seen = _look(address)
    if seen is _Seen.ANSWERED:
        return Finding("ok", name, f"{address} answers: Ray, if workers run")
    return _unanswered(name, address, seen)


def _metrics(name: str, address: str) -> Finding:
    """An endpoint is opened here, or is one of ours that is open already."""
    seen = _look(address)
    if seen is not _Seen.ANSWERED:
        return _unanswered(name, address, seen)
    if _tells_metrics(address):
        return Finding("ok", name, f"{address}: metrics of Errata are served")
    return Finding("fail", name, f"{address} is taken", f"stop what holds it, or set {name}")


def _tells_metrics(address: str) -> bool:
    connection = http.client.HTTPConnection(*host_and_port(address), timeout=_SECONDS)
    try:
        connection.request("GET", "/metrics")
        return b"errata_" in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _unanswered(name: str, address: str, seen: _Seen) -> Finding:
    match seen:
        case _Seen.NAMELESS:
            found = f"the host of {address} is not known"
            return Finding("fail", name, found, f"correct {name}, or the network's names")
        case _Seen.SILENT:
            found = f"{address} is another machine's, and nothing answers there"
            return Finding("warn", name, found, f"start it there, or correct {name}")
        case _Seen.HELD:
            found = f"{address} is taken, and nothing answers"
            return Finding("fail", name, found, f"stop what holds it, or set {name}")
        case _:
            return Finding("ok", name, f"{address} is free")


def _look(address: str) -> _Seen:
    host, port = host_and_port(address.removeprefix("dns:///"))
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        return _Seen.NAMELESS
    with socket.socket(family, kind) as caller:
        caller.settimeout(_SECONDS)
        if caller.connect_ex(target) == 0:
            return _Seen.ANSWERED
    with socket.socket(family, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(target)
        except OSError as error:
            return _Seen.SILENT if error.errno == errno.EADDRNOTAVAIL else _Seen.HELD
    return _Seen.FREE
