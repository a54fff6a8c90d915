"""How long replicas take to agree with the log, once nothing disturbs them any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import grpc

from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc
from tests.waiting import PATIENCE

_POLL_SECONDS = 0.005
_MOST = 1_000


def wait_converged(address: str, replicas: Callable[[], Collection[str]]) -> bool:
    """Waits until every replica has reported the log's head, all with one state digest.

    Args:
        address: of the log.
        replicas: names of those that must; they change when one is started again.

    Returns:
        False if they did not.
    """
    deadline = time.monotonic() + PATIENCE
    with grpc.insecure_channel(address) as channel:
        stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
        while time.monotonic() < deadline:
            try:
                if _have_converged(stub, replicas()):
                    return True
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
            time.sleep(_POLL_SECONDS)
    return False


def _have_converged(stub: edit_log_pb2_grpc.EditLogServiceStub, wanted: Collection[str]) -> bool:
    head = stub.GetHead(pb.GetHeadRequest(), timeout=PATIENCE).head_seq
    asked = pb.ListReplicasRequest(page_size=_MOST, at_seq=head)
    found = stub.ListReplicas(asked, timeout=PATIENCE).replicas
    digests = {item.replica: item.digest_at for item in found if item.agrees}
    reported = [digests.get(name, "") for name in wanted]
    return "" not in reported and len(set(reported)) == 1
