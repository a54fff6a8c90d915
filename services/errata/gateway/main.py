"""The gateway's process (Ray, the worker pool, gRPC, HTTP), and the process of workers alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import structlog

from errata.errors import UnavailableError
from errata.gateway import forward
from errata.gateway.convert import CATALOG, EDIT_LOG, EDITING, INFERENCE
from errata.gateway.http.app import build_app
from errata.gateway.http.server import HttpServer
from errata.gateway.pool import WorkerPool
from errata.gateway.rates import Rates
from errata.gateway.service import InferenceService
from errata.gateway.shaped import ShapedAnswers
from errata.platform.addresses import wait_for_listener
from errata.platform.metrics import metrics_endpoint
from errata.platform.server import (
    GrpcServer,
    check_address,
    handle_signals,
    open_channel,
    unless_stopped,
)
from errata.platform.settings import Settings
from errata.platform.tracing import configure_tracing
from errata.worker.cluster import head_with_workers, joined_ray, own_ray
from errata_client._gen.errata.v1 import inference_pb2_grpc

_LOOK_SECONDS = 1.0
_HEAD_SECONDS = 240.0  # less than the time that Kubernetes allows a gateway to start
_log = structlog.get_logger(__name__)


async def serve_gateway(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set.

    Raises:
        StartupError: the address is taken, or the workers cannot start.
    """
    check_address(settings.gateway.address)
    if settings.gateway.http_address:
        check_address(settings.gateway.http_address)
    if not await unless_stopped(_head_answers(settings.gateway.ray_address), stop):
        return
    # Ray forks its processes; if gRPC's threads exist already, a child can hang indefinitely.
    with _ray(settings) as is_alive:
        handle_signals(stop)  # Ray replaced the handlers
        configure_tracing(settings.tracing, "gateway")
        services = [INFERENCE, EDITING, EDIT_LOG, CATALOG]
        server = GrpcServer(settings.gateway.address, services, is_front=True)
        shaped = ShapedAnswers()
        pool = WorkerPool(settings.gateway.application, shaped.note)
        rates = Rates(settings.gateway)
        async with (
            open_channel(settings.writer.dialled, only_healthy=True) as editing,
            open_channel(settings.log.dialled) as log,
            open_channel(settings.catalog.dialled, only_healthy=True) as catalog,
        ):
            http = HttpServer(
                settings.gateway.http_address,
                build_app(pool, editing, log, catalog, settings.gateway, rates),
            )
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(
                InferenceService(pool, settings.gateway.default_timeout_seconds, rates),
                server.server,
            )
            server.server.add_generic_rpc_handlers(forward.handlers(editing, log, catalog, rates))
            with metrics_endpoint(settings.gateway.metrics_address):
                # HTTP first: gRPC's health, which probes ask, then answers for both.
                await http.start()
                await server.start()
                _log.info("gateway serves", port=server.port, http_port=http.port)
                reporting = asyncio.create_task(shaped.run(catalog))
                try:
                    await _while_ray_lives(is_alive, stop)
                finally:
                    await asyncio.gather(server.stop(), http.stop())
                    reporting.cancel()
                    await asyncio.gather(reporting, return_exceptions=True)


async def _head_answers(address: str) -> None:
    """Waits for the head: KubeRay names it once workers are ready, after they read the log."""
    if address != "local":
        setting = "gateway.ray_address (ERRATA_GATEWAY__RAY_ADDRESS)"
        await wait_for_listener(address, setting, _HEAD_SECONDS)


async def _while_ray_lives(is_alive: Callable[[], bool], stop: asyncio.Event) -> None:
    """Returns when `stop` is set.

    Raises:
        UnavailableError: the Ray cluster is gone; a restarted gateway joins the next one.
    """
    while is_alive():
        try:
            await asyncio.wait_for(stop.wait(), _LOOK_SECONDS)
            return
        except TimeoutError:
            pass
    raise UnavailableError("the Ray cluster that this gateway joined is gone; start it again.")


def _ray(settings: Settings) -> AbstractContextManager[Callable[[], bool]]:
    if settings.gateway.ray_address == "local":
        return own_ray(settings)
    return joined_ray(settings.gateway.ray_address)


async def serve_workers(settings: Settings, stop: asyncio.Event) -> None:
    """Runs a Ray cluster with the workers until `stop` is set; gateways join it.

    Raises:
        StartupError: the address is taken, or the workers cannot start.
    """
    with head_with_workers(settings):
        handle_signals(stop)
        configure_tracing(settings.tracing, "workers")
        _log.info("workers serve", address=settings.worker.ray_address)
        await stop.wait()
