"""Claims decided by the retrieval service, as of the position that answers report."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from errata.editing.plan import RowPlan
from errata.errors import DataLossError, UnavailableError
from errata.platform.rpc_errors import service_error
from errata.replica.applier import Routing
from errata.retrieval.convert import claim_from
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

    def plans(self, routing: Routing, seq: int, prompts: Sequence[str]) -> list[RowPlan]:
        """What each prompt gets under position `seq`.

        Args:
            routing: this replica's own, at that position; turns claims into plans.
            seq: of the answer.
            prompts: of one admission batch.

        Raises:
            UnavailableError: nobody decided in time; the requests may be tried again.
            DataLossError: the service knows other lanes at this position than this replica.
        """
        request = retrieval_pb2.RouteRequest(prompts=prompts, at_seq=seq)
        try:
            response = self._stub.Route(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise service_error(error, "the retrieval service", UnavailableError) from error
        rows = []
        for prompt in response.prompts:
            by_lane = {message.lane: claim_from(message) for message in prompt.claims}
            if by_lane.keys() != routing.views.keys():
                raise DataLossError(
                    f"{response.replica} knows the lanes {sorted(by_lane)} at {seq}, this replica "
                    f"{sorted(routing.views)}; they follow different logs.",
                    seq=seq,
                )
            rows.append([by_lane[lane] for lane in routing.views])
        return routing.plans(rows)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()
