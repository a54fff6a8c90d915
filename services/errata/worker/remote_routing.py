"""Claims decided by the retrieval service, as of the position that answers report."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import grpc
from torch import Tensor

from errata.editing.lane.claims import Claim
from errata.errors import DataLossError, UnavailableError
from errata.platform.rpc_errors import service_error
from errata.platform.server import COMMON_OPTIONS
from errata.retrieval.convert import claim_from, vectors_message
from errata_client._gen.errata.v1 import retrieval_pb2, retrieval_pb2_grpc

# One of several replicas that has just ended is asked in vain; another one answers.
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


class RemoteRouting:
    """Asks the retrieval service once for each admission batch; used by the engine's thread."""

    def __init__(self, address: str, timeout_seconds: float) -> None:
        """Connects when it is first asked.

        Args:
            address: host:port, or a name behind which several replicas stand.
            timeout_seconds: of one batch.
        """
        options = [*COMMON_OPTIONS, ("grpc.service_config", json.dumps(_SERVICE_CONFIG))]
        self._channel = grpc.insecure_channel(address, options=options)
        self._stub = retrieval_pb2_grpc.RetrievalServiceStub(self._channel)
        self._timeout = timeout_seconds

    def claims(
        self,
        seq: int,
        prompts: Sequence[str],
        vectors: Mapping[str, Tensor],
        lanes: Collection[str],
    ) -> list[dict[str, Claim]]:
        """What each lane decided on each prompt under position `seq`.

        Args:
            seq: of the answer.
            prompts: of one admission batch.
            vectors: (n, width) by lane, for those that decide by them.
            lanes: that decide, and that this replica has at that position.

        Raises:
            UnavailableError: nobody decided in time; the requests may be tried again.
            DataLossError: the service knows other lanes at this position than this replica.
        """
        sent = [vectors_message(lane, values) for lane, values in vectors.items()]
        request = retrieval_pb2.RouteRequest(prompts=prompts, at_seq=seq, vectors=sent, lanes=lanes)
        try:
            response = self._stub.Route(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise service_error(error, "the retrieval service", UnavailableError) from error
        rows = []
        for prompt in response.prompts:
            by_lane = {message.lane: claim_from(message) for message in prompt.claims}
            if by_lane.keys() != set(lanes):
                raise DataLossError(
                    f"{response.replica} knows the lanes {sorted(by_lane)} at {seq}, this replica "
                    f"{sorted(lanes)}; they follow different logs.",
                    seq=seq,
                )
            rows.append({lane: by_lane[lane] for lane in lanes})
        for lane, values in vectors.items():
            for row, vector in zip(rows, values, strict=True):
                row[lane] = replace(row[lane], vector=vector)
        return rows

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()
