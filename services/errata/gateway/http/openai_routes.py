"""Handlers of the OpenAI API: chat completions, completions and models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from errata.gateway.http.calls import (
    asked_canary_key,
    asked_namespaces,
    asked_position,
    asked_seconds,
    read_body,
    unless_left,
)
from errata.gateway.http.choices import ChoiceStreams, whole
from errata.gateway.http.errors import HttpError, failure_of
from errata.gateway.http.models import ServedModel
from errata.gateway.http.openai_bodies import Bodies, headers_of
from errata.gateway.http.openai_convert import (
    Asked,
    Piece,
    chat_requests,
    completion_requests,
    merged_provenance,
)
from errata.gateway.http.openai_requests import (
    MAX_CHOICES,
    ChatBody,
    CompletionBody,
    GenerationBody,
)
from errata.gateway.http.sse import DONE, EventStream, event
from errata.gateway.rates import Rates, caller_of_request
from errata.platform.settings import GatewaySettings

if TYPE_CHECKING:
    from errata.gateway.pool import WorkerPool  # loads Ray


class OpenAiRoutes:
    """The OpenAI API on a worker pool."""

    def __init__(self, pool: WorkerPool, settings: GatewaySettings, rates: Rates) -> None:
        """Serves `pool`."""
        self._pool = pool
        self._rates = rates
        self._settings = settings
        self._model = ServedModel(
            pool, settings.http_model_aliases, settings.default_timeout_seconds
        )

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        return JSONResponse({"object": "list", "data": await self._model.described()})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`."""
        name = request.path_params["model"]
        await self._model.named(name)
        return JSONResponse(next(m for m in await self._model.described() if m["id"] == name))

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        data = await read_body(request, self._settings.http_max_body_bytes)
        body = await asyncio.to_thread(ChatBody.model_validate_json, data)
        position = asked_position(request, body.least_seq)
        reads = _reads(request, body)
        model = await self._model.named(body.model)
        asked = await asyncio.to_thread(chat_requests, body, model, position, *reads)
        bodies = Bodies(body.model, True, bool(body.logprobs), body.n or 1, body.streamed_usage)
        return await self._answer(request, body, asked, bodies)

    async def completions(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        data = await read_body(request, self._settings.http_max_body_bytes)
        body = await asyncio.to_thread(CompletionBody.model_validate_json, data)
        position = asked_position(request, body.least_seq)
        reads = _reads(request, body)
        if len(body.prompt) * (body.n or 1) > MAX_CHOICES:
            message = f"n for each prompt makes more than {MAX_CHOICES} choices; ask for fewer."
            raise HttpError(400, message, code="invalid_value", param="prompt")
        await self._model.named(body.model)
        asked = await asyncio.to_thread(completion_requests, body, position, *reads)
        with_tokens = body.logprobs is not None
        bodies = Bodies(body.model, False, with_tokens, body.n or 1, body.streamed_usage)
        return await self._answer(request, body, asked, bodies)

    async def _answer(
        self, request: Request, body: GenerationBody, asked: Sequence[Asked], bodies: Bodies
    ) -> Response:
        self._rates.answer(caller_of_request(request), len(asked))
        seconds = asked_seconds(request, self._settings.default_timeout_seconds)
        if body.stream:
            return await _stream(request, ChoiceStreams(self._pool, asked, seconds), bodies)
        answers = await unless_left(request, whole(self._pool, asked, seconds))
        found = bodies.whole(answers)
        return JSONResponse(found, headers=headers_of(found["errata"]))


def _reads(request: Request, body: GenerationBody) -> tuple[tuple[str, ...], str]:
    """The namespaces that a request reads, and its canary key."""
    return (
        asked_namespaces(request, body.read_namespaces),
        asked_canary_key(request, body.read_canary_key),
    )


async def _stream(request: Request, streams: ChoiceStreams, bodies: Bodies) -> Response:
    """Answers once the first pieces are known: until then an error has a status of its own."""
    try:
        await unless_left(request, streams.start())
    except BaseException:
        await streams.close()
        raise
    found = merged_provenance([piece.provenance for piece in streams.firsts])
    return EventStream(events(streams.pieces(), bodies), headers_of(found), streams.close)


async def events(pieces: AsyncIterator[tuple[int, Piece]], bodies: Bodies) -> AsyncIterator[bytes]:
    """The events of one answer. A failed stream ends with its error, without the last event."""
    last: dict[int, Piece] = {}
    try:
        async for index, piece in pieces:
            last[index] = piece
            yield event(bodies.chunk(index, piece))
    except Exception as error:  # noqa: BLE001 the status is sent; the error is an event
        yield event(failure_of(error).body)
        return
    if bodies.streamed_usage != "never":
        yield event(bodies.usage_chunk(last))
    yield DONE
