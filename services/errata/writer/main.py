"""The writer's process: model, epoch, log, gRPC."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine

import grpc
import structlog
import torch

from errata import demo
from errata.artifacts.store import ArtifactStore
from errata.errors import StartupError
from errata.log.subscriber import Subscriber
from errata.platform.metrics import metrics_endpoint
from errata.platform.server import GrpcServer, open_channel, unless_stopped
from errata.platform.settings import Settings
from errata.replica.base_model import load_base_model
from errata.writer.lanes import read_lanes
from errata.writer.log_client import LogClient
from errata.writer.metrics import LedgerCollector
from errata.writer.resources import WriterResources
from errata.writer.service import SERVICE_NAME, EditingService
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import editing_pb2_grpc

_log = structlog.get_logger(__name__)
_LOG_PATIENCE_SECONDS = 30.0
_DRAIN_SECONDS = 20.0  # Kubernetes kills after 30 s by default


def resources_of(settings: Settings) -> WriterResources:
    """Text and cache for fits.

    Raises:
        StartupError: another model than the demo's, but no text for its statistics, or no such
            file.
    """
    text = settings.writer.statistics_text
    if settings.model.path and text is None:
        raise StartupError(
            "no text for the model's statistics: set ERRATA_WRITER__STATISTICS_TEXT to a plain "
            "text file, a paragraph a line (some 100,000 tokens or more)."
        )
    if text is not None and not text.is_file():
        raise StartupError(
            f"writer.statistics_text (ERRATA_WRITER__STATISTICS_TEXT): {text} is no file; give a "
            "plain text file, a paragraph a line."
        )
    return WriterResources(text, settings.data_dir / "statistics")


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set.

    Raises:
        EpochLostError: a newer writer took over; the process must end.
        StartupError, LogUnavailableError: cannot start.
    """
    resources = resources_of(settings)
    if settings.writer.num_threads:
        torch.set_num_threads(settings.writer.num_threads)
    model = await asyncio.to_thread(load_base_model, settings)
    lanes_file = settings.writer.lanes_file or (None if settings.model.path else demo.lanes_path())
    lanes = read_lanes(lanes_file, settings.writer.default_lane, model.digest)
    async with open_channel(settings.log.address) as channel:
        log = LogClient(channel, f"{socket.gethostname()}:{os.getpid()}")
        if not await unless_stopped(_wait_for_log(channel, settings.log.address), stop):
            return
        epoch = await log.acquire_epoch()
        head_seq = await log.head_seq()
        writer = Writer(
            model,
            log,
            Subscriber(settings.log.address),
            ArtifactStore(settings.artifacts_url),
            resources,
            settings.writer,
        )
        server = GrpcServer(settings.writer.address, [SERVICE_NAME])
        editing_pb2_grpc.add_EditingServiceServicer_to_server(
            EditingService(writer, settings.writer.default_lane), server.server
        )
        started = asyncio.Event()
        work = asyncio.create_task(writer.run(lanes, head_seq, started.set))
        collector = LedgerCollector(writer.ledger)
        try:
            with metrics_endpoint(settings.writer.metrics_address, collector):
                await _first(work, unless_stopped(started.wait(), stop))
                if stop.is_set():
                    return
                await server.start()
                _log.info("writer serves", port=server.port, epoch=epoch, model=model.digest[:16])
                await _first(work, stop.wait())
                await server.set_serving(False)
                await writer.drain(_DRAIN_SECONDS)
        finally:
            await server.stop()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def _wait_for_log(channel: grpc.aio.Channel, address: str) -> None:
    """Services start in any order; give the log a while.

    Raises:
        StartupError: nobody answers.
    """
    try:
        await asyncio.wait_for(channel.channel_ready(), _LOG_PATIENCE_SECONDS)
    except TimeoutError as error:
        raise StartupError(
            f"no edit log answers at {address}; start it, or set ERRATA_LOG__ADDRESS.",
            address=address,
        ) from error


async def _first(work: asyncio.Task[None], event: Coroutine[object, object, object]) -> None:
    """Returns once `event` happened; raises if the work ended before."""
    waiting = asyncio.create_task(event)
    try:
        await asyncio.wait((work, waiting), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            try:
                await work
            except BaseExceptionGroup as group:
                raise _innermost(group) from group
    finally:
        waiting.cancel()


def _innermost(error: BaseException) -> BaseException:
    """The first cause inside a task group's error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
