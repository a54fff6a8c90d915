"""A writer with one canary, and forms of the console's pages about it."""

from __future__ import annotations

import re
from typing import Any

import httpx2

from errata_client._gen.errata.v1 import editing_pb2, types_pb2
from tests.unit.gateway.services import Answers, seconds_left

CODE = re.compile('name="form_code" value="([0-9a-f]+)"')
ID = "3f5c2c9e-1f9d-4c58-a6d8-0a5a0c6e7f10"


class Writer:
    """Has one canary with an edit, and notes what it is asked to change."""

    def __init__(self, state: editing_pb2.Canary.State.ValueType) -> None:
        self.received: list[Any] = []
        self.seconds: list[float | None] = []
        self.refusal: Exception | None = None
        self.canary = editing_pb2.Canary(
            name="canaries/july",
            state=state,
            lane="lanes/facts",
            namespace="acme",
            share=0.025,
            readers=["beta"],
            comment="ticket <12>",
            author="ann",
            opened_seq=7,
            set_seq=9,
            edits=["edits/8-0"],
        )
        self.canary.rule.CopyFrom(
            types_pb2.CanaryRule(
                min_requests=500, max_error_increase=0.01, promote_after_seconds=5_400
            )
        )
        self.canary.comparison.canary.CopyFrom(
            types_pb2.CanaryCounts(
                requests=1_200, claims=204, shaped=300, errors=6, tokens=9, microseconds=240_000_000
            )
        )
        self.canary.comparison.rest.CopyFrom(types_pb2.CanaryCounts(requests=10_800, errors=27))

    @property
    def answers(self) -> Answers:
        edit = editing_pb2.Edit(
            name="edits/8-0", lane="lanes/facts", state=editing_pb2.Edit.STATE_COMMITTED
        )
        edit.spec.prompt, edit.spec.target = "We close at", "8 pm"
        edit.spec.canary, edit.spec.namespace = "canaries/july", "acme"
        lane = editing_pb2.Lane(name="lanes/facts", method="recipe", is_default=True)
        return {
            "ListCanaries": self._listed,
            "SetCanary": lambda request: self._changed(request, editing_pb2.SetCanaryResponse),
            "EndCanary": lambda request: self._changed(request, editing_pb2.EndCanaryResponse),
            "GetEdit": lambda request: editing_pb2.GetEditResponse(edit=edit),
            "ListEdits": lambda request: editing_pb2.ListEditsResponse(edits=[edit]),
            "ListLanes": lambda request: editing_pb2.ListLanesResponse(lanes=[lane]),
        }

    def _listed(self, request: Any) -> Any:
        more = "" if request.name or request.page_token else "a b"
        return editing_pb2.ListCanariesResponse(canaries=[self.canary], next_page_token=more)

    def _changed(self, request: Any, kind: Any) -> Any:
        self.received.append(request)
        self.seconds.append(seconds_left.get())
        if self.refusal is not None:
            raise self.refusal
        return kind(seq=9, canary=self.canary)


async def post_form(http: httpx2.AsyncClient, path: str, **fields: str) -> httpx2.Response:
    """Posts a form of this page, with the code that the page carries."""
    code = CODE.search((await http.get(path)).text)
    assert code is not None
    return await http.post(path, data={"form_code": code[1], "request_id": ID, **fields})


def text_of(page: str) -> str:
    """What a reader of the page sees."""
    return " ".join(re.sub("<[^>]+>", " ", page).split())
