"""`errata serve …`: runs one service of the system in the foreground."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import typer

from errata import errors
from errata.platform.ray_access import restrict_ray
from errata.platform.settings import Settings, load_settings
from errata.platform.telemetry import configure_logging
from errata.platform.tracing import configure_tracing

Service = Callable[[Settings, asyncio.Event], Awaitable[None]]


def serve(
    service: Annotated[
        str, typer.Argument(help="log, writer, retrieval, catalog, workers or gateway.")
    ],
) -> None:
    """Runs one service in the foreground, with settings from the environment and the file."""
    from errata.platform.failpoints import configure_failpoints
    from errata.platform.metrics import note_service
    from errata.platform.security.active import Security, configure_security

    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format, service)
    configure_failpoints(settings.failpoints)
    note_service(service)
    security = Security(settings.security, service=service, data_dir=settings.data_dir)
    configure_security(security)
    if service not in ("gateway", "workers"):  # those start Ray first, which forks
        configure_tracing(settings.tracing, service)
    asyncio.run(run_service(service, settings))


async def run_service(name: str, settings: Settings) -> None:
    """Runs a service until SIGINT or SIGTERM.

    Raises:
        StartupError: no such service, it cannot start, or its Ray has no token.
    """
    from errata.platform.server import run_until_signalled

    if name not in _SERVICES:
        raise errors.StartupError(f"there is no service {name!r}; choose {', '.join(_SERVICES)}.")
    if name in ("gateway", "workers"):
        restrict_ray(name, settings)
    # The imports can take seconds; until they are done, a signal ends the process at once.
    service = _SERVICES[name]()
    await run_until_signalled(lambda stop: service(settings, stop))


# Each service imports its own dependencies only: the log service starts without torch.


def _log() -> Service:
    from errata.artifacts.store import ArtifactStore
    from errata.log.main import run

    async def run_log(settings: Settings, stop: asyncio.Event) -> None:
        artifacts = ArtifactStore(settings.artifacts_url, max_bytes=settings.artifacts.max_bytes)
        await run(settings.log, artifacts, stop=stop)

    return run_log


def _writer() -> Service:
    from errata.writer.main import serve

    return serve


def _retrieval() -> Service:
    from errata.retrieval.main import serve

    return serve


def _catalog() -> Service:
    from errata.catalog.main import serve

    return serve


def _gateway() -> Service:
    from errata.gateway.main import serve_gateway

    return serve_gateway


def _workers() -> Service:
    from errata.gateway.main import serve_workers

    return serve_workers


_SERVICES: Mapping[str, Callable[[], Service]] = {
    "log": _log,
    "writer": _writer,
    "retrieval": _retrieval,
    "catalog": _catalog,
    "workers": _workers,
    "gateway": _gateway,
}
