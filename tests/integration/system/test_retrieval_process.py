"""`errata serve retrieval` beside a running system: healthy, reported, and gone when told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from errata.platform.addresses import free_port
from errata_client import Client
from errata_client._gen.errata.v1 import retrieval_pb2, retrieval_pb2_grpc
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE, wait


def test_a_retrieval_process_serves_reports_and_ends(system: System, client: Client) -> None:
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "ERRATA_LOG__ADDRESS": system.log_address,
        "ERRATA_RETRIEVAL__ADDRESS": address,
    }
    command = [sys.executable, "-m", "errata.cli", "serve", "retrieval"]
    process = subprocess.Popen(command, env=environment)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=PATIENCE)
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="errata.v1.RetrievalService")
            assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
            stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
            head = client.head().seq
            response = stub.Route(
                retrieval_pb2.RouteRequest(prompts=["The capital of France is"], min_seq=head)
            )
            assert response.applied_seq >= head
            assert response.prompts[0].winner == ""
            wait(
                lambda: response.replica in {r.name for r in client.replicas()},
                "it reports its position",
            )
            (mine,) = [r for r in client.replicas() if r.name == response.replica]
            assert (mine.role, mine.agrees) == ("retrieval", True)
            status = stub.GetRetrievalStatus(retrieval_pb2.GetRetrievalStatusRequest())
            assert [lane.lane for lane in status.lanes] == [
                "lanes/experts",
                "lanes/facts",
                "lanes/mixture",
            ], "AdaPLE does not route"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
