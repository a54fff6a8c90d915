"""Forms and pages of the console, with services that answer as a test wants."""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx2
import pytest
from google.protobuf import json_format

from errata.catalog.convert import search_of
from errata.catalog.sight import Sight
from errata.errors import ErrataError, PermissionDeniedError, QueueFullError, RequestIdReusedError
from errata.gateway.http.console import calls_convert, visit
from errata.gateway.http.console.edits import STATES
from errata.gateway.http.console.visit import MAX_FORM_BYTES
from errata.launch.certs import DevelopmentCa, make_ca, make_token
from errata.log.chain import ORIGIN, extend
from errata.platform.settings import SecuritySettings
from errata_client._gen.errata.v1 import edit_log_pb2, editing_pb2
from tests.unit.gateway.services import Answers, gateway_http

_CODE = re.compile('name="form_code" value="([0-9a-f]+)"')
_ID = re.compile('name="request_id" value="([^"]+)"')
_TYPED = "3f5c2c9e-1f9d-4c58-a6d8-0a5a0c6e7f10"


def _refusing(error: ErrataError) -> Answers:
    """One edit waits for review, and no decision on it is taken."""

    def refuse(request: Any) -> Any:
        raise error

    waits = editing_pb2.Edit(
        name="edits/1-0", lane="lanes/main", state=editing_pb2.Edit.STATE_PROPOSED
    )
    waits.spec.prompt, waits.spec.target, waits.spec.namespace = "The sky is", "green", "acme"
    waits.spec.effective_from.FromJsonString("2031-02-03T00:00:00Z")
    waits.spec.expires_at.FromJsonString("2032-02-03T00:00:00Z")
    listed = editing_pb2.ListEditsResponse(edits=[waits])
    return {"ListEdits": lambda request: listed, "ReviewEdits": refuse}


async def _review(http: httpx2.AsyncClient, **headers: str) -> httpx2.Response:
    code = _CODE.search((await http.get("/console/reviews")).text)
    assert code is not None
    form = {"form_code": code[1], "name": "edits/1-0", "act": "approve", "request_id": _TYPED}
    return await http.post("/console/reviews", data=form, headers=headers)


_NO = PermissionDeniedError("nobody approves his own edit.")


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("", "nobody approves"),
        ("same-origin", "nobody approves"),
        ("same-site", "not made by the console"),
        ("cross-site", "not made by the console"),
        ("none", "not made by the console"),
    ],
)
async def test_a_valid_code_is_not_enough_if_the_browser_names_another_site(
    site: str, said: str
) -> None:
    async with gateway_http(editing=_refusing(_NO)) as http:
        headers = {"Sec-Fetch-Site": site} if site else {}
        answer = await _review(http, **headers)
        assert answer.status_code == 403
        assert said in answer.text


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/console/ask", MAX_FORM_BYTES),
        ("/console/login", MAX_FORM_BYTES + 65_536),
        ("/console/logout", 65_536),
    ],
)
async def test_a_long_form_is_refused_and_its_connection_ends(path: str, limit: int) -> None:
    async with gateway_http() as http:
        for size, status in ((limit, 403), (limit + 1, 413)):
            form = b"prompt=" + b"a" * (size - len(b"prompt="))
            answer = await http.post(path, content=form)
            assert answer.status_code == status
        assert answer.headers["connection"] == "close"


async def test_a_form_is_read_outside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = _noting(monkeypatch, visit, "parse_qsl")
    async with gateway_http(editing=_refusing(_NO)) as http:
        await _review(http)
    assert threads
    assert threading.current_thread() not in threads


