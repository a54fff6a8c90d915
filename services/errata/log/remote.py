"""Client of the edit log service for replicas."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from typing import cast

import grpc

from errata.log import convert
from errata.log.chain import ORIGIN, ChainedEntry, verify_run
from errata.log.delivery import Delivery
from errata.log.history import LogState
from errata.log.positions import ReplicaReport
from errata.platform.rpc_errors import service_error
from errata_client._gen.errata.v1 import edit_log_pb2_grpc

_HEAD_SECONDS = 5.0
_PAGE_SECONDS = 30.0


class Subscription:
    """A stream of entries from the log service."""

    def __init__(self, read: Callable[[], Awaitable[object]]) -> None:
        """Reads from a started call by its `read`."""
        self._read = read

    async def read(self) -> Delivery | None:
        """The next message; None once the service has ended the stream.

        Raises:
            grpc.aio.AioRpcError: the call failed.
        """
        return convert.received_delivery(await self._read())


class RemoteLog:
    """The calls that a replica makes to the edit log service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Uses `channel`; the caller closes it."""
        self._stub = cast(
            "edit_log_pb2_grpc.EditLogServiceAsyncStub",
            edit_log_pb2_grpc.EditLogServiceStub(channel),
        )

    def subscribe(self, from_seq: int) -> Subscription:
        """Starts a stream of entries from `from_seq` on."""
        return Subscription(self._stub.Subscribe(convert.subscribe_request(from_seq)).read)

    async def entries(self, from_seq: int) -> tuple[ChainedEntry, ...]:
        """A page of entries from `from_seq` on, not verified; empty only behind the head.

        Archived entries come from the archive.

        Raises:
            SeqTrimmedError: `from_seq` is below the floor, and there is no archive.
            SeqBeyondHeadError: `from_seq` is above head + 1.
            LogUnavailableError: the log cannot be reached.
            ErrataError: another error of the log service, such as an archive that is damaged.
        """
        try:
            response = await self._stub.ListEntries(
                convert.list_request(from_seq), timeout=_PAGE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        return convert.entries_from(response)

    async def all_entries(self) -> AsyncGenerator[ChainedEntry, None]:
        """All entries from 1 to the head, verified against each other.

        Raises:
            LogBehindWitnessError: they contradict each other.
            LogUnavailableError, ErrataError: as `entries`.
        """
        position = ORIGIN
        while page := await self.entries(position.seq + 1):
            position = verify_run(position, page)
            for entry in page:
                yield entry

    async def voided_seqs(self) -> Collection[int]:
        """Positions of all voided entries; raises as `state`."""
        return (await self.state()).voided

    async def state(self) -> LogState:
        """The log's head, floor, newest snapshot, and the entries that readers skip.

        Raises:
            LogUnavailableError: the log cannot be reached.
        """
        try:
            response = await self._stub.GetHead(convert.head_request(), timeout=_HEAD_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        return convert.state_from(response)

    async def report(self, report: ReplicaReport, timeout_seconds: float) -> bool:
        """Reports a replica's position; returns whether it is one of the log's.

        Raises:
            grpc.aio.AioRpcError: the call failed.
        """
        request = convert.report_request(report)
        response = await self._stub.ReportPosition(request, timeout=timeout_seconds)
        return response.agrees
