"""The HTTP application: which path is answered by which handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from errata.gateway.convert import CATALOG, EDIT_LOG, EDITING, INFERENCE
from errata.gateway.http.console.app import Console
from errata.gateway.http.console.backend import Backend
from errata.gateway.http.errors import failure_of
from errata.gateway.http.event_routes import EventsCall
from errata.gateway.http.guard import Guard
from errata.gateway.http.hosts import KnownHosts, allowed_hosts
from errata.gateway.http.observed import ROUTE_KEY, Observed
from errata.gateway.http.openai_routes import OpenAiRoutes
from errata.gateway.http.openapi_convert import document
from errata.gateway.http.openapi_page import page
from errata.gateway.http.rest_convert import EVENTS, ROUTES
from errata.gateway.http.rest_routes import RestCall
from errata.gateway.rates import Rates
from errata.platform.addresses import host_and_port
from errata.platform.security.active import active
from errata.platform.security.rules import REFLECTION
from errata.platform.settings import GatewaySettings

if TYPE_CHECKING:
    from errata.gateway.pool import WorkerPool  # loads Ray

Handler = Callable[[Request], Awaitable[Response]]


def build_app(
    pool: WorkerPool,
    editing: grpc.aio.Channel,
    log: grpc.aio.Channel,
    catalog: grpc.aio.Channel,
    settings: GatewaySettings,
    rates: Rates | None = None,
) -> Starlette:
    """The application.

    Args:
        pool: answers inference.
        editing: channel to the edit-writer.
        log: channel to the log service.
        catalog: channel to the catalog.
        settings: of the gateway; they say whether the console is served.
        rates: shared with the gateway's other servers; its own if None.

    Raises:
        StartupError: the console's key cannot be used.
    """
    guard = Guard(active())
    rates = rates or Rates(settings)
    channels = {EDITING: editing, EDIT_LOG: log, CATALOG: catalog}
    backend = Backend(pool, channels, settings, guard, rates)
    openai = OpenAiRoutes(pool, settings, rates)
    return Starlette(
        routes=[
            _route("POST", "/v1/chat/completions", openai.chat, guard, f"/{INFERENCE}/Generate"),
            _route("POST", "/v1/completions", openai.completions, guard, f"/{INFERENCE}/Generate"),
            _route("GET", "/v1/models", openai.models, guard, f"/{INFERENCE}/GetModel"),
            _route("GET", "/v1/models/{model:path}", openai.model, guard, f"/{INFERENCE}/GetModel"),
            *(
                _route(
                    each.verb,
                    each.path,
                    RestCall(each, channels[each.service], settings, rates),
                    guard,
                    each.rpc_path,
                )
                for each in ROUTES
            ),
            _route("GET", EVENTS.path, EventsCall(catalog), guard, EVENTS.rpc_path),
            _route("GET", "/health", _health, guard, ""),
            *_console(backend, guard, settings),
            *_descriptions(guard),
        ],
        middleware=[Middleware(Observed), Middleware(KnownHosts, _hosts(guard, settings))],
        exception_handlers={HTTPException: _refused},
    )


def _hosts(guard: Guard, settings: GatewaySettings) -> frozenset[str]:
    listens_on = host_and_port(settings.http_address)[0] if settings.http_address else ""
    authenticated = guard.demands_credentials
    return allowed_hosts(settings.allowed_hosts, listens_on, authenticated=authenticated)


def _console(backend: Backend, guard: Guard, settings: GatewaySettings) -> list[Route]:
    """The console's routes, if it is served."""
    if not settings.console:
        return []
    return Console(backend, guard, settings, secure=active().settings.has_tls).routes()


def _descriptions(guard: Guard) -> tuple[Route, ...]:
    """All routes, described for programs and for people."""
    described = document()
    shown = page(described)

    async def openapi(request: Request) -> Response:
        return JSONResponse(described)

    async def docs(request: Request) -> Response:
        return HTMLResponse(shown)

    return guard.described(
        _route("GET", "/openapi.json", openapi, guard, REFLECTION),
        _route("GET", "/docs", docs, guard, REFLECTION),
    )


async def _health(request: Request) -> Response:
    """The server listens only while the gateway serves."""
    return JSONResponse({"service": "errata", "status": "SERVING"})


async def _refused(request: Request, error: Exception) -> Response:
    """No such path, or another method."""
    return failure_of(error).response()


def _route(verb: str, path: str, handle: Handler, guard: Guard, method: str) -> Route:
    async def guarded(request: Request) -> Response:
        request.scope[ROUTE_KEY] = path
        try:
            await guard.admit(request, method)
            return await handle(request)
        except Exception as error:  # noqa: BLE001 every failure gets a status here
            return failure_of(error).response()

    return Route(path, guarded, methods=[verb])
