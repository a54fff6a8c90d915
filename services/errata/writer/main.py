"""The writer's process: loads the model, acquires the epoch, serves gRPC."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine, Sequence

import grpc
import structlog
import torch

from errata import demo
from errata.artifacts.store import ArtifactStore
from errata.errors import StartupError
from errata.log.subscriber import Subscriber
from errata.platform.failpoints import failpoint_async
from errata.platform.gate import Gate
from errata.platform.metrics import metrics_endpoint
from errata.platform.server import GrpcServer, open_channel, unless_stopped
from errata.platform.settings import Settings, WriterSettings
from errata.replica.base_model import load_base_model
from errata.writer.lanes import LaneSetup, read_lanes
from errata.writer.lease import Lease
from errata.writer.log_client import LogClient
from errata.writer.log_services import LogServices
from errata.writer.metrics import LedgerCollector
from errata.writer.resources import WriterResources
from errata.writer.service import SERVICE_NAME, EditingService
from errata.writer.signing import WriterKeys
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import editing_pb2_grpc

_log = structlog.get_logger(__name__)
_LOG_START_SECONDS = 30.0
_STANDING_BY = (
    "this writer stands by for the active one, or is taking over from it; call the active writer, "
    "or try again with the same request id."
)
_DRAIN_SECONDS = 20.0  # Kubernetes kills the process after 30 s by default


def resources_of(settings: Settings) -> WriterResources:
    """Text and cache for fits.

    Raises:
        StartupError: a model other than the demo model has no text for its statistics, or the
            file does not exist.
    """
    text = settings.writer.statistics_text
    if settings.model.path and text is None:
        raise StartupError(
            "there is no text for the model's statistics: set ERRATA_WRITER__STATISTICS_TEXT to a "
            "plain text file with one paragraph per line and at least about 100,000 tokens."
        )
    if text is not None and not text.is_file():
        raise StartupError(
            f"writer.statistics_text (ERRATA_WRITER__STATISTICS_TEXT): {text} is not a file; give "
            "a plain text file with one paragraph per line."
        )
    return WriterResources(text, settings.statistics_dir)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set.

    Raises:
        EpochLostError: another writer took over; the process must end.
        StartupError, LogUnavailableError: cannot start.
    """
    resources, keys = resources_of(settings), WriterKeys.of(settings.writer)
    if settings.writer.num_threads:
        torch.set_num_threads(settings.writer.num_threads)
    model = await asyncio.to_thread(load_base_model, settings)
    lanes_file = settings.writer.lanes_file or (None if settings.model.path else demo.lanes_path())
    lanes = read_lanes(
        lanes_file, settings.writer.default_lane, model.digest, settings.writer.default_method
    )
    if any(setup.requires_approval for setup in lanes) and not settings.security.authenticate:
        _log.warning(
            "lanes require approval, but calls are not authenticated: reviews compare the names "
            "that callers give"
        )
    async with open_channel(settings.log.dialled) as channel:
        log = LogClient(channel, f"{socket.gethostname()}:{os.getpid()}")
        if not await unless_stopped(_wait_for_log(channel, settings.log.dialled), stop):
            return
        lease = Lease(log, settings.writer)
        services = LogServices(settings.log.dialled)
        writer = Writer(
            model,
            log,
            Subscriber(settings.log.dialled),
            ArtifactStore(settings.artifacts_url, max_bytes=settings.artifacts.max_bytes),
            resources,
            settings.writer,
            keys,
            reports=services.canary_reports,
        )
        started = asyncio.Event()
        read_only_at = settings.log.read_only_at
        if read_only_at is None:
            running = _work(writer, lanes, log, lease, started)
        else:
            running = writer.show((await log.state()).head.seq, started.set)
        work = asyncio.create_task(running)
        service = EditingService(writer, settings.writer.default_lane, read_only_at)
        try:
            await _serve(writer, service, work, started, stop, settings.writer)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await services.close()
        if started.is_set() and read_only_at is None:
            await lease.end()  # no renewal can follow


async def _work(
    writer: Writer,
    lanes: Sequence[LaneSetup],
    log: LogClient,
    lease: Lease,
    started: asyncio.Event,
) -> None:
    """Runs the writer, and keeps its lease from the moment on at which it is active."""
    async with asyncio.TaskGroup() as tasks:

        async def take_over() -> int:
            await failpoint_async("writer.epoch.before")
            head_seq = await lease.take()
            await failpoint_async("writer.epoch.after")
            _log.info("epoch acquired", epoch=log.epoch)
            tasks.create_task(lease.keep())
            return head_seq

        await writer.run(lanes, take_over, started.set)


async def _serve(
    writer: Writer,
    service: EditingService,
    work: asyncio.Task[None],
    started: asyncio.Event,
    stop: asyncio.Event,
    settings: WriterSettings,
) -> None:
    """Serves once `started` is set, until `stop` is set; raises the error of `work`.

    A standby listens before that, so that callers and probes learn that it stands by.
    """
    gate = Gate(_STANDING_BY) if settings.standby else None
    server = GrpcServer(settings.address, [SERVICE_NAME], gate=gate)
    editing_pb2_grpc.add_EditingServiceServicer_to_server(service, server.server)
    try:
        collector = LedgerCollector(writer.ledger, writer.canaries.tally)
        with metrics_endpoint(settings.metrics_address, collector):
            if settings.standby:
                await server.start()
            await _first(work, unless_stopped(started.wait(), stop))
            if stop.is_set():
                return
            if settings.standby:
                await server.open_gate()
            else:
                await server.start()
            _log.info("the writer serves", port=server.port)
            await _first(work, stop.wait())
            await server.set_serving(False)
            await writer.drain(_DRAIN_SECONDS)
    finally:
        await server.stop()


async def _wait_for_log(channel: grpc.aio.Channel, address: str) -> None:
    """Waits for the log service, because services start in any order.

    Raises:
        StartupError: no log service answers.
    """
    try:
        await asyncio.wait_for(channel.channel_ready(), _LOG_START_SECONDS)
    except TimeoutError as error:
        raise StartupError(
            f"no log service answers at {address}; start it, or set ERRATA_LOG__ADDRESS.",
            address=address,
        ) from error


async def _first(work: asyncio.Task[None], event: Coroutine[object, object, object]) -> None:
    """Waits for `event`; raises the error of `work` if that ends first."""
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
    """The first error inside a task group's error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
