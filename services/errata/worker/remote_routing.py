"""Claims decided by the retrieval service, as of the position that answers report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import grpc
from torch import Tensor

from errata.editing.method import Claim
from errata.errors import DataLossError, UnavailableError
from errata.platform.rpc_errors import service_error
from errata.retrieval.convert import claim_from, vectors_message
from errata_client._gen.errata.v1 import retrieval_pb2, retrieval_pb2_grpc


class RemoteRouting:
    """Asks the retrieval service once for each admission batch; used by the engine's thread."""

    def __init__(self, address: str, timeout_seconds: float) -> None:
        """Connects when it is first asked.

        Args:
            address: host:port, or a name behind which several replicas stand.
            timeout_seconds: of one batch.
        """
        options = [("grpc.lb_policy_name", "round_robin")]
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
