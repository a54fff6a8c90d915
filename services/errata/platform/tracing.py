"""OpenTelemetry traces from a client's call to the commit that replicas apply; off by default.

A trace follows an edit through the log: each entry carries the context in which it was appended, so
that a fit continues its request's trace, and a replica's apply continues the commit's. Without an
endpoint, OpenTelemetry's no-op tracer stays in place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import grpc
import structlog
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind

from errata.errors import StartupError
from errata.platform.interceptors import Around, Stream, Unary
from errata.platform.settings import TracingSettings

_tracer = trace.get_tracer("errata")
_PARENT = "traceparent"


def configure_tracing(settings: TracingSettings, service: str) -> None:
    """Exports this process's spans to the collector that the settings name, if any.

    Raises:
        StartupError: the packages for tracing are not installed.
    """
    if not settings.endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError as error:
        raise StartupError(
            f"tracing.endpoint is set, but {error.name} is not installed; install errata[tracing]."
        ) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"errata-{service}"}),
        sampler=ParentBasedTraceIdRatio(settings.sample_ratio),
    )
    exporter = OTLPSpanExporter(endpoint=settings.endpoint, insecure=True)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def trace_parent() -> str:
    """The current context as W3C's `traceparent`; empty if nothing is traced."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get(_PARENT, "")


def outgoing() -> tuple[tuple[str, str], ...]:
    """Metadata of a call that continues the current trace."""
    parent = trace_parent()
    return ((_PARENT, parent),) if parent else ()


def _context(parent: str) -> Context | None:
    return propagate.extract({_PARENT: parent}) if parent else None


@contextmanager
def span(
    name: str, *, parent: str = "", links: Sequence[str] = (), **attributes: str | int
) -> Iterator[None]:
    """A span around the code inside, whose log lines carry the trace's id.

    Args:
        name: such as `fit`.
        parent: `traceparent` of the span it continues; the current context if empty.
        links: `traceparent` of other traces that it also belongs to.
        attributes: facts, never payloads.
    """
    linked = [Link(_span_context(link)) for link in links if link]
    with _tracer.start_as_current_span(
        name, context=_context(parent), links=linked, attributes=attributes
    ) as current:
        context = current.get_span_context()
        if not context.is_valid:
            yield
            return
        with structlog.contextvars.bound_contextvars(
            trace_id=trace.format_trace_id(context.trace_id)
        ):
            yield


def _span_context(parent: str) -> trace.SpanContext:
    return trace.get_current_span(_context(parent)).get_span_context()


class CallTraces(Around):
    """Makes a span for every call of Errata's services, continuing the caller's trace."""

    def unary(self, call: grpc.HandlerCallDetails, handle: Unary) -> Unary:
        """Makes the call's span current while the call is handled."""
        method, parent = _described(call)
        if not method.startswith("errata."):
            return handle  # health checks and reflection

        async def traced(request: Any, context: Any) -> Any:
            with span(method, parent=parent, **{"rpc.method": method}):
                return await handle(request, context)

        return traced

    def stream(self, call: grpc.HandlerCallDetails, handle: Stream) -> Stream:
        """Does not make the call's span current: the consumer's steps run in between."""
        method, parent = _described(call)
        if not method.startswith("errata."):
            return handle

        async def traced(request: Any, context: Any) -> AsyncIterator[Any]:
            made = _tracer.start_span(method, context=_context(parent), kind=SpanKind.SERVER)
            try:
                async for response in handle(request, context):
                    yield response
            finally:
                made.end()

        return traced


def _described(call: grpc.HandlerCallDetails) -> tuple[str, str]:
    """Method and `traceparent` of a call."""
    metadata = dict(cast(Mapping[str, Any], call.invocation_metadata or ()))
    return str(call.method).removeprefix("/"), str(metadata.get(_PARENT, ""))
