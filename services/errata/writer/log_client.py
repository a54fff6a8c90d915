"""The writer's way to the log: appends under its epoch, retried until the log has answered."""

from __future__ import annotations

from typing import cast

import grpc

from errata.log.entries import Payload
from errata.log.payload_convert import encode
from errata.platform.retry import until_available
from errata.platform.rpc_errors import service_error
from errata.platform.tracing import outgoing, trace_parent
from errata_client._gen.errata.v1 import edit_log_pb2, edit_log_pb2_grpc

_TIMEOUT_SECONDS = 10.0


class LogClient:
    """Appends to the log as one writer."""

    def __init__(self, channel: grpc.aio.Channel, writer: str) -> None:
        """Talks over `channel`; `writer` is shown to operators."""
        self._stub = cast(
            "edit_log_pb2_grpc.EditLogServiceAsyncStub",
            edit_log_pb2_grpc.EditLogServiceStub(channel),
        )
        self._writer = writer
        self.epoch = 0

    async def acquire_epoch(self) -> int:
        """Takes the writer's role over; every earlier writer is fenced.

        Raises:
            LogUnavailableError: the log cannot be reached.
        """
        request = edit_log_pb2.AcquireEpochRequest(writer=self._writer)
        try:
            response = await self._stub.AcquireEpoch(request, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        self.epoch = response.epoch
        return self.epoch

    async def head_seq(self) -> int:
        """The log's last acknowledged position.

        Raises:
            LogUnavailableError: the log cannot be reached.
        """
        try:
            head = await self._stub.GetHead(edit_log_pb2.GetHeadRequest(), timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        return int(head.head_seq)

    async def append(self, request_id: str, payload: Payload, author: str) -> int:
        """Appends once and yields the position; the same id again yields the same position.

        Raises:
            LogUnavailableError: no answer; it may or may not have been appended, so retry with
                the same id.
            RequestIdReusedError: the id was used for something else.
            EpochLostError: a newer writer took over; nothing was appended.
        """
        request = edit_log_pb2.AppendRequest(
            request_id=request_id,
            epoch=self.epoch,
            payload=encode(payload, author, trace_parent=trace_parent()),
        )
        try:
            response = await self._stub.Append(
                request, timeout=_TIMEOUT_SECONDS, metadata=outgoing()
            )
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        return int(response.seq)

    async def append_with_retry(self, request_id: str, payload: Payload, author: str) -> int:
        """As `append`, but waits out a log that cannot be reached: the fit must not be lost."""
        return await until_available(lambda: self.append(request_id, payload, author), "the log")
