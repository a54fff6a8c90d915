"""Operations of the SDK on canaries, as `_calls` has the others."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict

from errata_client import canary as values
from errata_client._calls import Call, Page, names_in
from errata_client._canary_convert import canary
from errata_client._chat import text
from errata_client._gen.errata.v1 import editing_pb2, types_pb2
from errata_client.errors import InvalidRequestError

_SERVICE = "EditingService"
_PAGE = 1_000
_OUTCOMES = {
    True: editing_pb2.EndCanaryRequest.OUTCOME_PROMOTE,
    False: editing_pb2.EndCanaryRequest.OUTCOME_ROLL_BACK,
}


def set_canary(
    name: str,
    share: float,
    lane: str,
    namespace: str,
    readers: str | Sequence[str],
    rule: values.CanaryRule | None,
    must_be_new: bool,
    comment: str,
    author: str,
    request_id: str | None,
) -> Call[values.Canary]:
    """Opens or changes a canary."""
    request = editing_pb2.SetCanaryRequest(
        request_id=request_id or str(uuid.uuid4()),
        name=text(name, "name"),
        lane=text(lane, "lane"),
        namespace=text(namespace, "namespace"),
        share=share,
        readers=names_in(readers, "readers"),
        rule=None if rule is None else types_pb2.CanaryRule(**asdict(rule)),
        comment=text(comment, "comment"),
        author=text(author, "author"),
        must_be_new=must_be_new,
    )
    return Call(_SERVICE, "SetCanary", request, lambda r: canary(r.canary))


def end_canary(
    name: str, promote: bool, comment: str, author: str, request_id: str | None
) -> Call[values.Canary]:
    """Promotes a canary, or rolls it back."""
    request = editing_pb2.EndCanaryRequest(
        request_id=request_id or str(uuid.uuid4()),
        name=text(name, "name"),
        outcome=_OUTCOMES[promote],
        comment=text(comment, "comment"),
        author=text(author, "author"),
    )
    return Call(_SERVICE, "EndCanary", request, lambda r: canary(r.canary))


def list_canaries(only_open: bool, page_token: str) -> Call[Page[values.Canary]]:
    """A page of canaries."""
    request = editing_pb2.ListCanariesRequest(
        page_size=_PAGE, page_token=page_token, only_open=only_open
    )
    return Call(
        _SERVICE,
        "ListCanaries",
        request,
        lambda r: Page([canary(each) for each in r.canaries], r.next_page_token),
    )


def get_canary(name: str) -> Call[values.Canary]:
    """One canary.

    Raises:
        InvalidRequestError: the name is empty, which would ask for all of them.
    """
    if not name:
        raise InvalidRequestError(
            "there is no name of a canary; give one, such as canaries/july.",
            reason="INVALID_REQUEST",
            field="name",
        )
    request = editing_pb2.ListCanariesRequest(page_size=1, name=text(name, "name"))
    return Call(_SERVICE, "ListCanaries", request, lambda r: canary(r.canaries[0]))
