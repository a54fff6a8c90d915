"""Operations of the SDK on the catalog, as `_calls` has the others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from errata_client import _convert, catalog, errors, types
from errata_client._calls import Call, Page, timestamp
from errata_client._chat import text
from errata_client._gen.errata.v1 import catalog_pb2, editing_pb2

_SERVICE = "CatalogService"
_PAGE = 200
_KINDS = {
    value.number: value.name.removeprefix("KIND_").lower().replace("_", ".", 1)
    for value in catalog_pb2.Event.Kind.DESCRIPTOR.values
    if value.number
}
"""Such as `edit.committed`."""
_ORDERS = {
    True: catalog_pb2.FindEditsRequest.ORDER_NEWEST,
    False: catalog_pb2.FindEditsRequest.ORDER_UNSPECIFIED,
}


def find_edits(
    wanted: str,
    states: Sequence[types.EditState],
    lane: str,
    author: str,
    method: str,
    subject: str,
    since: datetime | None,
    until: datetime | None,
    namespace: str | None,
    newest: bool,
    min_seq: int | None,
    limit: int | None,
    page_token: str,
) -> Call[Page[catalog.FoundEdit]]:
    """A page of edits that match."""
    request = catalog_pb2.FindEditsRequest(
        text=text(wanted, "text"),
        min_seq=min_seq,
        page_size=_PAGE if limit is None else max(1, min(limit, _PAGE)),
        page_token=page_token,
        states=[editing_pb2.Edit.State.ValueType(state.value) for state in states],
        lane=text(lane, "lane"),
        author=text(author, "author"),
        method=text(method, "method"),
        subject=text(subject, "subject"),
        from_time=timestamp(since),
        until_time=timestamp(until),
        order=_ORDERS[newest],
        namespace=None if namespace is None else text(namespace, "namespace"),
    )
    return Call(_SERVICE, "FindEdits", request, _found)


def _found(response: catalog_pb2.FindEditsResponse) -> Page[catalog.FoundEdit]:
    found = [
        catalog.FoundEdit(_convert.edit(m.edit), m.score, m.revert_comment, response.seq)
        for m in response.edits
    ]
    return Page(found, response.next_page_token)


def watch_events(
    from_seq: int | None, after: str, kinds: Sequence[str], edit: str, follow: bool
) -> Call[list[catalog.Event]]:
    """Events, streamed.

    Raises:
        InvalidRequestError: there is no such kind.
    """
    numbers = {name: number for number, name in _KINDS.items()}
    for kind in kinds:
        if kind not in numbers:
            raise errors.InvalidRequestError(
                f"there is no kind of events {kind!r}; choose from {', '.join(numbers)}.",
                reason="INVALID_REQUEST",
                field="kinds",
            )
    request = catalog_pb2.WatchEventsRequest(
        from_seq=from_seq,
        after=text(after, "after"),
        kinds=[catalog_pb2.Event.Kind.ValueType(numbers[kind]) for kind in kinds],
        edit=text(edit, "edit"),
        until_now=not follow,
    )
    return Call(_SERVICE, "WatchEvents", request, lambda r: [_event(each) for each in r.events])


def _event(message: catalog_pb2.Event) -> catalog.Event:
    return catalog.Event(
        name=message.name,
        id=message.id,
        kind=_KINDS.get(message.kind, ""),
        seq=message.seq,
        time=message.time.ToDatetime(UTC),
        edit=message.edit,
        lane=message.lane,
        author=message.author,
        comment=message.comment,
        replica=message.replica,
        namespace=message.namespace,
        canary=message.canary,
    )


def shaped_answers(
    since: datetime | None, until: datetime | None, page_token: str
) -> Call[Page[catalog.ShapedCount]]:
    """A page of counts."""
    request = catalog_pb2.ShapedAnswersRequest(
        from_time=timestamp(since), until_time=timestamp(until), page_token=page_token
    )
    return Call(
        _SERVICE,
        "ShapedAnswers",
        request,
        lambda r: Page(
            [
                catalog.ShapedCount(each.edit, each.answers, each.last_hour.ToDatetime(UTC))
                for each in r.counts
            ],
            r.next_page_token,
        ),
    )
