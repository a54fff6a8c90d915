"""Calls the worker pool through Serve handles, and turns Ray's failures into Errata's errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import ray.exceptions
import structlog
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from errata.errors import ErrataError, QueueFullError, UnavailableError
from errata.worker.deployment import DEPLOYMENT

T = TypeVar("T")
_GENERATE = "generate"
_log = structlog.get_logger(__name__)


class WorkerPool:
    """The replicas of one Serve application."""

    def __init__(self, application: str, on_answer: Callable[[Any], None] = lambda _: None) -> None:
        """Gets the application's handle; Ray must be connected.

        Args:
            application: in Ray Serve.
            on_answer: called with each generated answer, or with the last message of a stream.
        """
        self._handle: Any = serve.get_deployment_handle(DEPLOYMENT, application)
        self._on_answer = on_answer

    async def call(self, method: str, request: Any, timeout_seconds: float, *more: object) -> Any:
        """Calls any free replica, at most one.

        Serve itself asks the next replica if one is dead, draining or full before it has accepted
        the request. A replica that dies afterwards may have died of the request, which therefore is
        not tried on another one.

        Args:
            method: of the deployment.
            request: the method's first argument.
            timeout_seconds: the second argument.
            more: further arguments.

        Raises:
            ErrataError: the replica's own error, or UnavailableError or QueueFullError of the pool.
        """
        try:
            response = await _cancellable(
                getattr(self._handle, method).remote(request, timeout_seconds, *more)
            )
        except Exception as error:
            raise _translated(error, method) from error
        if method == _GENERATE:
            self._on_answer(response)
        return response

    async def stream(self, method: str, request: Any, timeout_seconds: float) -> AsyncIterator[Any]:
        """One streamed call; not retried, because the caller can have seen its first messages.

        Raises:
            ErrataError: as `call`.
        """
        handle = getattr(self._handle.options(stream=True), method)
        responses = handle.remote(request, timeout_seconds)
        last = None
        try:
            async for message in responses:
                last = message
                yield message
        except (asyncio.CancelledError, GeneratorExit):
            responses.cancel()
            raise
        except Exception as error:
            raise _translated(error, method) from error
        if last is not None:
            self._on_answer(last)

    async def everywhere(self, method: str, request: Any, timeout_seconds: float) -> list[Any]:
        """One call to every live replica.

        Raises:
            ErrataError: as `call`.
        """
        response = self._handle.broadcast(method, request, timeout_seconds)
        try:
            return list(await response.results_async(timeout_s=timeout_seconds + 1))
        except Exception as error:
            raise _translated(error, method) from error


async def _cancellable(response: Any) -> Any:
    """Cancels the call in the replica if the caller is cancelled, which frees its row."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


def _translated(error: Exception, method: str) -> Exception:
    """The error that a caller can act on; anything else is a bug and stays unchanged."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, ErrataError):
        return cause
    if isinstance(cause, BackPressureError):
        return QueueFullError(
            "all replicas are busy; try again in a second.", retry_after_seconds=1
        )
    if isinstance(cause, ray.exceptions.RayActorError):
        _log.warning("a replica died while it ran a request", method=method)
        return UnavailableError(
            "the replica stopped while it ran the request, which was not tried on another one "
            "because it may be the cause; if it is an ordinary request, try again.",
            only_by_caller=True,
        )
    if isinstance(cause, DeploymentUnavailableError | RayServeException):
        return UnavailableError("the replica stopped; try again.")
    if isinstance(cause, TimeoutError):
        return UnavailableError("a replica did not answer in time; allow more time.")
    return error
