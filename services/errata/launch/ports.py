"""One box's ports, moved together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.settings import Settings

_MAX_PORT = 65_535
_SERVICES = ("log", "writer", "retrieval", "gateway")


def moved_ports(settings: Settings, port: int) -> dict[str, dict[str, str]]:
    """Settings with the gateway at a port, and everything else of the box moved as far.

    Metrics endpoints that are set move, too; hosts stay.

    Raises:
        StartupError: a port would be none.
    """
    by = port - host_and_port(settings.gateway.address)[1]
    found: dict[str, dict[str, str]] = {
        name: {"address": _moved(getattr(settings, name).address, by)} for name in _SERVICES
    }
    if settings.worker.retrieval_address == settings.retrieval.address:
        found["worker"] = {"retrieval_address": found["retrieval"]["address"]}
    for name in (*_SERVICES, "worker"):
        if address := getattr(settings, name).metrics_address:
            found.setdefault(name, {})["metrics_address"] = _moved(address, by)
    return found


def with_flags(flags: Mapping[str, Any], more: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Nested settings, the second's over the first's."""
    sections = {name: {**flags.get(name, {}), **values} for name, values in more.items()}
    return {**flags, **sections}


def _moved(address: str, by: int) -> str:
    port = host_and_port(address)[1] + by
    if not 0 < port <= _MAX_PORT:
        raise StartupError(
            f"--port would move {address} by {by} to port {port}; ports are 1 to {_MAX_PORT}. Give "
            "one further from the ends."
        )
    return f"{address.rpartition(':')[0]}:{port}"
