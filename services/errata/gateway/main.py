"""The gateway's process: Ray, the worker pool, gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import ray
import structlog
from ray import serve

from errata.errors import StartupError
from errata.gateway import forward
from errata.gateway.pool import WorkerPool
from errata.gateway.service import InferenceService
from errata.platform.server import GrpcServer, check_address, handle_signals, open_channel
from errata.platform.settings import Settings
from errata.worker.deployment import build_app
from errata_client._gen.errata.v1 import inference_pb2, inference_pb2_grpc

_log = structlog.get_logger(__name__)
_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_OBJECT_STORE_BYTES = 80 * 1024 * 1024


async def serve_gateway(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set.

    Raises:
        StartupError: the address is taken, or the workers cannot start.
    """
    check_address(settings.gateway.address)
    # Ray forks its processes; with gRPC's threads already there, a child can hang for ever.
    with _ray(settings):
        handle_signals(stop)  # Ray put handlers of its own in their place
        server = GrpcServer(settings.gateway.address, [_SERVICE, forward.EDITING, forward.EDIT_LOG])
        pool = WorkerPool(settings.gateway.application)
        async with (
            open_channel(settings.writer.address) as editing,
            open_channel(settings.log.address) as log,
        ):
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(
                InferenceService(pool, settings.gateway.default_timeout_seconds), server.server
            )
            server.server.add_generic_rpc_handlers(forward.handlers(editing, log))
            await server.start()
            _log.info("gateway serves", port=server.port)
            try:
                await stop.wait()
            finally:
                await server.stop()


@contextlib.contextmanager
def _ray(settings: Settings) -> Iterator[None]:
    """Connects to Ray; with `local`, starts it with the workers and ends both afterwards."""
    gateway = settings.gateway
    if gateway.ray_address != "local":
        ray.init(address=gateway.ray_address, log_to_driver=False, logging_level=logging.WARNING)
        try:
            yield
        finally:
            ray.shutdown()
        return
    ray.init(
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        num_cpus=_cpus(settings),
        num_gpus=_gpus(settings),
        log_to_driver=True,
        logging_level=logging.WARNING,
        configure_logging=False,
    )
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        _run_workers(settings)
        yield
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def _run_workers(settings: Settings) -> None:
    try:
        serve.run(build_app(settings), name=settings.gateway.application, route_prefix=None)
    except RuntimeError as error:
        raise StartupError(
            f"the workers did not start: {error}. Their own messages are above."
        ) from error


def _cpus(settings: Settings) -> int:
    """Ray CPUs are a count for placement, not cores: enough for the replicas and Serve itself."""
    return int(settings.worker.num_replicas * settings.worker.num_cpus) + 2


def _gpus(settings: Settings) -> int:
    return int(-(-settings.worker.num_replicas * settings.worker.num_gpus // 1))
