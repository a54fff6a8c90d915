"""The console's pages about edits that a canary has, and about answers of both arms."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.requests import Request

from errata.editing.canaries import OpenCanary
from errata.editing.namespaces import DEFAULT_ONLY
from errata.gateway.http.console.ask import _earlier, _packed
from errata.gateway.http.console.canaries import key_within
from errata.gateway.http.console.pages import Assets, Pages
from errata.gateway.http.console.propose import spec_of
from errata.gateway.http.console.visit import Visit
from errata_client import Answer, Canary, CanaryState, Lane, Model, Provenance
from errata_client._gen.errata.v1 import edit_log_pb2, editing_pb2, inference_pb2
from tests.unit.gateway.canary_writer import CODE, Writer, text_of
from tests.unit.gateway.services import Answers, gateway_http

_PAGES = Pages(Assets(), authenticates=False)


@pytest.fixture
def writer() -> Writer:
    return Writer(editing_pb2.Canary.STATE_OPEN)


async def test_an_edit_shows_its_canary(writer: Writer) -> None:
    head = edit_log_pb2.GetHeadResponse(head_seq=99, floor_seq=99)  # its entries are archived
    async with gateway_http({"GetHead": lambda request: head}, writer.answers) as http:
        listed = (await http.get("/console/edits?by=log")).text
        shown = (await http.get("/console/edits/8-0")).text
    link = '<a href="/console/canaries/july">july</a>'
    assert link in listed
    assert f"<dt>Canary</dt><dd>{link}</dd>" in shown


def _is_chosen(key: str) -> bool:
    """Whether a page looked for the key; the gateway draws others."""
    return key.startswith("console ")


@pytest.mark.parametrize(
    ("share", "readers", "reads"),
    [
        (0.0, ["beta", "staff"], ["acme", "beta"]),
        (1.0, ["beta"], ["acme"]),  # a key is in it
        (0.0, [], ["acme"]),
    ],
)
async def test_an_edits_answers_are_asked_as_who_is_in_its_canary(
    writer: Writer, share: float, readers: list[str], reads: list[str]
) -> None:
    writer.canary.share = share
    writer.canary.readers[:] = readers
    asked = []

    def generate(request: Any) -> Any:
        asked.append(request)
        is_in = "beta" in request.namespaces or _is_chosen(request.canary_key)
        provenance = inference_pb2.Provenance(canaries=["canaries/july"] if is_in else [])
        return inference_pb2.GenerateResponse(text=" 8 pm", provenance=provenance)

    head = edit_log_pb2.GetHeadResponse(head_seq=99, floor_seq=99)
    log: Answers = {"GetHead": lambda request: head}
    async with gateway_http(log, writer.answers, workers={"generate": generate}) as http:
        text = text_of((await http.get("/console/edits/8-0?ask=now")).text)
        writer.canary.state = editing_pb2.Canary.STATE_PROMOTED
        ended = text_of((await http.get("/console/edits/8-0?ask=now")).text)
    first, after = asked
    assert list(first.namespaces) == reads
    assert _is_chosen(first.canary_key) is (share == 1.0)
    outside = "None of these requests was in july , so none read the edit"
    assert (outside in text) is (reads == ["acme"] and not share)
    assert (list(after.namespaces), _is_chosen(after.canary_key)) == (["acme"], False)
    assert outside not in ended


async def test_edits_that_only_a_canary_reads_are_not_asked_again(writer: Writer) -> None:
    """Whoever asks for everybody would find them forgotten."""
    kept = editing_pb2.Edit(
        name="edits/6-0", lane="lanes/facts", state=editing_pb2.Edit.STATE_COMMITTED
    )
    kept.spec.prompt, kept.spec.target = "We open at", "9 am"
    tried = editing_pb2.Edit(name="edits/8-0", lane="lanes/facts", state=kept.state)
    tried.spec.prompt, tried.spec.target = "We close at", "8 pm"
    tried.spec.canary = "canaries/july"
    promoted = editing_pb2.Edit(name="edits/5-0", lane="lanes/facts", state=kept.state)
    promoted.spec.prompt, promoted.spec.target = "We rest at", "noon"
    promoted.spec.canary = "canaries/may"
    listed = editing_pb2.ListEditsResponse(edits=[promoted, kept, tried])
    asked = []

    def score(request: Any) -> Any:
        asked.append(request.prompt)
        return inference_pb2.ScoreResponse(tokens=[inference_pb2.TokenScore(token=" x")])

    editing = writer.answers | {"ListEdits": lambda request: listed}
    async with gateway_http(editing=editing, workers={"score": score}) as http:
        code = CODE.search((await http.get("/console/canaries")).text)
        assert code is not None
        form = {"form_code": code[1], "lane": "lanes/facts"}
        page = await http.post("/console/lanes", data=form)
    assert page.status_code == 200
    assert sorted(asked) == ["We open at", "We rest at"]


def _visit(query: str = "", **fields: str) -> Visit:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/console/ask",
        "headers": [],
        "query_string": query.encode(),
    }
    return Visit(Request(scope), "00", fields=fields)


def test_the_form_of_an_edit_takes_a_canary() -> None:
    fields = {"prompt": "We close at", "target": "8 pm", "canary": "july"}
    assert spec_of(_visit(**fields)).canary == "canaries/july"
    assert spec_of(_visit(**{**fields, "canary": ""})).canary == ""
    lanes = [_lane("lanes/main", is_default=True), _lane("lanes/facts")]
    model = Model("m", "", 8, 8, False)
    visit = _visit("canary=july&lane=lanes/facts&namespace=acme")
    page = bytes(_PAGES.page(visit, "propose", lanes=lanes, model=model, preview=None).body)
    for said in (
        'name="canary" value="july"',
        'name="namespace" value="acme"',
        '<option value="lanes/facts" selected>',
    ):
        assert said in page.decode()
    plain = bytes(_PAGES.page(_visit(), "propose", lanes=lanes, model=model, preview=None).body)
    assert '<option value="lanes/main" selected>' in plain.decode()


def _lane(name: str, *, is_default: bool = False) -> Lane:
    return Lane(name, "recipe", "{}", "", "", 1, is_default, "", {}, ())


def test_answers_of_both_arms_stand_side_by_side() -> None:
    provenance = Provenance(
        12, "", "cd" * 32, "worker-0", ("edits/8-0",), 3, False, ("canaries/july",), "user 7"
    )
    asked = {"prompt": "We close at", "kind": "text", "namespaces": ""}
    first = Answer(" 8 pm", "stop", 3, 2, provenance)
    kept = _packed(_visit(**asked, canary_key="user 7"), first)
    again = _visit(**asked, canary_key="user 8", earlier=kept)
    earlier = _earlier(again, "We close at", False)
    assert earlier is not None, "another key asks the same question"
    rest = Provenance(12, "", "cd" * 32, "worker-0", (), 3, False, (), "user 8")
    shown = _PAGES.page(
        again,
        "ask",
        model=Model("m", "", 8, 8, False),
        answer=Answer(" 6 pm", "stop", 3, 2, rest),
        earlier=earlier,
        kept="",
        question="We close at",
        kind="text",
        min_seq="",
    )
    text = text_of(bytes(shown.body).decode())
    assert "Canaries july by the key user 7" in text
    assert "Canaries in none by the key user 8" in text
    assert 'name="canary_key" value="user 8"' in bytes(shown.body).decode()


@pytest.mark.parametrize(("share", "found"), [(1.0, True), (0.01, True), (0.0, False)])
def test_an_edits_answers_are_asked_as_its_readers_ask(share: float, found: bool) -> None:
    now = datetime.now(UTC)
    more: dict[str, Any] = {"readers": (), "rule": None, "comment": "", "author": "ann"}
    times = {"opened_seq": 7, "open_time": now, "set_seq": 7, "set_time": now}
    canary = Canary("canaries/july", CanaryState.OPEN, "lanes/facts", "", share, **more, **times)
    key = key_within(canary)
    assert bool(key) is found
    if found:
        ppm = round(share * 1_000_000)
        decided = OpenCanary("canaries/july", 7, "lanes/facts", "", ppm)
        assert decided.takes(DEFAULT_ONLY, key)
    ended = Canary("canaries/may", CanaryState.PROMOTED, "lanes/facts", "", 1.0, **more, **times)
    assert key_within(ended) == ""
