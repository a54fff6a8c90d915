"""Claims decided by the retrieval service, at the position that answers report."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

import grpc
from torch import Tensor

from errata.editing.lane.claims import Claim
from errata.editing.namespaces import Readings
from errata.errors import UnavailableError
from errata.platform.rpc_errors import service_error
from errata.platform.security.active import active
from errata.platform.security.renewing import Renewal
from errata.platform.server import COMMON_OPTIONS, open_blocking_channel
from errata.worker import retrieval_convert
from errata_client._gen.errata.v1 import retrieval_pb2_grpc

# If the replica that is asked has just ended, another one answers the retry.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "errata.v1.RetrievalService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


class RetrievalClient:
    """Asks the retrieval service once for each admission batch; used by the engine's thread."""

    def __init__(self, address: str, timeout_seconds: float) -> None:
        """Connects with the first call.

        Args:
            address: host:port, or a name that resolves to several replicas.
            timeout_seconds: of one batch.
        """
        self._address = address
        self._timeout = timeout_seconds
        self._renewal = Renewal(active().settings)
        self._open()

    def claims(
        self,
        seq: int,
        prompts: Sequence[str],
        vectors: Mapping[str, Tensor],
        lanes: Collection[str],
        readings: Readings = None,
    ) -> list[dict[str, Claim]]:
        """For each prompt, the claim of each lane under position `seq`.

        Args:
            seq: of the answer.
            prompts: of one admission batch.
            vectors: (n, width) by lane, for lanes that decide by vectors.
            lanes: lanes of this replica at that position that decide.
            readings: the namespaces that each prompt reads.

        Raises:
            UnavailableError: no decision in time; the requests can be retried.
            DataLossError: the service has other lanes at this position than this replica.
        """
        if self._renewal.is_due:  # no call is running: they are made one by one
            self._channel.close()
            self._open()
        request = retrieval_convert.route_request(seq, prompts, vectors, lanes, readings)
        try:
            response = self._stub.Route(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise service_error(error, "the retrieval service", UnavailableError) from error
        return retrieval_convert.claims(response, seq, vectors, lanes)

    def _open(self) -> None:
        options = [*COMMON_OPTIONS, ("grpc.service_config", json.dumps(_SERVICE_CONFIG))]
        self._channel = open_blocking_channel(self._address, options)
        self._stub = retrieval_pb2_grpc.RetrievalServiceStub(self._channel)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()
