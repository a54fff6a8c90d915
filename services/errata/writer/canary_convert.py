"""Messages about canaries: proto ↔ domain."""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.canaries import WHOLE
from errata.editing.namespaces import DEFAULT, DEFAULT_NAME, namespace_of
from errata.errors import InvalidRequestError
from errata.log.canaries import check_canary_name
from errata.log.canary_convert import comparison_message, rule_message, rule_of
from errata.log.canary_entries import CanaryComparison, CanarySet, Outcome
from errata.writer.canaries import Ending
from errata.writer.canary_book import CanaryRecord
from errata_client._gen.errata.v1 import editing_pb2

_OUTCOMES = {
    editing_pb2.EndCanaryRequest.OUTCOME_PROMOTE: Outcome.PROMOTED,
    editing_pb2.EndCanaryRequest.OUTCOME_ROLL_BACK: Outcome.ROLLED_BACK,
}
_STATES = {
    None: editing_pb2.Canary.STATE_OPEN,
    Outcome.PROMOTED: editing_pb2.Canary.STATE_PROMOTED,
    Outcome.ROLLED_BACK: editing_pb2.Canary.STATE_ROLLED_BACK,
}


def wanted_of(
    request: editing_pb2.SetCanaryRequest, known: CanaryRecord | None, default_lane: str
) -> CanarySet:
    """What the client asks for.

    Lane and namespace of a canary cannot change, so that a request about one that exists need not
    name them.

    Args:
        request: of the client.
        known: the canary of this name; None if there is none.
        default_lane: `lanes/{lane}`.

    Raises:
        InvalidRequestError: an impossible name or namespace, or no or an impossible share.
    """
    check_canary_name(request.name)
    if not request.HasField("share"):
        raise InvalidRequestError(
            "share is not given; give 0 to 1, the share of the requests that are in the canary.",
            field="share",
        )
    unnamed = DEFAULT if known is None else known.namespace
    return CanarySet(
        request.name,
        request.lane or (default_lane if known is None else known.lane),
        namespace_of(request.namespace, "namespace") if request.namespace else unnamed,
        _share_ppm(request.share),
        tuple(sorted({namespace_of(name, "readers") for name in request.readers})),
        rule_of(request.rule) if request.HasField("rule") else None,
        request.comment,
    )


def _share_ppm(share: float) -> int:
    """The share in parts per million.

    Raises:
        InvalidRequestError: it is no share, or too small to be kept.
    """
    if not 0 <= share <= 1:
        raise InvalidRequestError(f"share is {share:g}; it can be 0 to 1.", field="share")
    found = round(share * WHOLE)
    if share and not found:
        raise InvalidRequestError(
            f"share is {share:g}; give 0, or at least {1 / WHOLE:g}.", field="share"
        )
    return found


def ending_of(request: editing_pb2.EndCanaryRequest, author: str) -> Ending:
    """How the client wants a canary to end.

    Raises:
        InvalidRequestError: it does not say.
    """
    outcome = _OUTCOMES.get(request.outcome)
    if outcome is None:
        said = f"{request.outcome}, which is unknown" if request.outcome else "not given"
        raise InvalidRequestError(
            f"outcome is {said}; give OUTCOME_PROMOTE or OUTCOME_ROLL_BACK.", field="outcome"
        )
    return Ending(request.name, outcome, request.comment, author)


def canary_message(
    record: CanaryRecord, edits: Sequence[str], counted: CanaryComparison | None
) -> editing_pb2.Canary:
    """A canary.

    Args:
        record: its state.
        edits: names of all of its edits.
        counted: what replicas have counted, if it is open.
    """
    comparison = counted if record.is_open else record.comparison
    message = editing_pb2.Canary(
        name=record.name,
        state=_STATES[record.outcome],
        lane=record.lane,
        namespace=record.namespace,
        share=record.share_ppm / WHOLE,
        readers=[name or DEFAULT_NAME for name in record.readers],
        rule=rule_message(record.rule),
        comment=record.comment,
        author=record.author,
        opened_seq=record.opened_seq,
        set_seq=record.set_seq,
        ended_seq=record.ended_seq,
        ended_by=record.ended_by,
        edits=edits,
        comparison=None if comparison is None else comparison_message(comparison),
    )
    message.open_time.FromDatetime(record.open_time)
    message.set_time.FromDatetime(record.set_time)
    if record.end_time is not None:
        message.end_time.FromDatetime(record.end_time)
    return message
