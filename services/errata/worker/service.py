"""Handlers of Ray Serve: each Serve replica holds one `Replica`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing

import grpc
import torch
from ray import serve

from errata.artifacts.remote import RemoteArtifacts
from errata.artifacts.source import ArtifactSource
from errata.artifacts.store import ArtifactStore
from errata.errors import ErrataError
from errata.platform.failpoints import configure_failpoints
from errata.platform.metrics import REPLICAS_WANTED, metrics_endpoint, note_service
from errata.platform.security.active import Security, configure_security
from errata.platform.server import open_channel
from errata.platform.settings import Settings, load_settings
from errata.platform.telemetry import configure_logging
from errata.platform.tracing import configure_tracing, span
from errata.replica.base_model import load_base_model
from errata.worker import convert
from errata.worker.admission import GenerationInput, ScoringInput
from errata.worker.metrics import EngineCollector
from errata.worker.replica import Replica
from errata_client._gen.errata.v1 import inference_pb2

_METRICS_PORTS = 32  # replicas on one machine take the first free one


class Worker:
    """Serve's view of a replica; requests and responses are the API's own messages."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, environment: dict[str, str]
    ) -> None:
        """Loads the model and applies the log; Serve sends no request before this is done.

        Args:
            environment: the deployment's settings, as `Settings.environment` returns them.
        """
        os.environ.update(environment)
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format, "worker")
        configure_failpoints(settings.failpoints)
        configure_tracing(settings.tracing, "worker")
        note_service("worker")
        REPLICAS_WANTED.labels("worker").set(settings.worker.num_replicas)
        if settings.model.device == "cpu":
            torch.set_num_threads(settings.worker.num_threads)
        configure_security(Security(settings.worker.own_certificate(settings.security)))
        self._settings = settings
        name = serve.get_replica_context().replica_id.unique_id
        self._channel = open_channel(settings.log.dialled)
        self._replica = Replica(
            f"worker-{name}",
            load_base_model(settings),
            _artifacts(settings, self._channel),
            settings.log.dialled,
            settings.worker,
        )
        with ExitStack() as metrics:
            # Before the log is applied, so that a long start can be watched.
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
        """When this raises, Serve takes the replica out of rotation and replaces it."""
        self._replica.check_health()

    async def generate(
        self, request: inference_pb2.GenerateRequest, timeout_seconds: float, parent: str = ""
    ) -> inference_pb2.GenerateResponse:
        """A whole continuation; `parent` is the caller's trace."""
        asked = convert.generation_input(request)
        pieces = self._replica.generate(asked, streaming=False, timeout_seconds=timeout_seconds)
        with span("generate", parent=parent, replica=self._replica.name):
            # To the generator's end, where the answer is counted.
            whole = [piece async for piece in pieces][-1]
            return convert.answer(self._replica.model, whole, self._asker(asked))

    async def try_generate(
        self, request: inference_pb2.GenerateRequest, timeout_seconds: float
    ) -> inference_pb2.ReplicaAnswer:
        """As `generate`, with this replica's name on the answer or on the error."""
        try:
            answer = await self.generate(request, timeout_seconds)
        except ErrataError as error:
            return convert.replica_answer(self._replica.name, error)
        return convert.replica_answer(self._replica.name, answer)

    async def stream_generate(
        self, request: inference_pb2.StreamGenerateRequest, timeout_seconds: float
    ) -> AsyncIterator[inference_pb2.StreamGenerateResponse]:
        """A continuation as it is made."""
        asked = convert.generation_input(request)
        pieces = self._replica.generate(asked, streaming=True, timeout_seconds=timeout_seconds)
        asker = self._asker(asked)
        async with aclosing(pieces):
            async for piece in pieces:
                yield convert.chunk(self._replica.model, piece, asker)

    async def score(
        self, request: inference_pb2.ScoreRequest, timeout_seconds: float
    ) -> inference_pb2.ScoreResponse:
        """A scored continuation."""
        asked = convert.scoring_input(request)
        token_ids, scored = await self._replica.score(asked, timeout_seconds=timeout_seconds)
        return convert.score(self._replica.model, token_ids, scored, self._asker(asked))

    def _asker(self, asked: GenerationInput | ScoringInput) -> convert.Asker:
        return convert.Asker(self._replica.name, asked)

    async def get_model(
        self, request: inference_pb2.GetModelRequest, timeout_seconds: float
    ) -> inference_pb2.GetModelResponse:
        """The model that is served, and its limits."""
        settings = self._settings
        return convert.model_message(
            self._replica.model, settings.model.served_name, settings.worker
        )

    async def __del__(self) -> None:
        """Serve calls this after it has drained the replica."""
        self._metrics.close()
        await self._replica.close()
        await self._channel.close()


def _artifacts(settings: Settings, log: grpc.aio.Channel) -> ArtifactSource:
    """A shared store if workers can reach one; otherwise the log service, once per artifact."""
    max_bytes = settings.artifacts.max_bytes
    if settings.artifacts.worker_url:
        return ArtifactStore(settings.artifacts.worker_url, max_bytes=max_bytes)
    return RemoteArtifacts(log, max_bytes=max_bytes)
