"""The console's parts alone: sessions, verdicts, forms, and pages without services."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.fernet import Fernet
from starlette.requests import Request
from starlette.responses import Response

from errata.errors import InvalidRequestError, StartupError
from errata.gateway.http.app import build_app
from errata.gateway.http.console.calls_convert import Entry, Placed
from errata.gateway.http.console.edits import beginning
from errata.gateway.http.console.lanes import Fill, fill_of, spread
from errata.gateway.http.console.log import problem_of
from errata.gateway.http.console.overview import Pulse, verdict_on
from errata.gateway.http.console.pages import Assets
from errata.gateway.http.console.sessions import MAX_TOKEN_CHARS, Sessions
from errata.log.chain import ORIGIN, ChainedEntry, Position, extend
from errata.platform.addresses import free_port
from errata.platform.metrics import HTTP_REQUESTS
from errata.platform.server import open_channel
from errata.platform.settings import GatewaySettings
from errata_client import Edit, EditSpec, EditState, Head, Lane, LogEntry, Replica
from tests.waiting import PATIENCE

HEAD = Head("log", 7, "ab" * 32, 1, 1)


async def _client(settings: GatewaySettings) -> AsyncIterator[httpx2.AsyncClient]:
    pool: Any = None
    async with open_channel(f"127.0.0.1:{free_port()}") as nobody:
        transport = httpx2.ASGITransport(build_app(pool, nobody, nobody, nobody, settings))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as made:
            yield made


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async for made in _client(GatewaySettings(console=True)):
        yield made


async def test_it_is_off_unless_it_is_asked_for() -> None:
    async for http in _client(GatewaySettings()):
        for path in ("/console", "/console/log", "/console/static/console.css"):
            assert (await http.get(path)).status_code == 404


async def test_a_page_names_the_service_that_is_away(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/console", timeout=PATIENCE)
    assert answer.status_code == 503
    assert "the gateway cannot reach EditLogService" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    part = await http.get("/console", headers={"HX-Request": "true"}, timeout=PATIENCE)
    assert "<html" not in part.text
    assert "cannot reach" in part.text


async def test_without_authentication_nobody_signs_in(http: httpx2.AsyncClient) -> None:
    for path in ("/console/login", "/console/logout"):
        answer = await http.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console")


async def test_a_slash_at_the_end_leads_to_the_overview(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/console/")
    assert (answer.status_code, answer.headers.get("location")) == (308, "/console")


async def test_files_of_pages_are_kept_for_ever_at_the_address_with_their_digest(
    http: httpx2.AsyncClient,
) -> None:
    for name in ("console.css", "console.js", "logo.svg", "vendor/pico.min.css"):
        for address in (f"/console/static/{name}", f"/console/static/{name}?v=old"):
            assert (await http.get(address)).headers["cache-control"] == "no-cache"
        answer = await http.get(Assets().address(name))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await http.get("/console/static/vendor/LICENSE.htmx.org.txt")).status_code == 404


def _request(cookies: dict[str, str]) -> Request:
    text = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return Request({"type": "http", "headers": [(b"cookie", text.encode())]})


def _sealed(sessions: Sessions, token: str) -> str:
    response = Response()
    sessions.begin(response, token)
    return response.headers["set-cookie"].partition(";")[0].partition("=")[2]


def test_a_session_holds_the_token_until_its_time_is_over(tmp_path: Path) -> None:
    key = Fernet.generate_key()
    (tmp_path / "key").write_bytes(key + b"\n")
    sessions = Sessions(tmp_path / "key", 600.0, secure=True)
    name = sessions.session_cookie
    assert name.startswith("__Host-"), "no other host of the domain can set it"
    assert sessions.seed_cookie.startswith("__Host-")
    response = Response()
    sessions.begin(response, "a.token")
    assert {"Path=/", "Secure"} <= set(response.headers["set-cookie"].split("; "))
    assert sessions.token(_request({name: _sealed(sessions, "a.token")})) == "a.token"
    other = Sessions(tmp_path / "key", 600.0, secure=True)
    assert other.token(_request({name: _sealed(sessions, "a.token")})) == "a.token"
    stranger = Sessions(None, 600.0, secure=True)
    assert stranger.token(_request({name: _sealed(sessions, "a.token")})) == ""
    for age, found in ((599, "a.token"), (700, "")):
        old = Fernet(key).encrypt_at_time(b"a.token", int(time.time()) - age + 1).decode()
        assert sessions.token(_request({name: old})) == found
    assert sessions.token(_request({name: "nonsense"})) == ""
    assert sessions.token(_request({})) == ""


def test_the_longest_session_fits_a_cookie() -> None:
    sessions = Sessions(None, 600.0, secure=True)
    response = Response()
    sessions.begin(response, "x" * MAX_TOKEN_CHARS)
    assert len(response.headers["set-cookie"]) < 4_096
    with pytest.raises(InvalidRequestError, match="at most 2,700"):
        sessions.begin(response, "x" * (MAX_TOKEN_CHARS + 1))


@pytest.mark.parametrize("content", [b"", b"short", b"!" * 44])
def test_a_key_that_is_none_stops_the_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(StartupError, match="console_key_file"):
        Sessions(tmp_path / "key", 600.0, secure=False)
    with pytest.raises(StartupError, match="console_key_file"):
        Sessions(tmp_path / "none", 600.0, secure=False)


def test_a_forms_code_is_of_one_browser_and_one_key() -> None:
    sessions = Sessions(None, 600.0, secure=False)
    seed, other = "a" * 64, "b" * 64
    code = sessions.form_code(seed)
    here = _request({sessions.seed_cookie: seed})
    assert sessions.is_form_code(here, code)
    assert not sessions.is_form_code(_request({sessions.seed_cookie: other}), code)
    assert not sessions.is_form_code(_request({}), sessions.form_code(""))
    assert not sessions.is_form_code(here, "")
    assert not sessions.is_form_code(here, "\u00e9")
    assert not Sessions(None, 600.0, secure=False).is_form_code(here, code)
    signed = sessions.signed_code(code, "ann")
    assert sessions.is_form_code(here, signed, "ann")
    assert sessions.is_form_code(here, signed), "after the session's end, it is the browser's"
    assert not sessions.is_form_code(here, signed, "eve")
    assert not sessions.is_form_code(here, code, "ann")


def _placed(
    name: str, digest: str = "d", *, agrees: bool = True, lag: int = 0, role: str = "worker"
) -> Placed:
    now = datetime.now(UTC)
    return Placed(Replica(name, role, 7 - lag, lag, "", digest, agrees, now, {}), digest)


@pytest.mark.parametrize(
    ("replicas", "grade", "title"),
    [
        ([], "bad", "No replica reports"),
        ([_placed("a")], "good", "The replica agrees"),
        ([_placed("a"), _placed("b")], "good", "All 2 replicas agree"),
        ([_placed("a"), _placed("b", "other")], "bad", "Replicas differ"),
        ([_placed("a"), _placed("b", "other", role="retrieval")], "good", "All 2 replicas agree"),
        ([_placed("a"), _placed("b", agrees=False)], "bad", "A replica contradicts the log"),
        ([_placed("a"), _placed("b", "", lag=2)], "busy", "Catching up"),
    ],
)
def test_the_verdict_on_replicas(replicas: list[Placed], grade: str, title: str) -> None:
    found = verdict_on(replicas, HEAD)
    assert (found.grade, found.title) == (grade, title)


def test_only_answers_count_for_the_rate() -> None:
    now = 100.0
    pulse = Pulse(lambda: now)
    assert pulse.per_second() == 0
    HTTP_REQUESTS.labels("/console", "200").inc(5)
    now += 5
    assert pulse.per_second() == 0
    HTTP_REQUESTS.labels("/v1/chat/completions", "200").inc(5)
    now += 5
    assert pulse.per_second() == 0.5
    now += 300
    assert pulse.per_second() == 0, "what is over a minute ago counts no more"


def _lane(sizes: dict[str, int]) -> Lane:
    return Lane("lanes/a", "m", "{}", "", "", 1, False, "", sizes, ())


def test_how_full_a_lane_is() -> None:
    assert fill_of(_lane({"edits": 3})) is None
    assert fill_of(_lane({"edits": 3, "capacity": 12})) == Fill("edits", 3, 12)
    experts = fill_of(_lane({"edits": 90, "experts": 70, "max_experts": 64}))
    assert experts == Fill("experts", 70, 64)
    assert experts.share == 1.0


def test_edits_to_ask_again_are_spread_from_the_oldest_to_the_newest() -> None:
    spec, now = EditSpec("p", "t"), datetime.now(UTC)
    made = [
        Edit(
            f"edits/{n}-0",
            EditState.COMMITTED,
            spec,
            "",
            "",
            now,
            n,
            0,
            None,
            "",
            0,
            "",
            "",
            "",
            "",
        )
        for n in range(1, 101)
    ]
    chosen = spread(made, 5)
    assert [edit.commit_seq for edit in chosen] == [1, 25, 50, 75, 100]
    assert spread(made[:3], 5) == made[:3]


def _entries(position: Position, *payloads: bytes) -> list[Entry]:
    found = []
    for payload in payloads:
        position = extend(position, payload)
        stored = ChainedEntry(position.seq, payload, position.chain_digest)
        shown = LogEntry(position.seq, "", "", datetime.now(UTC), position.chain_digest.hex(), ())
        found.append(Entry(shown, stored, ""))
    return found


def test_the_chain_of_a_page_is_verified_from_what_is_known_before_it() -> None:
    entries = _entries(ORIGIN, b"a", b"b", b"c", b"d")
    assert problem_of(None, []) == ""
    assert problem_of(None, entries) == ""
    assert problem_of(entries[0], entries[1:]) == ""
    assert problem_of(None, entries[2:]) == "", "what is before is in the archive"
    altered = ChainedEntry(3, b"x", entries[2].stored.chain_digest)
    forged = [*entries[:2], Entry(entries[2].shown, altered, ""), entries[3]]
    assert "entry 3 does not continue the chain" in problem_of(None, forged)
    assert "entry 3 does not continue the chain" in problem_of(forged[1], forged[2:])
    assert "gap" in problem_of(entries[0], entries[2:])


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("", ""),
        ("Fran", "Fran*"),
        ("Fran*", "Fran*"),
        ('"in Fra', '"in Fra'),
        ("東京", "東京*"),
        ("a?", "a?"),
    ],
)
def test_the_last_word_may_be_a_beginning(typed: str, asked: str) -> None:
    assert beginning(typed) == asked
