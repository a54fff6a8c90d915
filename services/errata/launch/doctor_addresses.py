"""Doctor's look at addresses: free here, answered by the right thing, or a machine out of reach."""

from __future__ import annotations

import errno
import http.client
import socket
from collections.abc import Iterator
from enum import Enum, auto

from errata.launch.findings import Finding
from errata.launch.status import health_of
from errata.platform.addresses import host_and_port
from errata.platform.settings import Settings

_SERVICES = ("log", "writer", "retrieval", "gateway")
_SECONDS = 2.0


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
    health = health_of(address, _SECONDS)
    if health == "SERVING":
        return Finding("ok", name, f"{address}: a gRPC server is up and healthy")
    if health == "NOT_SERVING":
        remedy = "wait while it catches up; its last lines say why it does not"
        return Finding("warn", name, f"{address}: a gRPC server is up, and not ready", remedy)
    found = f"{address} is taken by what is no service of Errata's"
    return Finding("fail", name, found, f"stop it, or set {name}")


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
