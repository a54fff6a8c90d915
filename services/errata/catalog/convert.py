"""Catalog messages: proto ↔ domain. Edits are kept as the bytes of their message."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from errata.catalog.database import name_of
from errata.catalog.finding import Found, Order, Search
from errata.catalog.happenings import Event, Kind, micros
from errata.catalog.places import edit_id, event_id
from errata.catalog.reading import EventFilter
from errata.catalog.shaped import HOUR_SECONDS, Counted, Report, ShapedCount
from errata.catalog.sight import Sight
from errata.catalog.streams import Begin
from errata.editing.namespaces import namespace_of
from errata.errors import InvalidRequestError
from errata.writer.convert import state_of
from errata.writer.record import State
from errata_client._gen.errata.v1 import catalog_pb2, editing_pb2

_HOUR_MICROS = HOUR_SECONDS * 1_000_000
_MAX_ANSWERS = 2**40
_KINDS = {
    Kind.REQUESTED: catalog_pb2.Event.KIND_EDIT_REQUESTED,
    Kind.PROPOSED: catalog_pb2.Event.KIND_EDIT_PROPOSED,
    Kind.SCHEDULED: catalog_pb2.Event.KIND_EDIT_SCHEDULED,
    Kind.APPROVED: catalog_pb2.Event.KIND_EDIT_APPROVED,
    Kind.RELEASED: catalog_pb2.Event.KIND_EDIT_RELEASED,
    Kind.COMMITTED: catalog_pb2.Event.KIND_EDIT_COMMITTED,
    Kind.REJECTED: catalog_pb2.Event.KIND_EDIT_REJECTED,
    Kind.REVERTED: catalog_pb2.Event.KIND_EDIT_REVERTED,
    Kind.EXPIRED: catalog_pb2.Event.KIND_EDIT_EXPIRED,
    Kind.WITHDRAWN: catalog_pb2.Event.KIND_EDIT_WITHDRAWN,
    Kind.REPLICA_LEFT: catalog_pb2.Event.KIND_REPLICA_LEFT,
    Kind.REPLICA_LAGGING: catalog_pb2.Event.KIND_REPLICA_LAGGING,
    Kind.REPLICA_DISAGREES: catalog_pb2.Event.KIND_REPLICA_DISAGREES,
    Kind.REPLICA_RETURNED: catalog_pb2.Event.KIND_REPLICA_RETURNED,
    Kind.CANARY_OPENED: catalog_pb2.Event.KIND_CANARY_OPENED,
    Kind.CANARY_CHANGED: catalog_pb2.Event.KIND_CANARY_CHANGED,
    Kind.CANARY_PROMOTED: catalog_pb2.Event.KIND_CANARY_PROMOTED,
    Kind.CANARY_ROLLED_BACK: catalog_pb2.Event.KIND_CANARY_ROLLED_BACK,
}


def search_of(request: catalog_pb2.FindEditsRequest, sight: Sight) -> Search:
    """What the client wants to find, of what he may see.

    Raises:
        InvalidRequestError: an unknown state or order, no name of a namespace, or a time that
            cannot be represented.
    """
    by_default = Order.RELEVANCE if request.text.strip() else Order.NEWEST
    orders = {
        catalog_pb2.FindEditsRequest.ORDER_UNSPECIFIED: by_default,
        catalog_pb2.FindEditsRequest.ORDER_RELEVANCE: Order.RELEVANCE,
        catalog_pb2.FindEditsRequest.ORDER_NEWEST: Order.NEWEST,
    }
    if request.order not in orders:
        raise InvalidRequestError(
            f"order {request.order} is unknown; choose relevance or newest.", field="order"
        )
    return Search(
        text=request.text,
        states=tuple(map(_state, request.states)),
        lane=request.lane,
        author=request.author,
        method=request.method,
        subject=request.subject,
        from_time=_time(request, "from_time"),
        until_time=_time(request, "until_time"),
        order=orders[request.order],
        namespace=_namespace(request),
        sight=sight,
    )


def _namespace(request: catalog_pb2.FindEditsRequest) -> str | None:
    if not request.HasField("namespace"):
        return None
    return namespace_of(request.namespace, "namespace")


def _state(value: int) -> State:
    state = state_of(value)
    if state is None or state is State.FITTING:
        said = "is unknown" if state is None else "is known to the writer alone; use REQUESTED"
        raise InvalidRequestError(f"states: {value} {said}.", field="states")
    return state


def found_response(
    found: Sequence[Found], next_page_token: str, seq: int
) -> catalog_pb2.FindEditsResponse:
    """A page of edits."""
    return catalog_pb2.FindEditsResponse(
        edits=map(_found_message, found), next_page_token=next_page_token, seq=seq
    )


def _found_message(found: Found) -> catalog_pb2.FoundEdit:
    edit = editing_pb2.Edit.FromString(found.data)
    edit.superseded_by = found.superseded_by
    return catalog_pb2.FoundEdit(edit=edit, score=found.score, revert_comment=found.revert_comment)


def event_filter(request: catalog_pb2.WatchEventsRequest, sight: Sight) -> EventFilter:
    """Which events the client wants, of what he may see.

    Raises:
        InvalidRequestError: an unknown kind, or no name of an edit.
    """
    by_number = {number: kind for kind, number in _KINDS.items()}
    for value in request.kinds:
        if value not in by_number:
            raise InvalidRequestError(f"kinds: {value} is unknown.", field="kinds")
    return EventFilter(
        kinds=frozenset(by_number[value] for value in request.kinds),
        edit=edit_id(request.edit) if request.edit else None,
        sight=sight,
    )


def begin_of(request: catalog_pb2.WatchEventsRequest) -> Begin:
    """Where the client wants to begin.

    Raises:
        InvalidRequestError: a position below 1, or no name of an event.
    """
    if request.after:
        return Begin(after=event_id(request.after))
    if not request.HasField("from_seq"):
        return Begin()
    if request.from_seq < 1:
        raise InvalidRequestError(
            f"from_seq is {request.from_seq}; give 1 or more.", field="from_seq"
        )
    return Begin(from_seq=request.from_seq)


def events_response(
    events: Sequence[Event], seq: int, log_id: str
) -> catalog_pb2.WatchEventsResponse:
    """Events, or progress if there are none."""
    return catalog_pb2.WatchEventsResponse(
        events=[_event_message(event, log_id) for event in events], seq=seq
    )


def _event_message(event: Event, log_id: str) -> catalog_pb2.Event:
    message = catalog_pb2.Event(
        name=event.name,
        id=event.identity(log_id),
        kind=_KINDS[event.kind],
        seq=event.seq,
        edit=event.edit_name,
        lane=event.lane,
        author=event.author,
        comment=event.comment,
        replica=event.replica,
        namespace=event.namespace,
        canary=event.canary,
    )
    message.time.FromMicroseconds(event.time)
    return message


def hours_of(request: catalog_pb2.ShapedAnswersRequest, now: float) -> range:
    """The hours since 1970 that the client asks about; the last 24 by default.

    Raises:
        InvalidRequestError: a time that cannot be represented, or an end before the begin.
    """
    until, begin = _time(request, "until_time"), _time(request, "from_time")
    last = int(now // HOUR_SECONDS) + 1 if until is None else -(-until // _HOUR_MICROS)
    first = last - 25 if begin is None else begin // _HOUR_MICROS
    if first > last:
        raise InvalidRequestError(
            "until_time is before from_time; give a later one.", field="until_time"
        )
    return range(first, last)


def shaped_response(
    counts: Sequence[ShapedCount], next_page_token: str, seq: int
) -> catalog_pb2.ShapedAnswersResponse:
    """A page of counts."""
    response = catalog_pb2.ShapedAnswersResponse(next_page_token=next_page_token, seq=seq)
    for count in counts:
        added = response.counts.add(edit=name_of("edits", count.edit), answers=count.answers)
        added.last_hour.seconds = count.last_hour * HOUR_SECONDS
    return response


def report_of(request: catalog_pb2.ReportShapedAnswersRequest) -> Report:
    """What a gateway counted.

    Raises:
        InvalidRequestError: no reporter, no number, or a count that cannot be.
    """
    if not request.reporter or request.number < 1:
        raise InvalidRequestError("give reporter, and a number of 1 or more.", field="number")
    counts = tuple(
        Counted(edit_id(each.edit), each.hour.seconds // HOUR_SECONDS, each.answers)
        for each in request.counts
    )
    if any(not 0 < count.answers < _MAX_ANSWERS or count.hour < 0 for count in counts):
        raise InvalidRequestError("counts: answers must be 1 or more.", field="counts")
    return Report(request.reporter, request.number, counts)


def _time(
    request: catalog_pb2.FindEditsRequest | catalog_pb2.ShapedAnswersRequest, field: str
) -> int | None:
    """A time in microseconds since 1970."""
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    try:
        return micros(getattr(request, field).ToDatetime(UTC))
    except (OverflowError, ValueError) as error:
        raise InvalidRequestError(f"{field} is not a valid time: {error}.", field=field) from error
