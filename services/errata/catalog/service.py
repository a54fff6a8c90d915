"""Handlers of `CatalogService`: check, call, convert."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from errata.catalog import convert
from errata.catalog.catalog import Catalog
from errata.catalog.sight import Sight
from errata.catalog.streams import watch
from errata.errors import QueueFullError
from errata.platform.security.identity import require_namespaces
from errata.platform.server import GrpcServer
from errata_client._gen.errata.v1 import catalog_pb2, catalog_pb2_grpc

SERVICE_NAME = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name
_DEFAULT_SECONDS = 10.0
_RETRY_SECONDS = 5.0


def add_to_server(service: CatalogService, server: GrpcServer) -> None:
    """Registers the handlers with a server that has not been started."""
    catalog_pb2_grpc.add_CatalogServiceServicer_to_server(service, server.server)


class CatalogService(catalog_pb2_grpc.CatalogServiceServicer):
    """Serves a catalog over gRPC."""

    def __init__(self, catalog: Catalog, max_streams: int) -> None:
        """Serves `catalog`; refuses more streams of events than `max_streams`."""
        self._catalog = catalog
        self._max_streams = max_streams
        self._num_streams = 0

    async def FindEdits(
        self, request: catalog_pb2.FindEditsRequest, context: Any
    ) -> catalog_pb2.FindEditsResponse:
        """Edits that match a text and filters."""
        search, seconds = convert.search_of(request, Sight.of_caller()), _seconds(context)
        if search.namespace is not None:
            require_namespaces([search.namespace])
        begun = time.monotonic()
        await self._catalog.reach(request.min_seq if request.HasField("min_seq") else None, seconds)
        left = seconds - (time.monotonic() - begun)
        found = await self._catalog.find(search, request.page_size, request.page_token, left)
        return convert.found_response(*found)

    async def WatchEvents(
        self, request: catalog_pb2.WatchEventsRequest, context: Any
    ) -> AsyncIterator[catalog_pb2.WatchEventsResponse]:
        """Events from a position on."""
        if self._num_streams >= self._max_streams:
            raise QueueFullError(
                f"{self._num_streams} streams of events are open, the limit of "
                "catalog.max_streams; close one, or try again later.",
                retry_after_seconds=_RETRY_SECONDS,
            )
        begin, wanted = convert.begin_of(request), convert.event_filter(request, Sight.of_caller())
        self._num_streams += 1
        try:
            found = watch(self._catalog, begin, wanted, until_now=request.until_now)
            async for events, seq in found:
                yield convert.events_response(events, seq, self._catalog.log_id)
        finally:
            self._num_streams -= 1

    async def ShapedAnswers(
        self, request: catalog_pb2.ShapedAnswersRequest, context: Any
    ) -> catalog_pb2.ShapedAnswersResponse:
        """Edits that shaped the most answers."""
        found = await self._catalog.shaped(
            convert.hours_of(request, time.time()),
            Sight.of_caller(),
            request.page_size,
            request.page_token,
            _seconds(context),
        )
        return convert.shaped_response(*found)

    async def ReportShapedAnswers(
        self, request: catalog_pb2.ReportShapedAnswersRequest, context: Any
    ) -> catalog_pb2.ReportShapedAnswersResponse:
        """Adds a gateway's counts."""
        await self._catalog.add_report(convert.report_of(request))
        return catalog_pb2.ReportShapedAnswersResponse()


def _seconds(context: Any) -> float:
    remaining: float | None = context.time_remaining()
    return _DEFAULT_SECONDS if remaining is None else remaining
