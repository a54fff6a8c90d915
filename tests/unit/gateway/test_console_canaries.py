"""The console's pages about canaries, in front of an edit-writer that answers as a test wants."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from errata.errors import PreconditionError, RequestIdReusedError
from errata.launch.certs import DevelopmentCa, make_ca, make_token
from errata.platform.settings import GatewaySettings, SecuritySettings
from errata_client._gen.errata.v1 import editing_pb2, types_pb2
from tests.unit.gateway.canary_writer import CODE, ID, Writer, post_form, text_of
from tests.unit.gateway.services import gateway_http


@pytest.fixture
def writer() -> Writer:
    return Writer(editing_pb2.Canary.STATE_OPEN)


async def test_canaries_are_listed_with_both_arms_and_pages(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        page = (await http.get("/console/canaries")).text
        only_open = (await http.get("/console/canaries?only=open")).text
        last = (await http.get("/console/canaries?page=a+b")).text
    assert '<a href="/console/canaries/july">july</a>' in page
    assert "2.5% beta 1 1,200, 10,800 0.50%, 0.25%" in text_of(page)
    assert '<a href="/console/canaries" aria-current="page">Canaries</a>' in page
    assert 'href="/console/canaries?page=a+b"' in page
    assert 'href="/console/canaries?only=open&amp;page=a+b"' in only_open
    assert "Next page" not in last


async def test_a_canary_shows_its_audience_its_rule_both_arms_and_its_edits(
    writer: Writer,
) -> None:
    async with gateway_http(editing=writer.answers) as http:
        page = (await http.get("/console/canaries/july")).text
    text = text_of(page)
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
        answer = await post_form(
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
    assert (sent.request_id, sent.author, sent.comment) == (ID, "ann", "ticket 12")
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
        answer = await post_form(http, "/console/canaries", comment="kept text", **fields)
    assert (answer.status_code, writer.received) == (400, [])
    assert said in answer.text
    for name in ("share", "min_requests"):
        assert f'name="{name}" value="{fields.get(name, "")}"' in answer.text
    assert 'value="kept text"' in answer.text
    assert f'value="{ID}"' in answer.text
    has_rule = fields.keys() - {"name", "share"}
    assert ("<details open>" in answer.text) is bool(has_rule), "what was typed can be seen"


async def test_a_form_with_the_presets_of_a_rule_has_none(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        fields = {"max_error_increase": "1%", "promote_after": "0", "min_requests": ""}
        await post_form(http, "/console/canaries", name="july", share="1%", **fields)
    (sent,) = writer.received
    assert not sent.HasField("rule")


async def test_a_share_is_changed_and_the_rest_stays(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        answer = await post_form(
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
        answer = await post_form(
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
        answer = await post_form(http, "/console/canaries/july", act="promote")
    assert "look at the list of canaries, or send it again" in text_of(answer.text)


@pytest.mark.parametrize(
    ("act", "outcome"),
    [
        ("promote", editing_pb2.EndCanaryRequest.OUTCOME_PROMOTE),
        ("roll_back", editing_pb2.EndCanaryRequest.OUTCOME_ROLL_BACK),
    ],
)
async def test_a_canary_ends_with_a_comment(writer: Writer, act: str, outcome: int) -> None:
    async with gateway_http(editing=writer.answers) as http:
        answer = await post_form(http, "/console/canaries/july", act=act, comment="as measured")
    assert answer.headers["location"] == f"/console/canaries/july?done={act}"
    (sent,) = writer.received
    assert (sent.name, sent.outcome) == ("canaries/july", outcome)
    assert (sent.comment, sent.request_id) == ("as measured", ID)


async def test_an_end_may_take_as_long_as_a_fit(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        await post_form(http, "/console/canaries/july", act="set", share="50%")
        await post_form(http, "/console/canaries/july", act="promote")
    changed, ended = writer.seconds
    assert changed is not None
    assert ended is not None
    usual = GatewaySettings().default_timeout_seconds
    assert changed < 2 * usual < ended


async def test_a_refused_end_keeps_its_own_comment_and_id_alone(writer: Writer) -> None:
    writer.refusal = PreconditionError("canaries/july has ended already.")
    async with gateway_http(editing=writer.answers) as http:
        answer = await post_form(
            http, "/console/canaries/july", act="promote", comment="my comment"
        )
        assert answer.status_code == 400
        assert "canaries/july has ended already" in answer.text
        assert answer.text.count("my comment") == 1
        assert answer.text.count(ID) == 1
        assert len(set(re.findall('name="request_id" value="([^"]+)"', answer.text))) == 3


async def test_a_form_of_another_page_or_button_does_nothing(writer: Writer) -> None:
    async with gateway_http(editing=writer.answers) as http:
        await http.get("/console/canaries/july")
        form = {"act": "promote", "form_code": "00"}
        assert (await http.post("/console/canaries/july", data=form)).status_code == 403
        assert (await post_form(http, "/console/canaries/july", act="delete")).status_code == 400
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
    assert "by errata-writer, 2031-02-03 00:00:00 UTC position 12" in text_of(page)
    assert "<form" not in page
    assert "New edit in it" not in page


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
        code = CODE.search((await http.get("/console/login")).text)
        assert code is not None
        form = {"form_code": code[1], "token": make_token(ca, "ann", [role])}
        await http.post("/console/login", data=form)
        listed = (await http.get("/console/canaries")).text
        shown = (await http.get("/console/canaries/july")).text
        assert ("Open a canary" in listed) is offered
        for button in ("Change who is in it", "Promote july", "Roll back july", "New edit in it"):
            assert (button in shown) is offered
        tried = await post_form(http, "/console/canaries/july", act="promote")
    assert tried.status_code == (303 if offered else 403)
    assert len(writer.received) == offered
