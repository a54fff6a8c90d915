"""The caller's OpenTelemetry trace, if its program traces: what an edit causes continues it."""

from __future__ import annotations

try:
    from opentelemetry import propagate
except ImportError:  # the client does not need it
    propagate = None  # type: ignore[assignment]


def outgoing_trace() -> tuple[tuple[str, str], ...]:
    """Metadata of a call, W3C's `traceparent`; none where nothing is traced."""
    carrier: dict[str, str] = {}
    if propagate is not None:
        propagate.inject(carrier)
    return tuple(carrier.items())
