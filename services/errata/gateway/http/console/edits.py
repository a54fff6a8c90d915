"""The list of edits: search, filters, pages.

The catalog finds them. While it is away the edit-writer lists them, in the log's order.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from starlette.responses import Response

from errata.errors import InvalidRequestError, UnavailableError
from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.calls_convert import Filters, Page
from errata.gateway.http.console.pages import Pages
from errata.gateway.http.console.visit import Visit
from errata_client.edits import Edit, EditState

_PAGE = 25
_LOG = "log"
STATES = tuple(state for state in EditState if state not in (EditState.UNKNOWN, EditState.FITTING))
"""That can be searched for; to the catalog, what is being fitted still waits for its fit."""
_FILTERS = ("q", "state", "lane", "author", "namespace", "since", "until")


class EditsPage:
    """`/console/edits`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages

    async def show(self, visit: Visit) -> Response:
        """The edits that the query wants."""
        wanted = filters_of(visit)
        (found, by_log), lanes = await asyncio.gather(
            self._found(visit, wanted), self._backend.call(visit.request, calls.lanes())
        )
        asked = {name: visit.asked(name) for name in _FILTERS if visit.asked(name)}
        more = {**asked, "page": found.next_page_token} | ({"by": _LOG} if by_log else {})
        return self._pages.page(
            visit,
            "edits",
            edits=found.items,
            lanes=lanes,
            by_log=by_log,
            asked=asked,
            states=STATES,
            first=f"/console/edits?{urlencode(asked)}" if visit.asked("page") else "",
            more=f"/console/edits?{urlencode(more)}" if found.next_page_token else "",
        )

    async def _found(self, visit: Visit, wanted: Filters) -> tuple[Page[Edit], bool]:
        """A page of edits, and whether the writer listed them."""
        token, request = visit.asked("page"), visit.request
        if visit.asked("by") != _LOG:
            try:
                typed = replace(wanted, contains=beginning(wanted.contains))
                return await self._backend.call(request, calls.found(typed, _PAGE, token)), False
            except UnavailableError:
                if token:  # of the catalog, which the writer does not understand
                    raise
        return await self._backend.call(request, calls.edits(wanted, _PAGE, token)), True


def beginning(text: str) -> str:
    """A text whose last word may be the beginning of one, as it is while somebody types."""
    return f"{text}*" if text[-1:].isalnum() and text.count('"') % 2 == 0 else text


def filters_of(visit: Visit) -> Filters:
    """The filters in a query.

    Raises:
        InvalidRequestError: an unknown state, or no date.
    """
    state = visit.asked("state")
    if state and state.upper() not in EditState.__members__:
        raise InvalidRequestError(f"there is no state {state[:40]!r}; choose one.", field="state")
    until = _day(visit, "until")
    return Filters(
        EditState[state.upper()] if state else None,
        visit.asked("lane"),
        visit.asked("author"),
        visit.asked("q"),
        _day(visit, "since"),
        until + timedelta(days=1) if until else None,
        visit.asked("namespace") or None,
    )


def _day(visit: Visit, name: str) -> datetime | None:
    text = visit.asked(name)
    if not text:
        return None
    try:
        found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        if not 1970 <= found.year < 9999:
            raise ValueError("out of range")
    except ValueError as error:
        raise InvalidRequestError(
            f"{text[:40]!r} is no date; write it as 2027-01-31.", field=name
        ) from error
    return found
