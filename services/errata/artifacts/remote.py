"""Fetches artifacts from the log service, for replicas without a shared store."""

from __future__ import annotations

import hashlib
from typing import cast

import grpc

from errata.artifacts.convert import artifact_request
from errata.artifacts.source import check_content, check_digest
from errata.platform.rpc_errors import service_error
from errata_client._gen.errata.v1 import edit_log_pb2_grpc


class RemoteArtifacts:
    """An `ArtifactSource` over `EditLogService.GetArtifact`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        timeout_seconds: float = 60.0,
    ) -> None:
        """Uses `channel`; the caller closes it.

        Args:
            channel: to the log service.
            timeout_seconds: limits one fetch.
        """
        self._stub = cast(
            "edit_log_pb2_grpc.EditLogServiceAsyncStub",
            edit_log_pb2_grpc.EditLogServiceStub(channel),
        )
        self._timeout = timeout_seconds

    async def get(self, digest: str) -> bytes:
        """The artifact's bytes, verified.

        Raises:
            InvalidRequestError: `digest` cannot name an artifact.
            NotFoundError: the log service has no such artifact.
            ArtifactCorruptError: the bytes do not match the digest.
            UnavailableError: the log service or its store cannot be reached; retry.
        """
        check_digest(digest)
        data, hasher = bytearray(), hashlib.sha256()
        call = self._stub.GetArtifact(artifact_request(digest), timeout=self._timeout)
        try:
            async for response in call:
                data += response.chunk
                hasher.update(response.chunk)
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        check_content(digest, hasher.hexdigest(), "the log service's answer")
        return bytes(data)
