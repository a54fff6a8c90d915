"""Asks greedily over HTTP what `AsyncClient` asks over gRPC, in chats if the model takes them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Self

from errata.errors import InvalidRequestError, StartupError
from errata_client import Answer, Chunk, ErrataError, Provenance

_EVENT = "data: "


def check_http_url(url: str) -> None:
    """Returns if a running system's HTTP API is named.

    Raises:
        InvalidRequestError: it is not.
    """
    if not url:
        raise InvalidRequestError(
            "name the HTTP API of the running system, too, as in --http-url http://127.0.0.1:7701.",
            field="http_url",
        )


class HttpClient:
    """The part of `AsyncClient` that load runs use; a context manager."""

    def __init__(self, url: str, timeout: float) -> None:
        """Prepares; entering it connects.

        Args:
            url: of the gateway, without a path.
            timeout: of each request, in seconds.

        Raises:
            StartupError: httpx2 is not installed.
        """
        try:
            import httpx2
        except ImportError as error:
            raise StartupError("httpx2 is not installed; install errata[bench].") from error
        self._http = httpx2.AsyncClient(
            base_url=url,
            timeout=timeout,
            limits=httpx2.Limits(max_connections=None),
            headers={"X-Request-Timeout": str(timeout)},
        )
        self._failures = httpx2.HTTPError
        self._model: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        self._model = (await self._http.get("/v1/models")).json()["data"][0]
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._http.aclose()

    @property
    def path(self) -> str:
        """Where it asks."""
        return "/v1/chat/completions" if self._chats else "/v1/completions"

    @property
    def _chats(self) -> bool:
        return bool(self._model["has_chat_template"])

    def _body(self, prompt: str, max_tokens: int, min_seq: int) -> dict[str, Any]:
        asked: dict[str, Any] = {"prompt": prompt}
        if self._chats:
            asked = {"messages": [{"role": "user", "content": prompt}]}
        common = {"max_tokens": max_tokens, "min_seq": min_seq, "temperature": 0}
        return {"model": self._model["id"], **asked, **common}

    async def generate(self, prompt: str, *, max_tokens: int, min_seq: int = 0) -> Answer:
        """The greedy answer.

        Raises:
            ErrataError: the gateway refused, or the connection failed.
        """
        body = self._body(prompt, max_tokens, min_seq)
        try:
            response = await self._http.post(self.path, json=body)
        except self._failures as error:
            raise _broken(error) from error
        found = response.json()
        if response.is_error:
            raise _refused(found)
        (choice,) = found["choices"]
        usage = found["usage"]
        return Answer(
            choice["message"]["content"] if self._chats else choice["text"],
            choice["finish_reason"],
            usage["prompt_tokens"],
            usage["completion_tokens"],
            _provenance(found["errata"]),
        )

    async def stream(
        self, prompt: str, *, max_tokens: int, min_seq: int = 0
    ) -> AsyncIterator[Chunk]:
        """The greedy answer in pieces.

        Raises:
            ErrataError: as `generate`; also for a stream that ends without its last event.
        """
        body = {**self._body(prompt, max_tokens, min_seq), "stream": True}
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        complete = False
        try:
            async with self._http.stream("POST", self.path, json=body) as response:
                if response.is_error:
                    await response.aread()
                    raise _refused(response.json())
                async for line in response.aiter_lines():
                    if not line.startswith(_EVENT):
                        continue
                    text = line.removeprefix(_EVENT)
                    complete = text == "[DONE]"
                    chunk = None if complete else self._chunk(json.loads(text))
                    if chunk is not None:
                        yield chunk
        except self._failures as error:
            raise _broken(error) from error
        if not complete:
            raise ErrataError("the stream ended without its last event.", reason="INCOMPLETE")

    def _chunk(self, found: dict[str, Any]) -> Chunk | None:
        """A piece; None for the last chunk, which has only the usage."""
        if "error" in found:
            raise _refused(found)
        if not found["choices"]:
            return None
        (choice,) = found["choices"]
        return Chunk(
            choice["delta"].get("content", "") if self._chats else choice["text"],
            choice["finish_reason"] or "",
            found["usage"]["completion_tokens"],
            _provenance(found["errata"]),
        )


def _provenance(found: dict[str, Any]) -> Provenance:
    return Provenance(**{**found, "edits": tuple(found["edits"])})


def _refused(found: dict[str, Any]) -> ErrataError:
    error = found["error"]
    return ErrataError(error["message"], reason=str(error["code"]).upper())


def _broken(error: Exception) -> ErrataError:
    return ErrataError(f"the connection failed: {type(error).__name__}.", reason="UNAVAILABLE")
