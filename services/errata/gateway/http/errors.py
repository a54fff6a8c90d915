"""Errors in the OpenAI API's form: one body and one status for each failure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from errata import errors
from errata.platform.capped import MAX_METADATA_ITEMS, capped
from errata.platform.status import code_of
from errata.platform.tracing import trace_parent

_log = structlog.get_logger(__name__)
_MAX_MESSAGE_BYTES, _MAX_NAME_BYTES = 1_024, 256

CLIENT_LEFT = 499
"""Status, as nginx names it, of a request whose client left; nobody receives it."""

# The mapping of google/rpc/code.proto, which gRPC gateways use.
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# Clients repeat what gets 429 or 5xx; these fail again.
_NEVER_RETRIED = {errors.LimitExceededError: 400, errors.QueueFullError: 429}

# The request's names for fields of the protos.
_PARAMS = (
    (re.compile(r"^chat\.tools_json"), "tools"),
    (re.compile(r"^chat$"), "messages"),
    (re.compile(r"^(chat|sampling)\."), ""),
    (re.compile(r"^num_alternatives$"), "top_logprobs"),
)


class HttpError(Exception):
    """A failure that only the HTTP API can have.

    Args:
        status: of the response.
        message: names the subject and the remedy.
        code: for programs, such as `unknown_parameter`.
        param: the parameter at fault.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed request's response.

    Attributes:
        status: of the response.
        body: as the OpenAI API has it, with the reason and metadata of Errata's own errors under
            `error.errata`.
        headers: such as `Retry-After`.
    """

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The failure as a response."""
        return JSONResponse(self.body, self.status, self.headers)


def failure_of(error: Exception) -> Failure:
    """The response to a request that raised `error`; an unexpected error is logged."""
    if isinstance(error, errors.ErrataError):
        return _of_errata(error)
    if isinstance(error, HttpError):
        body = _body(error.status, error.message, error.code, error.param)
        return Failure(error.status, body, error.headers)
    if isinstance(error, ValidationError):
        return failure_of(_of_validation(error))
    if isinstance(error, HTTPException):
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        body = _body(error.status_code, f"{error.detail}; see /docs.", code)
        return Failure(error.status_code, body, dict(error.headers or {}))
    if isinstance(error, ClientDisconnect):
        return Failure(CLIENT_LEFT, _body(CLIENT_LEFT, "the client left.", "client_left"))
    trace_id = trace_parent().split("-")[1] if trace_parent() else uuid.uuid4().hex
    _log.error(
        "unexpected error in a handler", trace_id=trace_id, exception=errors.traceback_of(error)
    )
    message = f"internal error; the gateway's log has it under trace {trace_id}."
    return Failure(500, _body(500, message, "internal"))


def _of_errata(error: errors.ErrataError) -> Failure:
    kind = type(error)
    status = next(
        (_NEVER_RETRIED[ancestor] for ancestor in kind.__mro__ if ancestor in _NEVER_RETRIED), None
    )
    if status is None:
        status = 500 if kind is errors.ErrataError else _STATUSES[code_of(kind)]
    body = _body(status, error.message, error.reason.lower(), _param(error.field))
    shown = list(error.metadata.items())[:MAX_METADATA_ITEMS]
    metadata = {name: capped(value, _MAX_NAME_BYTES) for name, value in shown}
    body["error"]["errata"] = {"reason": error.reason, "metadata": metadata}
    headers = {}
    if isinstance(error, errors.UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.QueueFullError) and error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
    if isinstance(error, errors.UnavailableError) and error.only_by_caller:
        headers["X-Should-Retry"] = "false"  # the SDKs of the OpenAI API heed it
    return Failure(status, body, headers)


def _param(name: str | None) -> str | None:
    for pattern, instead in _PARAMS:
        if name and pattern.search(name):
            return pattern.sub(instead, name)
    return name


def _body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, kind
    )
    named = param and capped(param, _MAX_NAME_BYTES)
    message = capped(message, _MAX_MESSAGE_BYTES)
    return {"error": {"message": message, "type": kind, "param": named, "code": code}}


def _of_validation(error: ValidationError) -> HttpError:
    """The first thing that is wrong with a body, in words like the OpenAI API's."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = _path(first["loc"])
    match first["type"]:
        case "json_invalid":
            return HttpError(
                400, f"the body is not valid JSON: {first['msg']}.", code="invalid_json"
            )
        case "extra_forbidden":
            return HttpError(
                400, f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param
            )
        case "missing":
            message = f"Missing required parameter: '{param}'."
            return HttpError(400, message, code="missing_required_parameter", param=param)
        case "unsupported_parameter":
            return HttpError(400, first["msg"], code="unsupported_parameter", param=param)
    subject = f"Invalid value for '{param}'" if param else "Invalid body"
    return HttpError(400, f"{subject}: {first['msg']}.", code="invalid_value", param=param or None)


def _path(location: tuple[int | str, ...]) -> str:
    """A path such as `messages[0].role`."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path
