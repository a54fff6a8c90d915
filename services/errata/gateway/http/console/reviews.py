"""The queue of edits that wait for approval."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from errata.errors import InvalidRequestError
from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.calls_convert import Filters
from errata.gateway.http.console.pages import Pages
from errata.gateway.http.console.visit import Visit
from errata_client.edits import EditState

_PAGE = 20


class ReviewsPage:
    """`/console/reviews`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages

    async def show(self, visit: Visit) -> Response:
        """The oldest edits that wait."""
        found = await self._backend.call(
            visit.request, calls.edits(Filters(EditState.PROPOSED), _PAGE)
        )
        named = visit.typed("name")
        missing = named if named and named not in {edit.name for edit in found.items} else ""
        return self._pages.page(
            visit,
            "reviews",
            edits=found.items,
            more=bool(found.next_page_token),
            named=named,
            missing=missing,
        )

    async def act(self, visit: Visit) -> Response:
        """Approves or rejects an edit.

        Raises:
            InvalidRequestError: something else is wanted.
        """
        wanted = visit.typed("act")
        if wanted not in ("approve", "reject"):
            raise InvalidRequestError("choose to approve or to reject it.", field="act")
        name = visit.typed("name")
        decision = await self._backend.call(
            visit.request,
            calls.review(
                [name],
                wanted == "approve",
                visit.typed("comment"),
                visit.name,
                visit.request_id,
            ),
        )
        return RedirectResponse(f"/console/{decision.edits[0].name}?done={wanted}", 303)
