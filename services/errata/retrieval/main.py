"""Runs the retrieval service: opens log and artifacts, serves gRPC."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile

import structlog

from errata.artifacts.remote import RemoteArtifacts
from errata.artifacts.source import ArtifactSource
from errata.artifacts.store import ArtifactStore
from errata.editing.model.loading import check_device
from errata.errors import ErrataError, InvalidRequestError, StartupError
from errata.platform.metrics import metrics_endpoint
from errata.platform.server import GrpcServer, open_channel, unless_stopped
from errata.platform.settings import RetrievalSettings, Settings
from errata.retrieval.replica import RetrievalReplica
from errata.retrieval.service import SERVICE_NAME, RetrievalService, add_to_server

_log = structlog.get_logger(__name__)
_HEALTH_SECONDS = 1.0


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set; the service is healthy while the replica is.

    Raises:
        StartupError: the address or the snapshot folder is not usable.
        InvalidRequestError: unknown device. Messages name the setting.
        BaseModelMismatchError, DataLossError: the replica cannot apply the log.
    """
    retrieval = settings.retrieval
    if settings.log.read_only_at is not None:  # snapshots may be of later positions
        retrieval = retrieval.model_copy(update={"snapshots": None})
    _check(retrieval)
    name = f"retrieval-{socket.gethostname()}-{os.getpid()}"
    async with open_channel(settings.log.address) as channel:
        max_bytes = settings.artifacts.max_bytes
        artifacts: ArtifactSource = RemoteArtifacts(channel, max_bytes=max_bytes)
        if settings.artifacts.worker_url:
            artifacts = ArtifactStore(settings.artifacts.worker_url, max_bytes=max_bytes)
        replica = RetrievalReplica(name, artifacts, settings.log.address, retrieval)
        server = GrpcServer(settings.retrieval.address, [SERVICE_NAME])
        add_to_server(RetrievalService(replica), server)
        # Metrics are served before the replica catches up, so that a long catch-up is visible.
        with metrics_endpoint(settings.retrieval.metrics_address):
            if not await unless_stopped(replica.start(), stop):
                return
            try:
                await server.start()
                _log.info("retrieval is serving", port=server.port, seq=replica.latest.seq)
                await _watch(replica, server, stop)
            finally:
                await server.stop()
                await replica.close()


def _check(settings: RetrievalSettings) -> None:
    """Checks what would otherwise fail only at the first lane or the first snapshot."""
    try:
        check_device(settings.device)
    except InvalidRequestError as error:
        message = f"retrieval.device (ERRATA_RETRIEVAL__DEVICE): {error.message}"
        raise InvalidRequestError(message, field="device") from error
    if settings.snapshots is None:
        return
    try:
        settings.snapshots.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.snapshots):
            pass
    except OSError as error:
        raise StartupError(
            f"retrieval.snapshots (ERRATA_RETRIEVAL__SNAPSHOTS): {settings.snapshots} is not "
            f"writable: {error.strerror}."
        ) from error


async def _watch(replica: RetrievalReplica, server: GrpcServer, stop: asyncio.Event) -> None:
    """Keeps the server's health equal to the replica's until `stop` is set."""
    healthy = True
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), _HEALTH_SECONDS)
        except TimeoutError:
            pass
        try:
            replica.check_health()
            now = True
        except ErrataError as error:
            now = False
            if healthy:
                _log.error("retrieval leaves rotation", reason=error.message)
        if now is not healthy:
            healthy = now
            await server.set_serving(now)
