"""A trace collector that only counts the spans it receives."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class SpanCounter(trace_service_pb2_grpc.TraceServiceServicer):
    """Counts the spans that it receives."""

    def __init__(self) -> None:
        self.total = 0

    def Export(self, request: Any, context: Any) -> Any:
        """Takes a batch of spans."""
        scopes = [scope for group in request.resource_spans for scope in group.scope_spans]
        self.total += sum(len(scope.spans) for scope in scopes)
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def span_collector() -> Iterator[tuple[str, SpanCounter]]:
    """Serves a collector on a free port while inside; yields its URL and its counter."""
    server, spans = grpc.server(ThreadPoolExecutor(1)), SpanCounter()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(spans, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", spans
    finally:
        server.stop(1).wait()
