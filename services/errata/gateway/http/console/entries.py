"""Runs of the log's entries, as pages show them."""

from __future__ import annotations

from starlette.requests import Request

from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.calls_convert import Entry


async def entries_between(
    backend: Backend, request: Request, first: int, last: int, *, with_content: bool = False
) -> list[Entry]:
    """All entries from one position to another, in order.

    The log service ends a page before it has 2 MiB, so that one call may bring fewer.

    Args:
        backend: to ask.
        request: of the page.
        first: position of the first one.
        last: position of the last one.
        with_content: whether their content is wanted.
    """
    found: list[Entry] = []
    while first <= last:
        size = last - first + 1
        call = calls.entries(first, size, with_content=with_content)
        items = (await backend.call(request, call)).items
        if not items:
            break
        found += items
        first = items[-1].shown.seq + 1
    return found
