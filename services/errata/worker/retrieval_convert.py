"""Messages of the retrieval service as a worker sends and reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from errata.editing.lane.claims import Claim
from errata.editing.namespaces import Readings
from errata.errors import DataLossError
from errata.retrieval.convert import claim_from, reading_messages, vectors_message
from errata_client._gen.errata.v1 import retrieval_pb2


def route_request(
    seq: int,
    prompts: Sequence[str],
    vectors: Mapping[str, Tensor],
    lanes: Collection[str],
    readings: Readings,
) -> retrieval_pb2.RouteRequest:
    """Asks for the claims of `lanes` under position `seq`, in the namespaces of `readings`."""
    return retrieval_pb2.RouteRequest(
        prompts=prompts,
        at_seq=seq,
        vectors=[vectors_message(lane, values) for lane, values in vectors.items()],
        lanes=lanes,
        readings=reading_messages(readings),
    )


def claims(
    response: retrieval_pb2.RouteResponse,
    seq: int,
    vectors: Mapping[str, Tensor],
    lanes: Collection[str],
) -> list[dict[str, Claim]]:
    """For each prompt, the claim of each lane, with the vector that it was decided by.

    Args:
        response: to a request of `route_request`.
        seq: of that request.
        vectors: of that request.
        lanes: of that request.

    Raises:
        DataLossError: the service has other lanes at this position.
    """
    rows = []
    for prompt in response.prompts:
        by_lane = {message.lane: claim_from(message) for message in prompt.claims}
        if by_lane.keys() != set(lanes):
            raise DataLossError(
                f"{response.replica} has the lanes {sorted(by_lane)} at {seq}, this replica has "
                f"{sorted(lanes)}; they follow different logs.",
                seq=seq,
            )
        rows.append({lane: by_lane[lane] for lane in lanes})
    for lane, values in vectors.items():
        for row, vector in zip(rows, values, strict=True):
            row[lane] = replace(row[lane], vector=vector)
    return rows
