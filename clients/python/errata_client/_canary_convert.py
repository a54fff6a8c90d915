"""Converts messages about canaries to values."""

from __future__ import annotations

from datetime import UTC

from errata_client import canary as values
from errata_client._gen.errata.v1 import editing_pb2, types_pb2


def canary(message: editing_pb2.Canary) -> values.Canary:
    """A canary and its state."""
    return values.Canary(
        name=message.name,
        state=values.CanaryState(message.state),
        lane=message.lane,
        namespace=message.namespace,
        share=message.share,
        readers=tuple(message.readers),
        rule=_rule(message.rule) if message.HasField("rule") else None,
        comment=message.comment,
        author=message.author,
        opened_seq=message.opened_seq,
        open_time=message.open_time.ToDatetime(UTC),
        set_seq=message.set_seq,
        set_time=message.set_time.ToDatetime(UTC),
        ended_seq=message.ended_seq,
        end_time=message.end_time.ToDatetime(UTC) if message.HasField("end_time") else None,
        ended_by=message.ended_by,
        edits=tuple(message.edits),
        comparison=_comparison(message.comparison) if message.HasField("comparison") else None,
    )


def _rule(message: types_pb2.CanaryRule) -> values.CanaryRule:
    return values.CanaryRule(
        message.min_requests, message.max_error_increase, message.promote_after_seconds
    )


def _comparison(message: types_pb2.CanaryComparison) -> values.CanaryComparison:
    return values.CanaryComparison(_counts(message.canary), _counts(message.rest))


def _counts(message: types_pb2.CanaryCounts) -> values.CanaryCounts:
    return values.CanaryCounts(
        requests=message.requests,
        claims=message.claims,
        shaped=message.shaped,
        errors=message.errors,
        tokens=message.tokens,
        microseconds=message.microseconds,
    )