def _noting(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[threading.Thread]:
    """The threads in which a function ran."""
    threads: list[threading.Thread] = []
    real = getattr(module, name)

    def noted(*given: Any, **named: Any) -> Any:
        threads.append(threading.current_thread())
        return real(*given, **named)

    monkeypatch.setattr(module, name, noted)
    return threads


async def test_a_refusal_says_when_to_come_again() -> None:
    busy = QueueFullError("the queue is full; send it later.", retry_after_seconds=7.0)
    async with gateway_http(editing=_refusing(busy)) as http:
        answer = await _review(http)
        assert (answer.status_code, answer.headers.get("retry-after")) == (429, "7")


async def test_a_refused_decision_keeps_its_id_unless_that_is_spent() -> None:
    async with gateway_http(editing=_refusing(_NO)) as http:
        assert _ID.findall((await _review(http)).text) == [_TYPED]
    async with gateway_http(editing=_refusing(RequestIdReusedError("of another entry."))) as http:
        answer = await _review(http)
        assert answer.status_code == 409
        assert "sent before with other content" in answer.text
        (made,) = _ID.findall(answer.text)
        assert made != _TYPED


async def test_a_reviewer_sees_whose_fact_it_is_and_when_it_holds() -> None:
    async with gateway_http(editing=_refusing(_NO)) as http:
        page = (await http.get("/console/reviews")).text
    for fact in ("<dd>acme</dd>", "2031-02-03", "2032-02-03"):
        assert fact in page


def _log(num_entries: int, page_size: int) -> Answers:
    """A log whose pages end before they are full, as those with long entries do."""
    position, entries = ORIGIN, []
    for number in range(num_entries):
        payload = edit_log_pb2.EntryPayload(request_id=f"r{number}").SerializeToString()
        position = extend(position, payload)
        entries.append(
            edit_log_pb2.LogEntry(
                seq=position.seq, payload=payload, chain_digest=position.chain_digest
            )
        )
    head = edit_log_pb2.GetHeadResponse(
        log_id="log", head_seq=position.seq, chain_digest=position.chain_digest, floor_seq=1
    )

    def listed(request: Any) -> Any:
        end = request.from_seq - 1 + min(request.page_size, page_size)
        more = "more" if end < num_entries else ""
        return edit_log_pb2.ListEntriesResponse(
            entries=entries[request.from_seq - 1 : end], next_page_token=more
        )

    return {"GetHead": lambda request: head, "ListEntries": listed}


async def test_the_newest_entries_are_shown_however_long_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = _noting(monkeypatch, calls_convert, "log_entry")
    async with gateway_http(_log(30, 4)) as http:
        page = (await http.get("/console/log")).text
        assert re.findall(r'<th scope="row" class="num">(\d+)</th>', page) == [
            str(seq) for seq in range(30, 10, -1)
        ]
        assert "Content of entry 30" in page
        assert "The gateway verified this page." in page
    assert threading.current_thread() not in threads, "replies are read outside the event loop"


async def test_only_the_log_page_makes_json_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _noting(monkeypatch, json_format, "MessageToJson")
    async with gateway_http(_log(30, 30)) as http:
        assert len((await http.get("/console/log/chain")).json()["entries"]) == 30
    assert not made


def test_no_state_can_be_chosen_that_the_catalog_refuses() -> None:

    for state in STATES:
        call = calls_convert.found(calls_convert.Filters(state), 1)
        assert search_of(call.request, Sight()).states


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentCa:
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def secured(ca: DevelopmentCa) -> SecuritySettings:
    return SecuritySettings(
        authenticate=True,
        jwks_file=ca.jwks,
        tls_cert_file=ca.certificate("gateway"),
        tls_key_file=ca.key("gateway"),
        tls_ca_file=ca.ca,
    )


async def _signed_in(
    http: httpx2.AsyncClient, ca: DevelopmentCa, name: str, aim: str = ""
) -> httpx2.Response:
    code = _CODE.search((await http.get("/console/login")).text)
    assert code is not None
    form = {"form_code": code[1], "token": make_token(ca, name, ["approver"]), "next": aim}
    return await http.post("/console/login", data=form)


@pytest.mark.parametrize(
    ("aim", "to"),
    [
        ("/console/edits", "/console/edits"),
        ("/console/edits?q=a%20b", "/console/edits?q=a%20b"),
        ("///console/edits", "/console"),
        ("//console/edits", "/console"),
        ("//[", "/console"),
        ("http://[", "/console"),
        ("/\\console/edits", "/console"),
        ("https://gateway/console/edits", "/console"),
    ],
)
async def test_a_login_leads_to_pages_of_the_console_alone(
    secured: SecuritySettings, ca: DevelopmentCa, aim: str, to: str
) -> None:
    async with gateway_http(security=secured) as http:
        answer = await _signed_in(http, ca, "eve", aim)
        assert (answer.status_code, answer.headers.get("location")) == (303, to)


async def test_a_code_is_of_one_person(secured: SecuritySettings, ca: DevelopmentCa) -> None:
    """Else a stranger plants his own cookie of forms in another's browser, and knows its code."""
    async with gateway_http(editing=_refusing(_NO), security=secured) as http:
        await _signed_in(http, ca, "mallory")
        code = _CODE.search((await http.get("/console/reviews")).text)
        assert code is not None
        await _signed_in(http, ca, "eve")
        assert "nobody approves" in (await _review(http)).text
        form = {"name": "edits/1-0", "act": "approve", "request_id": _TYPED}
        for known in (code[1], code[1][:64]):
            answer = await http.post("/console/reviews", data={"form_code": known, **form})
            assert answer.status_code == 403
            assert "the form is of an earlier session" in answer.text
