"""Handlers of `EditLogService`: check, call the log, convert.

An interceptor turns errors into statuses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from errata.artifacts import ArtifactStore
from errata.log import convert
from errata.log.admission import missing_artifact
from errata.log.feed import Feed
from errata.log.positions import ReplicaTable
from errata.log.store import RedisLog
from errata.log.subscriptions import Subscriptions
from errata.platform import paging
from errata.platform.failpoints import failpoint_async
from errata.platform.metrics import APPEND_SECONDS
from errata.platform.server import GrpcServer
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EditLogService"].full_name


def add_to_server(service: EditLogService, server: GrpcServer) -> None:
    """Registers the handlers with a server that has not been started."""
    edit_log_pb2_grpc.add_EditLogServiceServicer_to_server(service, server.server)


class EditLogService(edit_log_pb2_grpc.EditLogServiceServicer):
    """The handlers."""

    def __init__(
        self,
        log: RedisLog,
        feed: Feed,
        replicas: ReplicaTable,
        artifacts: ArtifactStore,
        subscriptions: Subscriptions,
    ) -> None:
        """Serves these objects; the caller closes them."""
        self._entries = log
        self._feed = feed
        self._replicas = replicas
        self._artifacts = artifacts
        self._subscriptions = subscriptions

    async def AcquireEpoch(
        self, request: pb.AcquireEpochRequest, context: Context
    ) -> pb.AcquireEpochResponse:
        """Fences every earlier writer."""
        writer = convert.name(request.writer, "writer")
        lease_ms = convert.lease_ms(request.lease_ttl_ms)
        epoch = await self._entries.acquire_epoch(
            writer, lease_ms, only_if_free=request.only_if_free
        )
        return pb.AcquireEpochResponse(epoch=epoch, log_id=self._entries.log_id)

    async def RenewLease(
        self, request: pb.RenewLeaseRequest, context: Context
    ) -> pb.RenewLeaseResponse:
        """Extends the active writer's lease, or ends it."""
        epoch = convert.epoch(request.epoch)
        await self._entries.renew_lease(epoch, convert.lease_ms(request.lease_ttl_ms))
        return pb.RenewLeaseResponse()

    async def Append(self, request: pb.AppendRequest, context: Context) -> pb.AppendResponse:
        """Appends one entry; it is durable and witnessed before the answer."""
        entry = convert.new_entry(request)
        with APPEND_SECONDS.time():
            objection = await missing_artifact(entry, self._artifacts)
            appended = await self._entries.append(entry, objection)
        return pb.AppendResponse(seq=appended.seq, duplicate=appended.duplicate)

    async def GetHead(self, request: pb.GetHeadRequest, context: Context) -> pb.GetHeadResponse:
        """The head in Redis, once the witness covers it."""
        state = await self._entries.state()
        return convert.head_response(state, await self._entries.lease_left_ms())

    async def ListEntries(
        self, request: pb.ListEntriesRequest, context: Context
    ) -> pb.ListEntriesResponse:
        """A page of entries; a page over 2 MiB is cut short."""
        size = paging.page_size(request.page_size)
        if request.page_token:
            from_seq = paging.number_of_token("entries", request.page_token)
        else:
            from_seq = request.from_seq if request.HasField("from_seq") else 1
        state = await self._entries.state()
        page = await self._entries.read(from_seq, size)
        response = pb.ListEntriesResponse(entries=map(convert.entry_to, page.entries))
        next_seq = from_seq + len(page.entries)
        if next_seq <= state.head.seq:
            response.next_page_token = paging.page_token("entries", str(next_seq))
        return response

    async def Subscribe(
        self, request: pb.SubscribeRequest, context: Context
    ) -> AsyncIterator[pb.SubscribeResponse]:
        """Streams entries from `from_seq` on, and progress messages while there are none."""
        await failpoint_async("log.subscribe.begin")
        with self._subscriptions.opened(context.peer()):
            async for page in self._feed.follow(request.from_seq):
                await failpoint_async("log.subscribe.page")
                yield convert.subscribe_response(page, self._entries.log_id)

    async def ReportPosition(
        self, request: pb.ReportPositionRequest, context: Context
    ) -> pb.ReportPositionResponse:
        """Records a replica's position and compares its digest with the log's."""
        await failpoint_async("log.report")
        report = convert.report_from(request.position)
        agrees = await self._entries.holds(report.position)
        self._replicas.record(report, agrees=agrees)
        return pb.ReportPositionResponse(head_seq=self._entries.head.seq, agrees=agrees)

    async def ListReplicas(
        self, request: pb.ListReplicasRequest, context: Context
    ) -> pb.ListReplicasResponse:
        """The replicas that reported to this service recently."""
        size = paging.page_size(request.page_size)
        after = ""
        if request.page_token:
            after = paging.read_page_token("replicas", request.page_token)
        found = [state for state in self._replicas.live() if state.report.replica > after]
        head_seq = self._entries.head.seq
        response = pb.ListReplicasResponse(
            replicas=[
                convert.replica_to(
                    state, head_seq, self._replicas.digest_at(state.report.replica, request.at_seq)
                )
                for state in found[:size]
            ]
        )
        if len(found) > size:
            last = found[size - 1].report.replica
            response.next_page_token = paging.page_token("replicas", last)
        return response

    async def GetArtifact(
        self, request: pb.GetArtifactRequest, context: Context
    ) -> AsyncIterator[pb.GetArtifactResponse]:
        """The artifact's bytes; the artifact is complete only if the stream ends with OK."""
        async for chunk in self._artifacts.chunks(request.digest):
            await failpoint_async("log.artifact.chunk")
            yield pb.GetArtifactResponse(chunk=chunk)
