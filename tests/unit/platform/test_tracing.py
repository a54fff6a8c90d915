"""Traces cross processes by `traceparent`, and cost nothing if they are off."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from errata.errors import StartupError
from errata.platform import tracing
from errata.platform.settings import TracingSettings
from errata.platform.tracing import configure_tracing, outgoing, span, trace_parent


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield made
    provider.shutdown()


def test_without_an_endpoint_nothing_is_traced() -> None:
    before = trace.get_tracer_provider()
    configure_tracing(TracingSettings(), "log")
    assert trace.get_tracer_provider() is before
    with span("fit"):
        assert trace_parent() == ""
        assert outgoing() == ()
        assert "trace_id" not in structlog.contextvars.get_contextvars()


def test_a_span_continues_its_parents_trace(exporter: InMemorySpanExporter) -> None:
    with span("submit"):
        parent = trace_parent()
        assert outgoing() == (("traceparent", parent),)
    with span("other"):
        link = trace_parent()
    with span("fit", parent=parent, links=[link, ""], lane="lanes/main"):
        trace_id = structlog.contextvars.get_contextvars()["trace_id"]
    submit, other, fit = exporter.get_finished_spans()
    assert fit.parent is not None
    assert fit.context is not None
    assert submit.context is not None
    assert other.context is not None
    assert fit.parent.span_id == submit.context.span_id
    assert fit.context.trace_id == submit.context.trace_id != other.context.trace_id
    assert [item.context.trace_id for item in fit.links] == [other.context.trace_id]
    assert trace_id == trace.format_trace_id(fit.context.trace_id)
    assert dict(fit.attributes or {}) == {"lane": "lanes/main"}


def test_a_missing_exporter_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StartupError, match=r"errata\[tracing\]"):
        configure_tracing(TracingSettings(endpoint="http://127.0.0.1:4317"), "log")
