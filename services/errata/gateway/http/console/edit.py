"""One edit: its whole life, what the model answers now, and what can be done with it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from errata.errors import InvalidRequestError, NotFoundError
from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.calls_convert import Entry
from errata.gateway.http.console.canaries import key_within
from errata.gateway.http.console.pages import Pages, prompt_text
from errata.gateway.http.console.visit import Visit
from errata_client.canary import Canary, CanaryState
from errata_client.edits import Edit, EditState
from errata_client.prompts import Prompt
from errata_client.types import Answer

_NAME = re.compile(r"\d{1,19}-\d{1,9}")
_MAX_ASKED = 8
_ANSWER_TOKENS = 24
_DONE = {
    "proposed": "Proposed. Somebody else must approve it.",
    "submitted": "Accepted. It is fitted now.",
    "approve": "Approved. It is fitted now.",
    "reject": "Rejected.",
    "withdraw": "Withdrawn.",
    "revert": "Reverted: it has no effect any more.",
}


@dataclass(frozen=True, slots=True)
class Told:
    """What the model answers now.

    Attributes:
        kind: `prompt`, `rephrasing` or `probe`.
        prompt: that was asked.
        answer: with the edits behind it.
        holds: whether the answer begins with the target; None for a probe.
    """

    kind: str
    prompt: str
    answer: Answer
    holds: bool | None


class EditPage:
    """`/console/edits/{edit}`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages

    async def show(self, visit: Visit) -> Response:
        """Its life; with `?ask=now`, also what the model answers now."""
        edit = await self._edit(visit)
        moments = await self._moments(visit, edit)
        if visit.asked("ask") != "now":
            return self._shown(visit, edit, moments)
        canary = await self._canary(visit.request, edit)
        told = await self._told(visit.request, edit, canary)
        return self._shown(visit, edit, moments, told=told, canary=canary)

    async def act(self, visit: Visit) -> Response:
        """Previews, withdraws or reverts it.

        Raises:
            InvalidRequestError: something else is wanted.
        """
        edit = await self._edit(visit)
        wanted, comment = visit.typed("act"), visit.typed("comment")
        request, request_id = visit.request, visit.request_id
        if wanted == "preview":
            (preview,) = await self._backend.call(request, calls.preview_of(edit.name))
            moments = await self._moments(visit, edit)
            return self._shown(visit, edit, moments, preview=preview)
        if wanted == "withdraw":
            await self._backend.call(
                request, calls.withdrawal(edit.name, comment, visit.name, request_id)
            )
        elif wanted == "revert":
            await self._backend.call(
                request, calls.reversal(edit.name, comment, visit.name, request_id)
            )
        else:
            raise InvalidRequestError("choose one of the buttons.", field="act")
        return RedirectResponse(f"/console/{edit.name}?done={wanted}", 303)

    def _shown(
        self,
        visit: Visit,
        edit: Edit,
        moments: dict[int, Entry],
        *,
        told: Iterable[Told] = (),
        preview: object = None,
        canary: Canary | None = None,
    ) -> Response:
        return self._pages.page(
            visit,
            "edit",
            edit=edit,
            moments=moments,
            told=list(told),
            preview=preview,
            is_tried=canary is not None and canary.state is CanaryState.OPEN,
            done=_DONE.get(visit.asked("done"), ""),
            moves=edit.state in (EditState.REQUESTED, EditState.FITTING),
        )

    async def _edit(self, visit: Visit) -> Edit:
        number = visit.request.path_params["edit"]
        if not _NAME.fullmatch(number):
            raise NotFoundError("there is no such edit; look for it in the list.")
        return await self._backend.call(visit.request, calls.edit(f"edits/{number}"))

    async def _moments(self, visit: Visit, edit: Edit) -> dict[int, Entry]:
        """The entries of its life, by position; none for somebody who may not read the log."""
        if not visit.may("ListEntries"):
            return {}
        decided = edit.review.seq if edit.review else 0
        requested = int(edit.name.removeprefix("edits/").partition("-")[0])
        wanted = {requested, decided, edit.commit_seq, edit.revert_seq} - {0}
        head = await self._backend.call(visit.request, calls.head())
        pages = await asyncio.gather(
            *(
                self._backend.call(visit.request, calls.entries(seq, 1))
                for seq in wanted
                if seq >= head.floor_seq  # earlier ones are in the archive
            )
        )
        return {entry.shown.seq: entry for page in pages for entry in page.items}

    async def _canary(self, request: Request, edit: Edit) -> Canary | None:
        if not edit.spec.canary:
            return None
        return await self._backend.call(request, calls.canary(edit.spec.canary))

    async def _told(self, request: Request, edit: Edit, canary: Canary | None) -> list[Told]:
        spec = edit.spec
        key, reads = "", calls.read_by(spec)
        if canary is not None:  # only a request that is in it reads the edit
            key = await asyncio.to_thread(key_within, canary)
            if not key and canary.state is CanaryState.OPEN:
                reads = (*reads, *canary.readers[:1])
        asked: list[tuple[str, Prompt]] = [("prompt", spec.prompt)]
        asked += [("rephrasing", each) for each in spec.rephrases]
        asked += [("probe", each) for each in spec.locality_probes]
        asked = asked[:_MAX_ASKED]
        position = edit.revert_seq or edit.commit_seq or None
        answers = await asyncio.gather(
            *(
                self._backend.call(
                    request,
                    calls.answer(prompt, position, _ANSWER_TOKENS, reads, key),
                )
                for _, prompt in asked
            )
        )
        target = spec.target.strip()
        return [
            Told(
                kind,
                prompt_text(prompt),
                answer,
                None if kind == "probe" else answer.text.strip().startswith(target),
            )
            for (kind, prompt), answer in zip(asked, answers, strict=True)
        ]
