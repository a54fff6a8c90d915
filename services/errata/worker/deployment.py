"""The Ray Serve deployment: each Serve replica holds one `Replica`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from typing import Any

import grpc
import torch
from ray import serve
from ray.serve import Application

from errata.artifacts.remote import RemoteArtifacts
from errata.artifacts.source import ArtifactSource
from errata.artifacts.store import ArtifactStore
from errata.errors import ErrataError
from errata.platform.metrics import REPLICAS_WANTED, metrics_endpoint, note_service
from errata.platform.server import open_channel
from errata.platform.settings import Settings, load_settings
from errata.platform.status_convert import to_status
from errata.platform.telemetry import configure_logging
from errata.platform.tracing import configure_tracing, span
from errata.replica.base_model import load_base_model
from errata.worker import convert
from errata.worker.metrics import EngineCollector
from errata.worker.replica import Replica
from errata_client._gen.errata.v1 import inference_pb2

DEPLOYMENT = "worker"
_METRICS_PORTS = 32  # replicas of one machine take the first free one


class Worker:
    """Serve's view of a replica; requests and responses are the API's own messages."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, environment: dict[str, str]
    ) -> None:
        """Loads the model and catches up; Serve sends no request before this is done.

        Args:
            environment: the deployment's settings, as `Settings.environment` gives them.
        """
        os.environ.update(environment)
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format, "worker")
        configure_tracing(settings.tracing, "worker")
        note_service("worker")
        REPLICAS_WANTED.labels("worker").set(settings.worker.num_replicas)
        if settings.model.device == "cpu":
            torch.set_num_threads(settings.worker.num_threads)
        name = serve.get_replica_context().replica_id.unique_id
        self._channel = open_channel(settings.log.address)
        self._replica = Replica(
            f"worker-{name}",
            load_base_model(settings),
            _artifacts(settings, self._channel),
            settings.log.address,
            settings.worker,
        )
        with ExitStack() as metrics:
            # Before it catches up, so that one which takes long can be watched.
            metrics.enter_context(
                metrics_endpoint(
                    settings.worker.metrics_address,
                    EngineCollector(self._replica.engine),
                    spread=_METRICS_PORTS,
                )
            )
            await self._replica.start()
            self._metrics = metrics.pop_all()

    def check_health(self) -> None:
        """Serve takes the replica out of rotation and replaces it when this raises."""
        self._replica.check_health()

    async def generate(
        self, request: inference_pb2.GenerateRequest, timeout_seconds: float, parent: str = ""
    ) -> inference_pb2.GenerateResponse:
        """A whole continuation; `parent` is the caller's trace."""
        pieces = self._replica.generate(request, streaming=False, timeout_seconds=timeout_seconds)
        with span("generate", parent=parent, replica=self._replica.name):
            async with aclosing(pieces):
                return convert.answer(self._replica.model, await anext(pieces), self._replica.name)

    async def try_generate(
        self, request: inference_pb2.GenerateRequest, timeout_seconds: float
    ) -> inference_pb2.ReplicaAnswer:
        """As `generate`, with this replica's name on the answer or on the error."""
        answer = inference_pb2.ReplicaAnswer(replica=self._replica.name)
        try:
            answer.response.CopyFrom(await self.generate(request, timeout_seconds))
        except ErrataError as error:
            answer.error.CopyFrom(to_status(error))
        return answer

    async def stream_generate(
        self, request: inference_pb2.StreamGenerateRequest, timeout_seconds: float
    ) -> AsyncIterator[inference_pb2.StreamGenerateResponse]:
        """A continuation as it is made."""
        pieces = self._replica.generate(request, streaming=True, timeout_seconds=timeout_seconds)
        async with aclosing(pieces):
            async for piece in pieces:
                yield convert.chunk(self._replica.model, piece, self._replica.name)

    async def score(
        self, request: inference_pb2.ScoreRequest, timeout_seconds: float
    ) -> inference_pb2.ScoreResponse:
        """A scored continuation."""
        token_ids, scored = await self._replica.score(request, timeout_seconds=timeout_seconds)
        return convert.score(self._replica.model, token_ids, scored, self._replica.name)

    async def __del__(self) -> None:
        """Serve calls this when it has drained the replica."""
        self._metrics.close()
        await self._replica.close()
        await self._channel.close()


def _artifacts(settings: Settings, log: grpc.aio.Channel) -> ArtifactSource:
    """A shared store if workers see one; else the log service, which is asked once per artifact."""
    if settings.artifacts.worker_url:
        return ArtifactStore(settings.artifacts.worker_url)
    return RemoteArtifacts(log)


def build_app(settings: Settings) -> Application:
    """The Serve application for these settings."""
    worker = settings.worker
    deployment: Any = serve.deployment(Worker)
    scaling: dict[str, Any] = {"num_replicas": worker.num_replicas}
    if worker.max_replicas > worker.num_replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": worker.num_replicas,
                "max_replicas": worker.max_replicas,
                "target_ongoing_requests": worker.max_batch_size,
            }
        }
    configured = deployment.options(
        name=DEPLOYMENT,
        **scaling,
        # All that the engine can run or queue: beyond that, Serve holds requests back, and
        # beyond its own queue it pushes back.
        max_ongoing_requests=worker.max_batch_size + worker.max_queue,
        max_queued_requests=worker.max_queue,
        ray_actor_options={"num_cpus": worker.num_cpus, "num_gpus": worker.num_gpus},
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_timeout_s=worker.drain_seconds + 10.0,
        graceful_shutdown_wait_loop_s=0.5,
    )
    app: Application = configured.bind(settings.environment())
    return app
