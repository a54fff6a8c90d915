"""What replicas reported to the log: proto ↔ domain."""

from __future__ import annotations

from dataclasses import dataclass

from errata_client._gen.errata.v1 import edit_log_pb2

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Reported:
    """What a replica reported last.

    Attributes:
        name: of the replica.
        role: such as worker.
        lag: entries behind the log's head.
        agrees: whether its history is the log's.
    """

    name: str
    role: str
    lag: int
    agrees: bool


def list_replicas_request(page_token: str) -> edit_log_pb2.ListReplicasRequest:
    """Asks for the replicas."""
    return edit_log_pb2.ListReplicasRequest(page_size=_PAGE, page_token=page_token)


def reported(response: edit_log_pb2.ListReplicasResponse) -> list[Reported]:
    """The replicas of a page."""
    return [Reported(each.replica, each.role, each.lag, each.agrees) for each in response.replicas]
