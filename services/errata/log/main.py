"""Runs the edit log service: opens the log, serves, drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from errata.artifacts import ArtifactStore
from errata.errors import LogBehindWitnessError
from errata.log.feed import Feed
from errata.log.metrics import LogCollector
from errata.log.positions import ReplicaTable
from errata.log.read_only import ReadOnlyLog
from errata.log.service import SERVICE_NAME, EditLogService, add_to_server
from errata.log.store import RedisLog
from errata.log.subscriptions import Subscriptions
from errata.log.trimmer import Trimmer
from errata.platform.metrics import metrics_endpoint
from errata.platform.server import GrpcServer
from errata.platform.settings import LogSettings

GRACE_SECONDS = 5.0

_log = structlog.get_logger(__name__)


async def run(
    log: LogSettings,
    artifacts: ArtifactStore,
    *,
    address: str | None = None,
    ready: Callable[[int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serves the log until cancelled or until `stop` is set, then drains.

    Draining: health becomes NOT_SERVING, streams end after their current page, running calls get
    five seconds, and appends that reached Redis are witnessed.

    Args:
        log: settings.
        artifacts: the store that GetArtifact reads, and that keeps trimmed entries.
        address: `host:port`; replaces `log.address`.
        ready: called with the port once the service answers.
        stop: ends the service when set.

    Raises:
        StartupError: the address, Redis or the witness is not usable; nothing is left running.
        LogNotEmptyError: the log holds entries and its witness is missing.
        LogBehindWitnessError: the log lost or changed acknowledged entries before the start. If
            that happens later, the service keeps running, unhealthy, and answers DATA_LOSS.
    """
    kind = RedisLog if log.read_only_at is None else ReadOnlyLog
    store = await kind.open(log, artifacts)
    feed = Feed(
        store,
        page_entries=log.subscribe_batch,
        progress_seconds=log.progress_interval_seconds,
    )
    try:
        replicas = ReplicaTable(log.replica_ttl_seconds)
        subscriptions = Subscriptions(log)
        service = EditLogService(store, feed, replicas, artifacts, subscriptions)
        trimmer = Trimmer(log, store)
        collector = LogCollector(store, feed, replicas, subscriptions, trimmer)
        with metrics_endpoint(log.metrics_address, collector):
            # Nothing is trimmed of a log that is shown as it was.
            work = trimmer.run() if log.read_only_at is None else asyncio.sleep(0)
            trimming = asyncio.create_task(work)
            try:
                await _serve(
                    service, feed, store, address or log.address, ready, stop or asyncio.Event()
                )
            finally:
                trimmer.stop()
                trimming.cancel()
                await asyncio.gather(trimming, return_exceptions=True)
    finally:
        await store.close()


async def _serve(
    service: EditLogService,
    feed: Feed,
    store: RedisLog,
    address: str,
    ready: Callable[[int], None] | None,
    stop: asyncio.Event,
) -> None:
    server = GrpcServer(address, [SERVICE_NAME])
    add_to_server(service, server)
    await server.start()
    tail = asyncio.create_task(_watch(feed, store, server))
    stopped = asyncio.create_task(stop.wait())
    try:
        if ready is not None:
            ready(server.port)
        # The tail ends only after `stop`; if a bug ends it, the service must end too.
        await asyncio.wait((tail, stopped), return_when=asyncio.FIRST_COMPLETED)
        if tail.done():
            await tail
    finally:
        await server.set_serving(False)
        feed.stop()
        await server.stop(GRACE_SECONDS)
        tail.cancel()
        stopped.cancel()
        await asyncio.gather(tail, stopped, return_exceptions=True)


async def _watch(feed: Feed, store: RedisLog, server: GrpcServer) -> None:
    try:
        await feed.run()
    except LogBehindWitnessError as error:
        await server.set_serving(False)
        _log.critical("not serving: the log is damaged", reason=error.message)
        await store.warn()
        await asyncio.Event().wait()  # the service still answers calls, with DATA_LOSS
