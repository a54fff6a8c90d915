"""Moves all ports of a system on one machine together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.settings import Settings

_MAX_PORT = 65_535
_SERVICES = ("log", "writer", "retrieval", "catalog", "gateway")


def moved_ports(settings: Settings, port: int) -> dict[str, dict[str, str]]:
    """Settings with the gateway at `port`, and all other ports moved by the same amount.

    Metrics endpoints that are set also move; hosts stay.

    Raises:
        StartupError: a moved port would be out of range.
    """
    by = port - host_and_port(settings.gateway.address)[1]
    found: dict[str, dict[str, str]] = {
        name: {"address": _moved(getattr(settings, name).address, by)} for name in _SERVICES
    }
    if address := settings.gateway.http_address:
        found["gateway"]["http_address"] = _moved(address, by)
    if settings.worker.retrieval_address == settings.retrieval.address:
        found["worker"] = {"retrieval_address": found["retrieval"]["address"]}
    for name in (*_SERVICES, "worker"):
        if address := getattr(settings, name).metrics_address:
            found.setdefault(name, {})["metrics_address"] = _moved(address, by)
    return found


def with_flags(
    flags: Mapping[str, Any], more: Mapping[str, Mapping[str, object]]
) -> dict[str, Any]:
    """Nested settings, with those of `more` over those of `flags`."""
    sections = {name: {**flags.get(name, {}), **values} for name, values in more.items()}
    return {**flags, **sections}


def _moved(address: str, by: int) -> str:
    port = host_and_port(address)[1] + by
    if not 0 < port <= _MAX_PORT:
        raise StartupError(
            f"--port would move {address} by {by} to port {port}; ports are 1 to {_MAX_PORT}. Give "
            "a port further from these limits."
        )
    return f"{address.rpartition(':')[0]}:{port}"
