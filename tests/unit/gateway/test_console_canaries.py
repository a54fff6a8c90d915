"""The console's pages about canaries, in front of an edit-writer that answers as a test wants."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from starlette.requests import Request

from errata.editing.canaries import OpenCanary
from errata.editing.namespaces import DEFAULT_ONLY
from errata.errors import PreconditionError, RequestIdReusedError
from errata.gateway.http.console.ask import _earlier, _packed
from errata.gateway.http.console.canaries import key_within
from errata.gateway.http.console.pages import Assets, Pages
from errata.gateway.http.console.propose import spec_of
from errata.gateway.http.console.visit import Visit
from errata.launch.certs import DevelopmentCa, make_ca, make_token
from errata.platform.settings import GatewaySettings, SecuritySettings
from errata_client import Answer, Canary, CanaryState, Lane, Model, Provenance
from errata_client._gen.errata.v1 import edit_log_pb2, editing_pb2, inference_pb2, types_pb2
from tests.unit.gateway.services import Answers, gateway_http, seconds_left

_CODE = re.compile('name="form_code" value="([0-9a-f]+)"')
_ID = "3f5c2c9e-1f9d-4c58-a6d8-0a5a0c6e7f10"


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


@pytest.fixture
def writer() -> Writer:
    return Writer(editing_pb2.Canary.STATE_OPEN)


async def _sent(http: httpx2.AsyncClient, path: str, **fields: str) -> httpx2.Response:
    code = _CODE.search((await http.get(path)).text)
    assert code is not None
    return await http.post(path, data={"form_code": code[1], "request_id": _ID, **fields})


def _text(page: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", page).split())


async def test_canaries_are_listed_with_both_arms_and_pages(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        page = (await http.get("/console/canaries")).text
        only_open = (await http.get("/console/canaries?only=open")).text
        last = (await http.get("/console/canaries?page=a+b")).text
    assert '<a href="/console/canaries/july">july</a>' in page
    assert "2.5% beta 1 1,200, 10,800 0.50%, 0.25%" in _text(page)
    assert '<a href="/console/canaries" aria-current="page">Canaries</a>' in page
    assert 'href="/console/canaries?page=a+b"' in page
    assert 'href="/console/canaries?only=open&amp;page=a+b"' in only_open
    assert "Next page" not in last


async def test_a_canary_shows_its_audience_its_rule_both_arms_and_its_edits(
    writer: Writer,
) -> None:
    async with gateway_http(editing=writer.answers) as http:
        page = (await http.get("/console/canaries/july")).text
    text = _text(page)
    for said in (
        "2.5% of the requests that read the namespace",
        "and all that also read beta",
        "from 500 requests on, it rolls back if its share of errors is more than 1 points",
        "promotes after 1h30m with this audience",
        "Requests 1,200 10,800",
        "Claimed by its edits 204 17.00% 0 0.00%",
        "Errors 6 0.50% 27 0.25%",
        "Mean time 200.0 ms 0.0 ms",
        "Last set 1970-01-01 00:00:00 UTC position 9",
        "We close at → 8 pm",
    ):
        assert said in text
    assert "ticket &lt;12&gt;" in page
    query = "canary=july&amp;lane=lanes/facts&amp;namespace=acme"
    assert f'href="/console/propose?{query}"' in page


async def test_what_a_form_says_opens_a_canary(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        answer = await _sent(
            http,
            "/console/canaries",
            name="july",
            share="10%",
            lane="lanes/facts",
            namespace="acme",
            readers="staff, beta",
            min_requests="200",
            max_error_increase="2%",
            promote_after="1h",
            comment="ticket 12",
            author="ann",
        )
    assert answer.status_code == 303
    assert answer.headers["location"] == "/console/canaries/july?done=opened"
    (sent,) = writer.received
    assert (sent.name, sent.share, list(sent.readers)) == ("canaries/july", 0.1, ["beta", "staff"])
    assert (sent.request_id, sent.author, sent.comment) == (_ID, "ann", "ticket 12")
    assert sent.must_be_new, "somebody else may have opened it since"
    assert sent.rule == types_pb2.CanaryRule(
        min_requests=200, max_error_increase=0.02, promote_after_seconds=3_600
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "", "share": "10%"}, "there is no name"),
        ({"name": "july", "share": "ten"}, "write it as 10% or 0.1"),
        ({"name": "july", "share": "1%", "min_requests": "few"}, "give a whole number"),
        (
            {"name": "july", "share": "1%", "min_requests": "9", "max_error_increase": "x"},
            "max_error_increase: &#39;x&#39; is no share",
        ),
        (
            {"name": "july", "share": "1%", "promote_after": "1h"},
            "there is no rule without a number of requests",
        ),
        (
            {"name": "july", "share": "1%", "max_error_increase": "5%"},
            "there is no rule without a number of requests",
        ),
    ],
)
async def test_a_form_that_cannot_be_read_comes_back_as_it_was_typed(
    writer: Writer, fields: dict[str, str], said: str
) -> None:
    async with gateway_http(editing=writer.answers) as http:
        answer = await _sent(http, "/console/canaries", comment="kept text", **fields)
    assert (answer.status_code, writer.received) == (400, [])
    assert said in answer.text
    for name in ("share", "min_requests"):
        assert f'name="{name}" value="{fields.get(name, "")}"' in answer.text
    assert 'value="kept text"' in answer.text
    assert f'value="{_ID}"' in answer.text
    has_rule = fields.keys() - {"name", "share"}
    assert ("<details open>" in answer.text) is bool(has_rule), "what was typed can be seen"


async def test_a_form_with_the_presets_of_a_rule_has_none(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        fields = {"max_error_increase": "1%", "promote_after": "0", "min_requests": ""}
        await _sent(http, "/console/canaries", name="july", share="1%", **fields)
    (sent,) = writer.received
    assert not sent.HasField("rule")


async def test_a_share_is_changed_and_the_rest_stays(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        answer = await _sent(
            http, "/console/canaries/july", act="set", share="50%", readers="beta", author="ann"
        )
        assert answer.headers["location"] == "/console/canaries/july?done=set"
        done = (await http.get(answer.headers["location"])).text
    assert "every replica decides by it now" in done
    (sent,) = writer.received
    assert (sent.share, list(sent.readers)) == (0.5, ["beta"])
    assert (sent.lane, sent.namespace) == ("lanes/facts", "acme")
    assert sent.rule.min_requests == 500
    assert not sent.must_be_new


@pytest.mark.parametrize(("comment", "status"), [("", 400), ("ticket <12>", 400), ("more", 303)])
async def test_what_changes_nothing_is_refused(writer: Writer, comment: str, status: int) -> None:
    async with gateway_http(editing=writer.answers) as http:
        answer = await _sent(
            http,
            "/console/canaries/july",
            act="set",
            share="2.5%",
            readers="beta",
            comment=comment,
        )
    assert answer.status_code == status
    assert len(writer.received) == (status == 303)


async def test_a_form_that_was_sent_with_other_content_speaks_of_canaries(writer: Writer) -> None:
    writer.refusal = RequestIdReusedError("the id was used.", field="request_id")
    async with gateway_http(editing=writer.answers) as http:
        answer = await _sent(http, "/console/canaries/july", act="promote")
    assert "look at the list of canaries, or send it again" in _text(answer.text)


@pytest.mark.parametrize(
    ("act", "outcome"),
    [
        ("promote", editing_pb2.EndCanaryRequest.OUTCOME_PROMOTE),
        ("roll_back", editing_pb2.EndCanaryRequest.OUTCOME_ROLL_BACK),
    ],
)
async def test_a_canary_ends_with_a_comment(writer: Writer, act: str, outcome: int) -> None:
    async with gateway_http(editing=writer.answers) as http:
        answer = await _sent(http, "/console/canaries/july", act=act, comment="as measured")
    assert answer.headers["location"] == f"/console/canaries/july?done={act}"
    (sent,) = writer.received
    assert (sent.name, sent.outcome) == ("canaries/july", outcome)
    assert (sent.comment, sent.request_id) == ("as measured", _ID)


async def test_an_end_may_take_as_long_as_a_fit(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        await _sent(http, "/console/canaries/july", act="set", share="50%")
        await _sent(http, "/console/canaries/july", act="promote")
    changed, ended = writer.seconds
    assert changed is not None
    assert ended is not None
    usual = GatewaySettings().default_timeout_seconds
    assert changed < 2 * usual < ended


async def test_a_refused_end_keeps_its_own_comment_and_id_alone(writer: Writer) -> None:
    writer.refusal = PreconditionError("canaries/july has ended already.")
    async with gateway_http(editing=writer.answers) as http:
        answer = await _sent(http, "/console/canaries/july", act="promote", comment="my comment")
        assert answer.status_code == 400
        assert "canaries/july has ended already" in answer.text
        assert answer.text.count("my comment") == 1
        assert answer.text.count(_ID) == 1
        assert len(set(re.findall('name="request_id" value="([^"]+)"', answer.text))) == 3


async def test_a_form_of_another_page_or_button_does_nothing(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        await http.get("/console/canaries/july")
        form = {"act": "promote", "form_code": "00"}
        assert (await http.post("/console/canaries/july", data=form)).status_code == 403
        assert (await _sent(http, "/console/canaries/july", act="delete")).status_code == 400
        for path in ("/console/canaries/July", "/console/canaries/a~b"):
            assert (await http.get(path)).status_code == 404
    assert not writer.received


async def test_labels_and_ids_of_the_forms_are_each_others_alone(writer: Writer) -> None:
    """Three forms of one page have fields of the same name."""
    async with gateway_http(editing=writer.answers) as http:
        for path in ("/console/canaries", "/console/canaries/july"):
            page = (await http.get(path)).text
            ids = re.findall(r'\bid="([^"]+)"', page)
            assert len(ids) == len(set(ids))
            named = re.findall(r'(?:for|aria-describedby|aria-labelledby)="([^"]+)"', page)
            assert {each for names in named for each in names.split()} <= set(ids)


async def test_an_ended_canary_can_only_be_looked_at() -> None:
    writer = Writer(editing_pb2.Canary.STATE_ROLLED_BACK)
    writer.canary.ended_seq, writer.canary.ended_by = 12, "errata-writer"
    writer.canary.end_time.FromDatetime(datetime(2031, 2, 3, tzinfo=UTC))
    async with gateway_http(editing=writer.answers) as http:
        page = (await http.get("/console/canaries/july")).text
    assert "rolled back" in page
    assert "by errata-writer, 2031-02-03 00:00:00 UTC position 12" in _text(page)
    assert "<form" not in page
    assert "New edit in it" not in page


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
        text = _text((await http.get("/console/edits/8-0?ask=now")).text)
        writer.canary.state = editing_pb2.Canary.STATE_PROMOTED
        ended = _text((await http.get("/console/edits/8-0?ask=now")).text)
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
        code = _CODE.search((await http.get("/console/canaries")).text)
        assert code is not None
        form = {"form_code": code[1], "lane": "lanes/facts"}
        page = await http.post("/console/lanes", data=form)
    assert page.status_code == 200
    assert sorted(asked) == ["We open at", "We rest at"]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentCa:
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize(
    ("role", "offered"), [("reader", False), ("approver", False), ("editor", True)]
)
async def test_only_who_may_change_canaries_is_offered_it(
    writer: Writer, ca: DevelopmentCa, role: str, offered: bool
) -> None:
    secured = SecuritySettings(
        authenticate=True,
        jwks_file=ca.jwks,
        tls_cert_file=ca.certificate("gateway"),
        tls_key_file=ca.key("gateway"),
        tls_ca_file=ca.ca,
    )
    async with gateway_http(editing=writer.answers, security=secured) as http:
        code = _CODE.search((await http.get("/console/login")).text)
        assert code is not None
        form = {"form_code": code[1], "token": make_token(ca, "ann", [role])}
        await http.post("/console/login", data=form)
        listed = (await http.get("/console/canaries")).text
        shown = (await http.get("/console/canaries/july")).text
        assert ("Open a canary" in listed) is offered
        for button in ("Change who is in it", "Promote july", "Roll back july", "New edit in it"):
            assert (button in shown) is offered
        tried = await _sent(http, "/console/canaries/july", act="promote")
    assert tried.status_code == (303 if offered else 403)
    assert len(writer.received) == offered


_PAGES = Pages(Assets(), authenticates=False)


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
    text = _text(bytes(shown.body).decode())
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
