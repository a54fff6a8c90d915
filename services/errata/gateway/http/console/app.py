"""The console's routes: who sends a request, is its form ours, which page answers it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Match, Route

from errata.errors import (
    ErrataError,
    NotFoundError,
    PermissionDeniedError,
    RequestIdReusedError,
    UnauthenticatedError,
)
from errata.gateway.http.console.ask import AskPage
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.console.canaries import CanariesPage, CanaryPage
from errata.gateway.http.console.edit import EditPage
from errata.gateway.http.console.edits import EditsPage
from errata.gateway.http.console.lanes import LanesPage
from errata.gateway.http.console.log import LogPage
from errata.gateway.http.console.overview import OverviewPage
from errata.gateway.http.console.pages import HEADERS, Assets, Pages
from errata.gateway.http.console.propose import ProposePage
from errata.gateway.http.console.reviews import ReviewsPage
from errata.gateway.http.console.sessions import Sessions
from errata.gateway.http.console.visit import (
    CODE_FIELD,
    MAX_FORM_BYTES,
    NAME_COOKIE,
    Visit,
    read_form,
)
from errata.gateway.http.errors import failure_of
from errata.gateway.http.guard import Guard
from errata.gateway.http.observed import ROUTE_KEY
from errata.platform.security.identity import Identity
from errata.platform.settings import GatewaySettings

Show = Callable[[Visit], Awaitable[Response]]
HOME, LOGIN, LOGOUT = "/console", "/console/login", "/console/logout"
_KEPT = "kept"
_SMALL = 64 * 1024  # a token, an address, a code
_ONLY_EDIT = "edits[0]."  # a form has one
_SENT_BEFORE = (
    "this form was sent before with other content, and nothing was done now; look at the list of "
    "{things}, or send it again as a new one."
)
# Strict cookies do not come with a link from elsewhere; they come with the page's own second try.
_AGAIN = '<!doctype html><meta http-equiv="refresh" content="0"><title>Errata</title>'


@dataclass(frozen=True, slots=True)
class _Place:
    """A path, and what answers it.

    Attributes:
        path: may hold one parameter.
        show: answers GET, and shows a form again.
        act: answers POST; None if nothing can be sent.
        is_open: whether people without a session come here.
        max_bytes: of its form.
    """

    path: str
    show: Show
    act: Show | None = None
    is_open: bool = False
    max_bytes: int = MAX_FORM_BYTES


class Console:
    """All pages, behind sessions and codes of forms."""

    def __init__(
        self, backend: Backend, guard: Guard, settings: GatewaySettings, *, secure: bool
    ) -> None:
        """Prepares the pages.

        Args:
            backend: that pages ask.
            guard: knows callers.
            settings: of the gateway.
            secure: whether the gateway listens with TLS.

        Raises:
            StartupError: the key of the sessions cannot be used.
        """
        self._guard = guard
        self._limit = settings.http_max_body_bytes
        self._sessions = Sessions(
            settings.console_key_file, settings.console_session_seconds, secure=secure
        )
        self._assets = Assets()
        self._pages = Pages(self._assets, authenticates=guard.demands_credentials)
        edit, propose = EditPage(backend, self._pages), ProposePage(backend, self._pages)
        reviews, ask = ReviewsPage(backend, self._pages), AskPage(backend, self._pages)
        canaries, canary = CanariesPage(backend, self._pages), CanaryPage(backend, self._pages)
        lanes, log = LanesPage(backend, self._pages), LogPage(backend, self._pages)
        self._places = (
            _Place(HOME, OverviewPage(backend, self._pages).show),
            _Place("/console/edits", EditsPage(backend, self._pages).show),
            _Place("/console/edits/{edit}", edit.show, edit.act),
            _Place("/console/propose", propose.show, propose.act),
            _Place("/console/reviews", reviews.show, reviews.act),
            _Place("/console/canaries", canaries.show, canaries.act),
            _Place("/console/canaries/{canary}", canary.show, canary.act),
            _Place("/console/ask", ask.show, ask.act),
            _Place("/console/lanes", lanes.show, lanes.act),
            _Place("/console/log", log.show),
            _Place("/console/log/chain", log.chain),
            _Place(
                LOGIN,
                self._login,
                self._sign_in,
                is_open=True,
                max_bytes=MAX_FORM_BYTES + _SMALL,  # with a form that is kept
            ),
            _Place(LOGOUT, self._login, self._sign_out, is_open=True, max_bytes=_SMALL),
            _Place("/console/{rest:path}", _nowhere),
        )

    def routes(self) -> list[Route]:
        """For the application."""
        made = [Route("/console/static/{name:path}", self._static, methods=["GET"])]
        made.append(Route(f"{HOME}/", _home, methods=["GET"]))
        return [*made, *map(self._route, self._places)]

    def _route(self, place: _Place) -> Route:
        async def answer(request: Request) -> Response:
            request.scope[ROUTE_KEY] = place.path
            if request.method != "POST" and request.headers.get("sec-fetch-site") == "cross-site":
                return HTMLResponse(_AGAIN, headers=HEADERS)
            seed = self._sessions.seed(request)
            visit = Visit(
                request,
                self._sessions.form_code(seed),
                fragment="hx-request" in request.headers,
            )
            response = await self._answer(place, visit)
            self._sessions.keep_seed(request, response, seed)
            return response

        methods = ["GET"] if place.act is None else ["GET", "POST"]
        return Route(place.path, answer, methods=methods)

    async def _answer(self, place: _Place, visit: Visit) -> Response:
        request = visit.request
        try:
            if request.method == "POST":
                limit = min(place.max_bytes, self._limit)
                visit = replace(visit, fields=await read_form(request, limit))
                self._check_origin(request, visit)
            if not place.is_open:
                visit = self._signed(visit, await self._identity(request))
            if request.method != "POST" or place.act is None:
                return await place.show(visit)
            response = await self._acted(place, place.act, visit)
            self._remember_name(response, visit)
            return response
        except UnauthenticatedError:
            return await self._login(replace(visit, status=401))
        except Exception as error:  # noqa: BLE001 every failure gets a page here
            return self._failed(visit, error)

    async def _acted(self, place: _Place, act: Show, visit: Visit) -> Response:
        """The outcome of a form; or the form again, as it was typed, with what is wrong."""
        try:
            code = visit.fields.get(CODE_FIELD, "")
            subject = None if visit.identity is None else visit.identity.subject
            if not self._sessions.is_form_code(visit.request, code, subject):
                raise PermissionDeniedError(
                    "the form is of an earlier session, and nothing was done; read it again, and "
                    "send it again."
                )
            return await act(visit)
        except UnauthenticatedError:
            raise
        except ErrataError as error:
            failed = failure_of(error)
            message = error.message.replace(_ONLY_EDIT, "")
            if isinstance(error, RequestIdReusedError):
                things = "canaries" if "canaries" in place.path else "edits"
                visit, message = _with_new_id(visit), _SENT_BEFORE.format(things=things)
            response = await place.show(
                replace(visit, error=message, status=failed.status, fragment=False)
            )
            response.headers.update(failed.headers)
            return response

    def _check_origin(self, request: Request, visit: Visit) -> None:
        """Returns if a page of this console sent the form.

        Raises:
            PermissionDeniedError: another page may have.
        """
        site = request.headers.get("sec-fetch-site")  # browsers send it over HTTPS
        if site is None:
            ours = self._sessions.is_form_code(request, visit.fields.get(CODE_FIELD, ""))
        else:
            ours = site == "same-origin"  # not another host of the domain, which may set cookies
        if not ours:
            raise PermissionDeniedError(
                "this form was not made by the console for your browser, so nothing was done; open "
                "the page in the console, and send its own form."
            )

    async def _identity(self, request: Request) -> Identity | None:
        token = self._sessions.token(request)
        return await self._guard.identify(request, f"Bearer {token}" if token else "", "console")

    def _signed(self, visit: Visit, identity: Identity | None) -> Visit:
        """The visit of somebody who is known, whose forms are his alone."""
        if identity is None:
            return visit
        code = self._sessions.signed_code(visit.code, identity.subject)
        return replace(visit, identity=identity, code=code)

    def _failed(self, visit: Visit, error: Exception) -> Response:
        failed = failure_of(error)
        message = failed.body["error"]["message"]
        visit = replace(visit, status=failed.status)
        response = self._pages.page(visit, "error", message=message)
        response.headers.update(failed.headers)
        return response

    def _remember_name(self, response: Response, visit: Visit) -> None:
        if visit.identity is None and "author" in visit.fields:
            value = quote(visit.typed("author")[:100])
            response.set_cookie(NAME_COOKIE, value, path=HOME, httponly=True, samesite="strict")

    async def _login(self, visit: Visit) -> Response:
        if not self._guard.demands_credentials:
            return RedirectResponse(HOME, 303)
        if visit.fragment:
            said = self._pages.page(visit, "ended")
            said.headers["HX-Reswap"] = "outerHTML"  # also of what asks again and again
            return said
        request, kept = visit.request, dict(visit.fields)
        aim = kept.pop("next", "") or request.query_params.get("next", "")
        if request.url.path not in (LOGIN, LOGOUT):
            aim = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            kept.pop(CODE_FIELD, None)
            kept = {_KEPT: json.dumps(kept, ensure_ascii=False)} if kept else {}
        return self._pages.page(visit, "login", aim=aim or HOME, kept=kept.get(_KEPT, ""))

    async def _sign_in(self, visit: Visit) -> Response:
        token = visit.typed("token")
        try:
            identity = await self._guard.identify(
                visit.request, f"Bearer {token}" if token else "", "console"
            )
        except UnauthenticatedError as error:
            return await self._login(replace(visit, error=error.message, status=401))
        aim = visit.typed("next") or HOME
        place, request = self._place_of(visit.request, aim)
        kept = _kept(visit)
        if not kept or place is None:
            to = HOME if place is None else aim.partition("#")[0]
            response: Response = RedirectResponse(to, 303)
        else:
            response = await place.show(
                replace(self._signed(visit, identity), request=request, fields=kept)
            )
        self._sessions.begin(response, token)
        return response

    def _place_of(self, request: Request, aim: str) -> tuple[_Place | None, Request]:
        """The page at an address of the console, and a request that asks for it."""
        try:
            parts = urlsplit(aim)
        except ValueError:
            return None, request
        if not aim.startswith(HOME):  # browsers read the second slash of "//" as a host's
            return None, request
        scope = {**request.scope, "method": "GET", "query_string": parts.query.encode()}
        scope["path"] = parts.path
        for place in self._places:
            match, more = Route(place.path, place.show).matches(scope)
            if match is Match.FULL and not place.is_open and place.show is not _nowhere:
                return place, Request({**scope, **more}, request.receive)
        return None, request

    async def _sign_out(self, visit: Visit) -> Response:
        response = RedirectResponse(LOGIN, 303)
        self._sessions.end(response)
        return response

    async def _static(self, request: Request) -> Response:
        request.scope[ROUTE_KEY] = "/console/static"
        found = self._assets.response(
            request.path_params["name"], request.query_params.get("v", "")
        )
        return found or Response(status_code=404, headers=HEADERS)


def _kept(visit: Visit) -> Mapping[str, str]:
    """What was typed into a form before its session had ended."""
    try:
        found = json.loads(visit.fields.get(_KEPT, "") or "{}")
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): value for name, value in found.items() if isinstance(value, str)}


def _with_new_id(visit: Visit) -> Visit:
    """The form without its request id, instead of which the page makes another."""
    fields = {name: value for name, value in visit.fields.items() if name != "request_id"}
    return replace(visit, fields=fields)


async def _home(request: Request) -> Response:
    request.scope[ROUTE_KEY] = HOME
    return RedirectResponse(HOME, 308, HEADERS)


async def _nowhere(visit: Visit) -> Response:
    raise NotFoundError("there is no such page; choose one from the menu.")
