"""The caller's OpenTelemetry trace, if there is one; the effects of an edit continue it."""

from __future__ import annotations

try:
    from opentelemetry import propagate
except ImportError:  # OpenTelemetry is optional; mypy takes a module's name for a constant
    propagate = None  # type: ignore[assignment]


def outgoing_trace() -> tuple[tuple[str, str], ...]:
    """Metadata of a call: W3C's `traceparent`, or nothing if the call is not traced."""
    carrier: dict[str, str] = {}
    if propagate is not None:
        propagate.inject(carrier)
    return tuple(carrier.items())
