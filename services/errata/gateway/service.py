"""Handlers of `InferenceService`: they pass the deadline to the pool and return its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

from errata.gateway.convert import as_read, everywhere_response, request_to_each
from errata.gateway.pool import WorkerPool
from errata.gateway.rates import Rates, caller_of_call
from errata.platform.tracing import trace_parent
from errata_client._gen.errata.v1 import inference_pb2, inference_pb2_grpc


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """The worker pool's gRPC interface."""

    def __init__(self, pool: WorkerPool, default_timeout_seconds: float, rates: Rates) -> None:
        """Serves `pool`; calls without a deadline get the default timeout."""
        self._pool = pool
        self._default = default_timeout_seconds
        self._rates = rates

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> inference_pb2.GenerateResponse:
        """Continues a prompt."""
        self._rates.answer(caller_of_call(context))
        response = await self._pool.call(
            "generate", as_read(request), self._seconds(context), trace_parent()
        )
        return cast("inference_pb2.GenerateResponse", response)

    async def StreamGenerate(
        self, request: inference_pb2.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[inference_pb2.StreamGenerateResponse]:
        """Continues a prompt, token by token."""
        self._rates.answer(caller_of_call(context))
        asked = as_read(request)
        stream = self._pool.stream("stream_generate", asked, self._seconds(context))
        async for message in stream:
            yield message

    async def Score(
        self, request: inference_pb2.ScoreRequest, context: Any
    ) -> inference_pb2.ScoreResponse:
        """Scores a continuation."""
        self._rates.answer(caller_of_call(context))
        response = await self._pool.call("score", as_read(request), self._seconds(context))
        return cast("inference_pb2.ScoreResponse", response)

    async def GenerateEverywhere(
        self, request: inference_pb2.GenerateEverywhereRequest, context: Any
    ) -> inference_pb2.GenerateEverywhereResponse:
        """Continues a prompt on every live replica."""
        self._rates.answer(caller_of_call(context))
        one = request_to_each(as_read(request))
        answers = await self._pool.everywhere("try_generate", one, self._seconds(context))
        return everywhere_response(answers)

    async def GetModel(
        self, request: inference_pb2.GetModelRequest, context: Any
    ) -> inference_pb2.GetModelResponse:
        """The model that is served, and its limits."""
        response = await self._pool.call("get_model", request, self._seconds(context))
        return cast("inference_pb2.GetModelResponse", response)

    def _seconds(self, context: Any) -> float:
        left: float | None = context.time_remaining()
        return self._default if left is None else left
