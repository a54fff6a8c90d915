"""The log: its entries by page, and what a browser needs to verify the chain itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from starlette.responses import JSONResponse, Response

from errata.errors import DataLossError, InvalidRequestError
from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.calls_convert import Entry
from errata.gateway.http.console.entries import entries_between
from errata.gateway.http.console.pages import HEADERS, Pages
from errata.gateway.http.console.visit import Visit
from errata.log.chain import ORIGIN, Position, verify_run

_PAGE = 20
_CHAIN_PAGE = 200
_MAX_DIGITS = 18


class LogPage:
    """`/console/log`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages

    async def show(self, visit: Visit) -> Response:
        """A page of entries, newest first; `?to=` is the newest one that is wanted."""
        head = await self._backend.call(visit.request, calls.head())
        floor = max(head.floor_seq, 1)
        last = min(_position(visit, "to") or head.seq, head.seq)
        first = max(floor, last - _PAGE + 1)
        entries: list[Entry] = []
        before = None
        if floor <= last:
            start = max(floor, first - 1)  # with the one before, whose digest is the page's start
            entries = await entries_between(
                self._backend, visit.request, start, last, with_content=True
            )
            if start < first and entries:
                before, *entries = entries
        return self._pages.page(
            visit,
            "log",
            head=head,
            floor=floor,
            entries=entries[::-1],
            problem=problem_of(before, entries),
            newer=min(last + _PAGE, head.seq) if last < head.seq else 0,
            older=first - 1 if first > floor else 0,
        )

    async def chain(self, visit: Visit) -> Response:
        """Entries as stored, in JSON: `?from=` is the first one."""
        head = await self._backend.call(visit.request, calls.head())
        floor = max(head.floor_seq, 1)
        first = max(_position(visit, "from") or floor, floor)
        found: list[Entry] = []
        if first <= head.seq:
            page = await self._backend.call(visit.request, calls.entries(first, _CHAIN_PAGE))
            found = page.items
        return JSONResponse(
            {
                "head_seq": head.seq,
                "head_digest": head.chain_digest,
                "floor_seq": floor,
                "entries": [
                    {
                        "seq": entry.stored.seq,
                        "payload": base64.b64encode(entry.stored.payload).decode(),
                        "chain_digest": entry.stored.chain_digest.hex(),
                    }
                    for entry in found
                ],
            },
            headers=HEADERS,
        )


def problem_of(before: Entry | None, entries: Sequence[Entry]) -> str:
    """What breaks the chain of a page's entries; empty if nothing does.

    Args:
        before: the entry before the first one; None if there is none to be had.
        entries: of the page, in order.
    """
    stored = [entry.stored for entry in entries]
    if before is not None:
        base = before.stored.position
    elif not stored:
        return ""
    elif stored[0].seq == 1:
        base = ORIGIN
    else:  # the first entry that is kept: those before it are in the archive
        base, stored = Position(stored[0].seq, stored[0].chain_digest), stored[1:]
    try:
        verify_run(base, stored)
    except DataLossError as error:
        return error.message
    return ""


def _position(visit: Visit, name: str) -> int | None:
    text = visit.asked(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_DIGITS:
        raise InvalidRequestError(f"{text[:40]!r} is no position; give a whole number.", field=name)
    return int(text)
