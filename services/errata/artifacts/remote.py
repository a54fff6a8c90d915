"""Fetches artifacts from the log service, for replicas without a shared store."""

from __future__ import annotations

import hashlib
from typing import cast

import grpc

from errata.artifacts.convert import artifact_request
from errata.artifacts.source import check_content, check_digest, check_size, other_size
from errata.platform.rpc_errors import service_error
from errata.platform.settings import ArtifactSettings
from errata_client._gen.errata.v1 import edit_log_pb2_grpc

_WHERE = "the log service's answer"


class RemoteArtifacts:
    """An `ArtifactSource` over `EditLogService.GetArtifact`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        timeout_seconds: float = 60.0,
        max_bytes: int = ArtifactSettings().max_bytes,
    ) -> None:
        """Uses `channel`; the caller closes it.

        Args:
            channel: to the log service.
            timeout_seconds: limits one fetch.
            max_bytes: larger artifacts are refused.
        """
        self._stub = cast(
            "edit_log_pb2_grpc.EditLogServiceAsyncStub",
            edit_log_pb2_grpc.EditLogServiceStub(channel),
        )
        self._timeout = timeout_seconds
        self._max_bytes = max_bytes

    async def get(self, digest: str, size_bytes: int | None = None) -> bytes:
        """The artifact's bytes, verified; the stream is cut once it delivers too much.

        Raises:
            InvalidRequestError: `digest` cannot name an artifact.
            LimitExceededError: it is larger than allowed.
            NotFoundError: the log service has no such artifact.
            ArtifactCorruptError: the bytes do not match the digest or the announced size.
            UnavailableError: the log service or its store cannot be reached; retry.
        """
        check_digest(digest)
        if size_bytes is not None:
            check_size(digest, size_bytes, self._max_bytes)
        data, hasher = bytearray(), hashlib.sha256()
        call = self._stub.GetArtifact(artifact_request(digest), timeout=self._timeout)
        try:
            async for response in call:
                self._check_length(digest, len(data) + len(response.chunk), size_bytes)
                data += response.chunk
                hasher.update(response.chunk)
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        finally:
            call.cancel()  # ends a stream that was cut; has no effect on one that ended
        if size_bytes is not None and len(data) != size_bytes:
            raise other_size(digest, size_bytes, _WHERE)
        check_content(digest, hasher.hexdigest(), _WHERE)
        return bytes(data)

    def _check_length(self, digest: str, received: int, size_bytes: int | None) -> None:
        if size_bytes is None:
            check_size(digest, received, self._max_bytes)
        elif received > size_bytes:
            raise other_size(digest, size_bytes, _WHERE)
