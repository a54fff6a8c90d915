"""The writer's client of the log service; appends under the writer's epoch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

import grpc

from errata.log.convert import head_request, state_from
from errata.log.entries import Payload
from errata.log.history import LogState
from errata.platform.rpc_errors import service_error
from errata.platform.security.identity import on_behalf_of
from errata.platform.tracing import outgoing, trace_parent
from errata.writer import log_convert
from errata.writer.canary_tally import CanaryReport
from errata.writer.log_convert import ReportedDigest
from errata_client._gen.errata.v1 import edit_log_pb2_grpc

T = TypeVar("T")
_TIMEOUT_SECONDS = 10.0


class LogClient:
    """Appends to the log as one writer.

    Attributes:
        epoch: the writer's; 0 before `acquire_epoch`.
        log_id: the log's identity; empty before `acquire_epoch`.
    """

    def __init__(self, channel: grpc.aio.Channel, writer: str) -> None:
        """Uses `channel`; `writer` is shown to operators."""
        self._stub = cast(
            "edit_log_pb2_grpc.EditLogServiceAsyncStub",
            edit_log_pb2_grpc.EditLogServiceStub(channel),
        )
        self._writer = writer
        self.epoch = 0
        self.log_id = ""

    async def acquire_epoch(self, lease_seconds: float = 0.0, *, only_if_free: bool = False) -> int:
        """Takes over the writer's role; every earlier writer is fenced.

        Args:
            lease_seconds: how long standby writers wait for this one; 0 if not at all.
            only_if_free: changes nothing and returns 0 while another writer's lease runs.

        Raises:
            LogUnavailableError: the log cannot be reached.
        """
        request = log_convert.acquire_epoch_request(
            self._writer, lease_seconds, only_if_free=only_if_free
        )
        try:
            response = await self._stub.AcquireEpoch(request, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        self.epoch, self.log_id = response.epoch, response.log_id
        return self.epoch

    async def renew_lease(self, lease_seconds: float) -> None:
        """Extends this writer's lease; 0 ends it.

        Raises:
            LogUnavailableError: the log cannot be reached.
            EpochLostError: a newer writer took over.
        """
        request = log_convert.renew_lease_request(self.epoch, lease_seconds)
        try:
            await self._stub.RenewLease(request, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # a log that knows no leases
                raise service_error(error) from error

    async def lease_left(self) -> float:
        """Seconds until the active writer's lease ends; 0 without one.

        Raises:
            LogUnavailableError: the log cannot be reached.
        """
        try:
            head = await self._stub.GetHead(head_request(), timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        return int(head.lease_left_ms) / 1000

    async def state(self) -> LogState:
        """The log's head, and the entries that are voided or impossible.

        Raises:
            LogUnavailableError: the log cannot be reached.
        """
        try:
            head = await self._stub.GetHead(head_request(), timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        return state_from(head)

    async def digests_at(self, seq: int) -> list[ReportedDigest]:
        """The state digests that live replicas reported of a position; raises as `state`.

        Replicas that are not there yet, or contradict the log, are left out.
        """
        return await self._of_replicas(seq, log_convert.reported_digests)

    async def canary_reports(self) -> list[CanaryReport]:
        """What live replicas have counted for the open canaries; raises as `state`."""
        return await self._of_replicas(0, log_convert.canary_reports)

    async def _of_replicas(self, at_seq: int, read: Callable[[Any], list[T]]) -> list[T]:
        """What `read` finds in each page of the list of replicas."""
        found, token = list[T](), ""
        while True:
            request = log_convert.list_replicas_request(at_seq, token)
            try:
                response = await self._stub.ListReplicas(request, timeout=_TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise service_error(error) from error
            found += read(response)
            token = response.next_page_token
            if not token:
                return found

    async def voided_seqs(self) -> Collection[int]:
        """Positions of all voided entries; raises as `state`."""
        return (await self.state()).voided

    async def append(self, request_id: str, payload: Payload, author: str) -> int:
        """Appends once and returns the position; a repeated id returns the first position.

        Raises:
            LogUnavailableError: no answer; it may or may not have been appended, so retry with
                the same id.
            RequestIdReusedError: the id was used for another request.
            EpochLostError: a newer writer took over; nothing was appended.
        """
        request = log_convert.append_request(
            request_id, self.epoch, payload, author, trace_parent(), on_behalf_of()
        )
        try:
            response = await self._stub.Append(
                request, timeout=_TIMEOUT_SECONDS, metadata=outgoing()
            )
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        return int(response.seq)
