"""The form for a correction: try it, then submit it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from starlette.responses import RedirectResponse, Response

from errata.errors import InvalidEditError
from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.pages import Pages
from errata.gateway.http.console.visit import Visit
from errata.platform.typed import canary_of
from errata_client.edits import EditSpec, EditState
from errata_client.policy import Preview
from errata_client.prompts import Chat, ChatMessage, Prompt


class ProposePage:
    """`/console/propose`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages

    async def show(self, visit: Visit) -> Response:
        """The form, with what was typed."""
        return await self._form(visit, None)

    async def act(self, visit: Visit) -> Response:
        """Previews or submits the correction."""
        spec, lane = spec_of(visit), visit.typed("lane")
        if visit.typed("act") != "submit":
            (preview,) = await self._backend.call(visit.request, calls.preview(spec, lane))
            return await self._form(visit, preview)
        (edit,) = await self._backend.call(
            visit.request, calls.submission(spec, lane, visit.name, visit.request_id)
        )
        done = "proposed" if edit.state is EditState.PROPOSED else "submitted"
        return RedirectResponse(f"/console/{edit.name}?done={done}", 303)

    async def _form(self, visit: Visit, preview: Preview | None) -> Response:
        self._backend.allow(visit.request, "EditingService", "PreviewEdits")
        lanes, model = await asyncio.gather(
            self._backend.call(visit.request, calls.lanes()),
            self._backend.call(visit.request, calls.model()),
        )
        return self._pages.page(
            visit,
            "propose",
            lanes=lanes,
            model=model,
            preview=preview,
        )


def spec_of(visit: Visit) -> EditSpec:
    """The correction that was typed.

    Raises:
        InvalidEditError: prompt or target is missing, or a time is none.
    """
    is_chat = visit.typed("kind") == "chat"
    for name in ("prompt", "target"):
        if not visit.typed(name):
            raise InvalidEditError(f"the {name} is empty; fill it in.", field=name)

    def asked(text: str) -> Prompt:
        return Chat((ChatMessage("user", text),)) if is_chat else text

    return EditSpec(
        asked(visit.typed("prompt")),
        visit.typed("target"),
        visit.typed("subject"),
        tuple(map(asked, visit.lines("rephrases"))),
        tuple(map(asked, visit.lines("probes"))),
        visit.typed("source"),
        effective_from=_time(visit, "effective_from"),
        expires_at=_time(visit, "expires_at"),
        namespace=visit.typed("namespace"),
        canary=canary_of(visit.typed("canary")),
    )


def _time(visit: Visit, name: str) -> datetime | None:
    text = visit.typed(name)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text[:40]!r} is no time; write it as 2027-01-31T09:00, in UTC."
        raise InvalidEditError(message, field=name) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
