"""Runs the catalog: opens log, artifacts and database, serves gRPC."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from errata.artifacts.remote import RemoteArtifacts
from errata.artifacts.source import ArtifactSource
from errata.artifacts.store import ArtifactStore
from errata.catalog.catalog import Catalog
from errata.catalog.replica_watch import ReplicaWatch
from errata.catalog.service import SERVICE_NAME, CatalogService, add_to_server
from errata.catalog.webhooks.outbox import deliver, targets_of
from errata.errors import ErrataError
from errata.platform.metrics import metrics_endpoint
from errata.platform.server import GrpcServer, open_channel, unless_stopped
from errata.platform.settings import Settings

_log = structlog.get_logger(__name__)
_HEALTH_SECONDS = 1.0


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set; the service is healthy while the catalog is.

    Raises:
        StartupError: the address, the database or the webhooks' file is not usable.
        DataLossError: the log contradicts itself or the database.
    """
    own = settings.catalog
    is_past = settings.log.read_only_at is not None
    targets = [] if is_past else targets_of(own)
    name = f"catalog-{socket.gethostname()}-{os.getpid()}"
    async with open_channel(settings.log.dialled) as channel, AsyncExitStack() as stack:
        max_bytes = settings.artifacts.max_bytes
        artifacts: ArtifactSource = RemoteArtifacts(channel, max_bytes=max_bytes)
        if settings.artifacts.worker_url:
            artifacts = ArtifactStore(settings.artifacts.worker_url, max_bytes=max_bytes)
        file = settings.catalog_file
        if is_past:  # the present one is further than the log that is shown
            file = Path(stack.enter_context(TemporaryDirectory())) / file.name
        catalog = Catalog(name, artifacts, settings.log.dialled, file, own)
        server = GrpcServer(own.address, [SERVICE_NAME])
        add_to_server(CatalogService(catalog, own.max_streams), server)
        # Metrics are served before the catalog catches up, so that a long catch-up is visible.
        with metrics_endpoint(own.metrics_address):
            if not await unless_stopped(catalog.start(), stop):
                return
            working = [
                asyncio.create_task(ReplicaWatch(catalog, channel, own).run()),
                asyncio.create_task(deliver(catalog, targets, own)),
            ]
            try:
                await server.start()
                _log.info("the catalog serves", port=server.port, seq=catalog.seq)
                await _watch(catalog, server, working, stop)
            finally:
                for task in working:
                    task.cancel()
                await asyncio.gather(*working, return_exceptions=True)
                await server.stop()
                await catalog.close()


async def _watch(
    catalog: Catalog, server: GrpcServer, working: list[asyncio.Task[None]], stop: asyncio.Event
) -> None:
    """Keeps the server's health equal to the catalog's until `stop` is set.

    Raises the error of a task that ended, which none should: the process must end, too.
    """
    healthy = True
    while not stop.is_set():
        for task in working:
            if task.done():
                await task
        try:
            await asyncio.wait_for(stop.wait(), _HEALTH_SECONDS)
        except TimeoutError:
            pass
        try:
            catalog.check_health()
            now = True
        except ErrataError as error:
            now = False
            if healthy:
                _log.error("the catalog leaves rotation", reason=error.message)
        if now is not healthy:
            healthy = now
            await server.set_serving(now)
