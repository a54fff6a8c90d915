"""Handlers of `RetrievalService`: convert and call the replica."""

from __future__ import annotations

from typing import Any

from errata.platform.server import GrpcServer
from errata.retrieval import convert
from errata.retrieval.replica import RetrievalReplica
from errata_client._gen.errata.v1 import retrieval_pb2, retrieval_pb2_grpc

SERVICE_NAME = retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"].full_name
_DEFAULT_SECONDS = 10.0


def add_to_server(service: RetrievalService, server: GrpcServer) -> None:
    """Registers the handlers with a server that has not been started."""
    retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(service, server.server)


class RetrievalService(retrieval_pb2_grpc.RetrievalServiceServicer):
    """The handlers."""

    def __init__(self, replica: RetrievalReplica) -> None:
        """Serves `replica`; the caller closes it."""
        self._replica = replica

    async def Route(
        self, request: retrieval_pb2.RouteRequest, context: Any
    ) -> retrieval_pb2.RouteResponse:
        """Decides which edits claim which prompts."""
        remaining: float | None = context.time_remaining()
        at_seq = request.at_seq if request.HasField("at_seq") else None
        snapshot, decisions = await self._replica.route(
            convert.query_from(request),
            at_seq=at_seq,
            min_seq=request.min_seq if request.HasField("min_seq") else None,
            timeout_seconds=_DEFAULT_SECONDS if remaining is None else remaining,
        )
        asked_seq = snapshot.seq if at_seq is None else at_seq
        return convert.route_response(self._replica.name, snapshot, asked_seq, decisions)

    async def GetRetrievalStatus(
        self, request: retrieval_pb2.GetRetrievalStatusRequest, context: Any
    ) -> retrieval_pb2.GetRetrievalStatusResponse:
        """The replica's position and lanes."""
        return convert.status(self._replica.name, self._replica.latest, self._replica.floor_seq)
