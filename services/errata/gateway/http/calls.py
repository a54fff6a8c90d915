"""What every HTTP handler does: reads the body within its limit, heeds headers and departures."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from errata.gateway.http.errors import HttpError
from errata.gateway.namespaces import drawn_key, readable

R = TypeVar("R")
MIN_SEQ_HEADER = "X-Errata-Min-Seq"
NAMESPACE_HEADER = "Errata-Namespace"
CANARY_KEY_HEADER = "Errata-Canary-Key"
TIMEOUT_HEADER = "X-Request-Timeout"
_MAX_SEQ = 2**63 - 1


async def read_body(
    request: Request, limit: int, whose: str = "gateway.http_max_body_bytes"
) -> bytes:
    """The request's body.

    Args:
        request: that has it.
        limit: of its size, in bytes.
        whose: names the limit to the client.

    Raises:
        HttpError: 413, as soon as it is clear that the body has more than `limit` bytes.
        ClientDisconnect: the client left.
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limit:
        raise _too_large(limit, whose)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit, whose)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int, whose: str) -> HttpError:
    return HttpError(
        413,
        f"the body has more than {limit:,} bytes, the limit of {whose}; send less.",
        code="request_too_large",
        headers={"Connection": "close"},  # the rest of the body is not read
    )


def asked_seconds(request: Request, default: float) -> float:
    """The client's time limit, from its header.

    Raises:
        HttpError: 400, the header is no positive number.
    """
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise _bad_header(TIMEOUT_HEADER, text, "a number of seconds above 0")
    return seconds


def asked_position(request: Request, of_body: int | None) -> int | None:
    """The position that an answer must have reached: the newer one of header and body.

    Raises:
        HttpError: 400, the header is no position.
    """
    text = request.headers.get(MIN_SEQ_HEADER)
    if text is None:
        return of_body
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_SEQ))
    if not is_number or int(text) > _MAX_SEQ:
        raise _bad_header(MIN_SEQ_HEADER, text, "a position of the log")
    return max(int(text), of_body or 0)


def asked_namespaces(request: Request, of_body: Sequence[str]) -> tuple[str, ...]:
    """The namespaces that a request reads: those of its header, with commas, and of its body.

    Raises:
        InvalidRequestError, LimitExceededError, PermissionDeniedError: as `readable`.
    """
    named = ",".join(request.headers.getlist(NAMESPACE_HEADER)).split(",")
    of_header = [name.strip() for name in named if name.strip()]
    return readable(sorted({*of_header, *of_body}))


def asked_canary_key(request: Request, of_body: str) -> str:
    """The key of all choices of an answer: that of its header, else of its body, else a drawn one.

    It is drawn here, once, so that all choices are in the same canaries. A header's bytes are
    UTF-8: they are the same key as that text in a body.

    Raises:
        HttpError: 400, the header is not UTF-8.
    """
    text = request.headers.get(CANARY_KEY_HEADER, "")
    try:
        of_header = text.encode("latin-1").decode()
    except UnicodeDecodeError as error:
        raise _bad_header(CANARY_KEY_HEADER, text, "text in UTF-8") from error
    return of_header.strip() or of_body or drawn_key()


def _bad_header(name: str, text: str, wanted: str) -> HttpError:
    message = f"the header {name} is {text[:40]!r}; give {wanted}."
    return HttpError(400, message, code="invalid_header", param=name)


async def unless_left(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """The result of `work`, which is cancelled if the client leaves first; read the body before.

    Raises:
        ClientDisconnect: the client left.
    """
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
