"""A collector of OpenTelemetry spans, as far as a test needs one."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the names of all spans, by trace: (service, span)."""

    def __init__(self) -> None:
        self.traces: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self._lock = threading.Lock()

    def Export(self, request: Any, context: Any) -> Any:
        """Takes spans."""
        with self._lock:
            for group in request.resource_spans:
                attributes = {a.key: a.value.string_value for a in group.resource.attributes}
                for scope in group.scope_spans:
                    for span in scope.spans:
                        found = (attributes["service.name"], span.name)
                        self.traces[span.trace_id.hex()].append(found)
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collecting(port: int) -> Iterator[Collector]:
    """A collector that listens on a loopback port."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield collector
    finally:
        server.stop(1).wait()
