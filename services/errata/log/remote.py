"""Client of the edit log service for replicas."""

from __future__ import annotations

from typing import cast

import grpc

from errata.log import convert
from errata.log.delivery import Delivery
from errata.log.positions import ReplicaReport
from errata_client._gen.errata.v1 import edit_log_pb2, edit_log_pb2_grpc


class Subscription:
    """A stream of entries from the log service."""

    def __init__(
        self,
        call: grpc.aio.UnaryStreamCall[
            edit_log_pb2.SubscribeRequest, edit_log_pb2.SubscribeResponse
        ],
    ) -> None:
        """Reads from a started call."""
        self._call = call

    async def read(self) -> Delivery | None:
        """The next message; None once the service has ended the stream.

        Raises:
            grpc.aio.AioRpcError: the call failed.
        """
        message = await self._call.read()
        if not isinstance(message, edit_log_pb2.SubscribeResponse):
            return None  # EOF
        return convert.delivery_from(message)


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
        return Subscription(self._stub.Subscribe(edit_log_pb2.SubscribeRequest(from_seq=from_seq)))

    async def report(self, report: ReplicaReport, timeout_seconds: float) -> bool:
        """Reports a replica's position; returns whether it is one of the log's.

        Raises:
            grpc.aio.AioRpcError: the call failed.
        """
        request = edit_log_pb2.ReportPositionRequest(position=convert.report_to(report))
        response = await self._stub.ReportPosition(request, timeout=timeout_seconds)
        return response.agrees
