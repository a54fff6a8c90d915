"""Entries about canaries, and counts: proto ↔ domain."""

from __future__ import annotations

from dataclasses import asdict

from errata.errors import PreconditionError
from errata.log.canary_entries import (
    CanaryComparison,
    CanaryCounts,
    CanaryEnded,
    CanaryRule,
    CanarySet,
    Outcome,
)
from errata.log.signature_convert import signature_message, signature_of
from errata_client._gen.errata.v1 import edit_log_pb2, types_pb2

_OUTCOMES = {
    Outcome.PROMOTED: edit_log_pb2.CanaryEnded.OUTCOME_PROMOTED,
    Outcome.ROLLED_BACK: edit_log_pb2.CanaryEnded.OUTCOME_ROLLED_BACK,
}
CanaryPayload = CanarySet | CanaryEnded


def canary_of(message: edit_log_pb2.EntryPayload) -> CanaryPayload | None:
    """What an entry says about a canary; None if it is of another kind.

    Raises:
        PreconditionError: only newer versions know it.
    """
    match message.WhichOneof("kind"):
        case "canary_set":
            return _set(message.canary_set)
        case "canary_ended":
            return _ended(message.canary_ended)
        case _:
            return None


def _set(message: edit_log_pb2.CanarySet) -> CanarySet:
    return CanarySet(
        message.canary,
        message.lane,
        message.namespace,
        message.share_ppm,
        tuple(message.readers),
        rule_of(message.rule) if message.HasField("rule") else None,
        message.comment,
        message.rolls_back,
        signature_of(message),
    )


def _ended(message: edit_log_pb2.CanaryEnded) -> CanaryEnded:
    outcome = next((own for own, value in _OUTCOMES.items() if value == message.outcome), None)
    if outcome is None:
        raise PreconditionError(
            f"a canary has the outcome {message.outcome}, which this version does not know. "
            "Upgrade this process; it stays at the entry before.",
        )
    return CanaryEnded(
        message.canary,
        outcome,
        tuple(message.edits),
        message.comment,
        comparison_of(message.comparison) if message.HasField("comparison") else None,
        signature_of(message),
    )


def put_canary(message: edit_log_pb2.EntryPayload, payload: CanaryPayload) -> None:
    """Makes a message that of an entry about a canary."""
    match payload:
        case CanarySet():
            message.canary_set.CopyFrom(
                edit_log_pb2.CanarySet(
                    canary=payload.canary,
                    lane=payload.lane,
                    namespace=payload.namespace,
                    share_ppm=payload.share_ppm,
                    readers=payload.readers,
                    rule=rule_message(payload.rule),
                    comment=payload.comment,
                    rolls_back=payload.rolls_back,
                    signature=signature_message(payload.signature),
                )
            )
        case CanaryEnded(comparison=comparison):
            message.canary_ended.CopyFrom(
                edit_log_pb2.CanaryEnded(
                    canary=payload.canary,
                    outcome=_OUTCOMES[payload.outcome],
                    edits=payload.edits,
                    comment=payload.comment,
                    comparison=None if comparison is None else comparison_message(comparison),
                    signature=signature_message(payload.signature),
                )
            )


def rule_of(message: types_pb2.CanaryRule) -> CanaryRule:
    """A received rule, unchecked."""
    return CanaryRule(
        message.min_requests, message.max_error_increase, message.promote_after_seconds
    )


def rule_message(rule: CanaryRule | None) -> types_pb2.CanaryRule | None:
    """A rule to send; None stays unset."""
    return None if rule is None else types_pb2.CanaryRule(**asdict(rule))


def comparison_of(message: types_pb2.CanaryComparison) -> CanaryComparison:
    """Received counts."""
    return CanaryComparison(message.opened_seq, _counts(message.canary), _counts(message.rest))


def comparison_message(comparison: CanaryComparison) -> types_pb2.CanaryComparison:
    """Counts to send."""
    return types_pb2.CanaryComparison(
        opened_seq=comparison.opened_seq,
        canary=types_pb2.CanaryCounts(**asdict(comparison.canary)),
        rest=types_pb2.CanaryCounts(**asdict(comparison.rest)),
    )


def _counts(message: types_pb2.CanaryCounts) -> CanaryCounts:
    return CanaryCounts(
        message.requests,
        message.claims,
        message.shaped,
        message.errors,
        message.tokens,
        message.microseconds,
    )
