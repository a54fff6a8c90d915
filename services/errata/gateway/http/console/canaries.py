"""Canaries: the list with a form to open one, and one canary with both of its arms."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from errata.editing.canaries import WHOLE, OpenCanary
from errata.editing.namespaces import reading_of
from errata.errors import InvalidRequestError, NotFoundError
from errata.gateway.http.console import calls_convert as calls
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.pages import Pages
from errata.gateway.http.console.visit import Visit
from errata.platform.typed import CANARIES, canary_of, seconds_of, share_of
from errata_client.canary import Canary, CanaryRule, CanaryState

_PAGE = 25
_SHOWN_EDITS = 25
_MAX_DIGITS = 18
_TRIED_KEYS = 20_000
_PRESETS = {"max_error_increase": "1%", "promote_after": "0"}
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_DONE = {
    "opened": "Opened. Submit its edits with a new edit that names it.",
    "set": "Changed: every replica decides by it now.",
    "promote": "Promoted: its edits are in force for every request that reads their namespace.",
    "roll_back": "Rolled back: its edits have no effect any more.",
}


class CanariesPage:
    """`/console/canaries`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages

    async def show(self, visit: Visit) -> Response:
        """A page of canaries, newest first; `?only=open` leaves out those that ended."""
        only_open = visit.asked("only") == "open"
        found, lanes = await asyncio.gather(
            self._backend.call(
                visit.request, calls.canaries(_PAGE, visit.asked("page"), only_open=only_open)
            ),
            self._backend.call(visit.request, calls.lanes()),
        )
        asked = {"only": "open"} if only_open else {}
        more = urlencode({**asked, "page": found.next_page_token})
        return self._pages.page(
            visit,
            "canaries",
            canaries=found.items,
            lanes=lanes,
            only_open=only_open,
            presets=_PRESETS,
            more=f"/console/canaries?{more}" if found.next_page_token else "",
        )

    async def act(self, visit: Visit) -> Response:
        """Opens a canary.

        Raises:
            InvalidRequestError: a field cannot be read.
        """
        name = canary_of(visit.typed("name"))
        if not name:
            raise InvalidRequestError("there is no name; type one.", field="name")
        call = calls.canary_setting(
            name,
            share_of(visit.typed("share"), "share"),
            visit.typed("lane"),
            visit.typed("namespace"),
            _readers(visit),
            _rule(visit),
            True,
            visit.typed("comment"),
            visit.name,
            visit.request_id,
        )
        canary = await self._backend.call(visit.request, call)
        return RedirectResponse(f"/console/{canary.name}?done=opened", 303)


class CanaryPage:
    """`/console/canaries/{canary}`."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        """Prepares."""
        self._backend = backend
        self._pages = pages

    async def show(self, visit: Visit) -> Response:
        """Who is in it, what both arms did, its edits, and what can be done with it."""
        canary = await self._canary(visit)
        newest = canary.edits[: -_SHOWN_EDITS - 1 : -1]
        edits = await asyncio.gather(
            *(self._backend.call(visit.request, calls.edit(name)) for name in newest)
        )
        return self._pages.page(
            visit,
            "canary",
            canary=canary,
            edits=edits,
            is_open=canary.state is CanaryState.OPEN,
            acted=visit.typed("act"),
            done=_DONE.get(visit.asked("done"), ""),
        )

    async def act(self, visit: Visit) -> Response:
        """Changes its audience, promotes it or rolls it back.

        Raises:
            InvalidRequestError: something else is wanted, or a field cannot be read.
        """
        wanted, comment = visit.typed("act"), visit.typed("comment")
        if wanted not in ("set", "promote", "roll_back"):
            raise InvalidRequestError("choose one of the buttons.", field="act")
        if wanted == "set":
            share = share_of(visit.typed("share"), "share")
            now = await self._canary(visit)
            readers = _readers(visit)
            is_same = (share, readers) == (now.share, list(now.readers))
            if is_same and comment in ("", now.comment):
                raise InvalidRequestError(
                    "nothing is different; change the share, the readers or the comment.",
                    field="share",
                )
            call = calls.canary_setting(
                now.name,
                share,
                now.lane,
                now.namespace,
                readers,
                now.rule,
                False,
                comment,
                visit.name,
                visit.request_id,
            )
        else:
            call = calls.canary_end(
                _name(visit), wanted == "promote", comment, visit.name, visit.request_id
            )
        canary = await self._backend.call(visit.request, call)
        return RedirectResponse(f"/console/{canary.name}?done={wanted}", 303)

    async def _canary(self, visit: Visit) -> Canary:
        return await self._backend.call(visit.request, calls.canary(_name(visit)))


def key_within(canary: Canary) -> str:
    """A canary key whose requests are in an open canary, if they read its namespace.

    Empty if it has ended, or if so few are in it that no such key is found soon.
    """
    if canary.state is not CanaryState.OPEN or not canary.share:
        return ""
    reading = reading_of([canary.namespace])
    share_ppm = round(canary.share * WHOLE)
    here = OpenCanary(canary.name, canary.opened_seq, canary.lane, canary.namespace, share_ppm)
    tried = (f"console {number}" for number in range(_TRIED_KEYS))
    return next((key for key in tried if here.takes(reading, key)), "")


def _name(visit: Visit) -> str:
    """The canary that an address names.

    Raises:
        NotFoundError: none can have the name.
    """
    name = visit.request.path_params["canary"]
    if not _NAME.fullmatch(name):
        raise NotFoundError("there is no such canary; look for it in the list.")
    return f"{CANARIES}{name}"


def _readers(visit: Visit) -> list[str]:
    return sorted(set(visit.typed("readers").replace(",", " ").split()))


def _rule(visit: Visit) -> CanaryRule | None:
    """The rule that was typed; None without a number of requests.

    Raises:
        InvalidRequestError: a field cannot be read, or others than the number make the rule.
    """
    number = visit.typed("min_requests")
    if not number:
        for name, preset in _PRESETS.items():
            if visit.typed(name) not in ("", preset):
                raise InvalidRequestError(
                    "there is no rule without a number of requests; type one, such as 100.",
                    field="min_requests",
                )
        return None
    if not (number.isascii() and number.isdecimal()) or len(number) > _MAX_DIGITS:
        raise InvalidRequestError(
            f"min_requests is {number[:40]!r}; give a whole number.", field="min_requests"
        )
    return CanaryRule(
        int(number),
        share_of(visit.typed("max_error_increase"), "max_error_increase"),
        seconds_of(visit.typed("promote_after") or "0", "promote_after"),
    )
