"""What people, programs and other sites should not send: nothing happens, and nothing is lost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from cryptography.fernet import Fernet
from playwright.sync_api import BrowserContext, Page, expect

from errata.demo import Corpus
from errata_client import EditSpec, EditState
from tests.integration.console.conftest import Console
from tests.waiting import PATIENCE

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \u202egnp.exe'
_CODE = re.compile('name="form_code" value="([0-9a-f]{64,})"')


@pytest.fixture
def http(console: Console) -> Iterator[httpx2.Client]:
    """A browser without one: it keeps cookies, and sends what it likes."""
    credentials = console.box.credentials
    assert credentials is not None
    import ssl

    trusts = ssl.create_default_context(cafile=str(credentials.ca_file))
    with httpx2.Client(verify=trusts, timeout=PATIENCE) as client:
        found = client.get(f"{console.url}/login")
        code = _CODE.search(found.text)
        assert code is not None
        form = {"form_code": code[1], "token": console.tokens["olga"]}
        signed = client.post(f"{console.url}/login", data=form)
        assert signed.status_code == 303
        yield client


def _code(http: httpx2.Client, console: Console, path: str = "/propose") -> str:
    found = _CODE.search(http.get(console.url + path).text)
    assert found is not None
    return found[1]


def _head(console: Console, tmp_path: Path) -> int:
    with console.client("rita", tmp_path) as client:
        return client.head().seq


def test_cookies_and_pages_are_closed_to_others(console: Console, http: httpx2.Client) -> None:
    found = http.post(
        f"{console.url}/login",
        data={"form_code": _code(http, console), "token": console.tokens["olga"]},
    )
    (cookie,) = [each for each in found.headers.get_list("set-cookie") if "session" in each]
    assert console.tokens["olga"] not in cookie
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/;", "Max-Age=28800"):
        assert word in cookie
    page = http.get(console.url)
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-frame-options"] == "DENY"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert " style=" not in page.text
    assert " onclick" not in page.text
    assert not re.findall(r"""(?:src|href)=["'](?!/console|#)""", page.text), "all is its own"
    elsewhere = http.get(console.url, headers={"Sec-Fetch-Site": "cross-site"})
    assert "refresh" in elsewhere.text
    assert "set-cookie" not in elsewhere.headers


@pytest.mark.parametrize("code", ["", "0" * 64, "wrong", "\u00e9"])
@pytest.mark.parametrize("path", ["/propose", "/reviews", "/ask", "/lanes", "/edits/1-0", "/login"])
def test_a_form_of_another_site_does_nothing(
    console: Console, http: httpx2.Client, tmp_path: Path, code: str, path: str
) -> None:
    before = _head(console, tmp_path)
    form = {"form_code": code, "prompt": "The capital of Spain is", "target": "Rome"}
    form |= {"act": "submit", "token": console.tokens["olga"]}
    answer = http.post(console.url + path, data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "not made by the console" in answer.text
    assert "set-cookie" not in answer.headers
    assert _head(console, tmp_path) == before


def test_a_form_with_an_old_code_comes_back_as_it_was_typed(
    console: Console, http: httpx2.Client, tmp_path: Path
) -> None:
    """The browser vouches for its page, whose gateway has another key since a restart."""
    before = _head(console, tmp_path)
    form = {"form_code": "0" * 64, "prompt": "The capital of Spain is", "target": "Rome"}
    answer = http.post(
        f"{console.url}/propose",
        data={**form, "act": "submit"},
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert answer.status_code == 403
    assert "nothing was done" in answer.text
    assert "The capital of Spain is</textarea>" in answer.text
    assert _head(console, tmp_path) == before


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ({"prompt": "", "target": "Rome"}, 400, "the prompt is empty"),
        ({"prompt": "The capital of Spain is", "target": " \r\n "}, 400, "the target is empty"),
        ({"prompt": "A" * 100_001, "target": "Rome"}, 400, "100,001"),
        ({"prompt": "Spain is in", "target": "Rome", "lane": "lanes/none"}, 400, "lanes/none"),
        ({"prompt": "Spain is in", "target": "Rome", "subject": "Chile"}, 400, "Chile"),
        ({"prompt": "Spain is in", "target": "Rome", "expires_at": "soon"}, 400, "is no time"),
        (
            {"prompt": "Spain is in", "target": "Rome", "expires_at": "2001-01-01"},
            400,
            "has passed",
        ),
        ({"prompt": "Spain is in", "target": "Rome", "request_id": "7"}, 400, "request_id"),
    ],
)
def test_a_wrong_edit_is_refused_and_stays_in_the_form(
    console: Console,
    http: httpx2.Client,
    tmp_path: Path,
    form: dict[str, str],
    status: int,
    said: str,
) -> None:
    before = _head(console, tmp_path)
    sent = {"form_code": _code(http, console), "act": "submit", "source": "ticket 12", **form}
    answer = http.post(f"{console.url}/propose", data=sent)
    assert answer.status_code == status
    alert = re.search(r'role="alert".*?</div>', answer.text, re.DOTALL)
    assert alert is not None
    assert said in alert[0]
    assert f"{form['prompt']}</textarea>" in answer.text
    assert 'value="ticket 12"' in answer.text
    assert _head(console, tmp_path) == before


def test_a_body_beyond_the_limit_is_refused_unread(console: Console, http: httpx2.Client) -> None:
    form = {"form_code": _code(http, console), "prompt": "A" * (5 * 1024 * 1024)}
    answer = http.post(f"{console.url}/propose", data=form)
    assert answer.status_code == 413
    assert "1,048,576" in answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/edits?state=lost", 400),
        ("/edits?since=yesterday", 400),
        ("/edits?page=made-up", 400),
        ("/edits/999999-0", 404),
        ("/edits/x", 404),
        ("/log?to=-1", 400),
        ("/log?to=99999999999999999999", 400),
        ("/log/chain?from=x", 400),
        ("/nothing", 404),
        ("/static/../app.py", 404),
        ("/static/vendor/LICENSE.htmx.org.txt", 404),
    ],
)
def test_wrong_addresses_get_a_page_that_says_so(
    console: Console, http: httpx2.Client, path: str, status: int
) -> None:
    answer = http.get(console.url + path)
    assert answer.status_code == status


@pytest.mark.parametrize(
    "body", [b"%ff=1", b"prompt=%C3%28", b"&".join([b"a=1"] * 300), b"no form", "prompt=é".encode()]
)
def test_what_is_no_form_is_refused(console: Console, http: httpx2.Client, body: bytes) -> None:
    assert http.post(f"{console.url}/ask", content=body).status_code == 400


def test_tokens_that_open_nothing(console: Console, http: httpx2.Client) -> None:
    for token, status in (("", 401), ("no token", 401), ("a" * 20_000, 401)):
        form = {"form_code": _code(http, console), "token": token, "next": "/console/log"}
        answer = http.post(f"{console.url}/login", data=form)
        assert answer.status_code == status
        assert 'role="alert"' in answer.text
        assert "session" not in answer.headers.get("set-cookie", "")
    for aim in (
        "https://example.org/",
        "//example.org/console",
        "/v1/edits",
        "javascript:alert(1)",
    ):
        form = {"form_code": _code(http, console), "token": console.tokens["rita"], "next": aim}
        answer = http.post(f"{console.url}/login", data=form)
        assert answer.headers["location"] == "/console"


def test_a_session_that_ended_in_the_middle_of_a_form_loses_no_text(
    console: Console, sign_in: Callable[..., Page], corpus: Corpus, tmp_path: Path
) -> None:
    edit = corpus.demo_edits()[4]
    page = sign_in("ann")
    page.goto(f"{console.url}/propose")
    page.get_by_label("Prompt", exact=True).fill(edit.prompt)
    page.get_by_label("Target").fill(edit.target)
    page.get_by_label("Subject").fill(edit.subject)
    page.get_by_label("Rephrasings").fill(f"One line\n{HOSTILE}\n\nAnother line")
    page.get_by_label("Lane").select_option("lanes/facts")
    _let_the_session_end(page.context, console)
    before = _head(console, tmp_path)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Your session has ended.")).to_be_visible()
    assert _head(console, tmp_path) == before
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Token").fill(console.tokens["ann"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(edit.prompt)
    expect(page.get_by_label("Target")).to_have_value(edit.target)
    expect(page.get_by_label("Rephrasings")).to_have_value(f"One line\n{HOSTILE}\n\nAnother line")
    expect(page.get_by_label("Lane")).to_have_value("lanes/facts")
    assert _head(console, tmp_path) == before, "a login sends no form"
    page.get_by_label("Rephrasings").fill(edit.rephrases[0])
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Proposed.")).to_be_visible()
    page.get_by_role("button", name="Withdraw").click()
    expect(page.get_by_text("Withdrawn.")).to_be_visible()


def test_a_page_that_refreshes_stops_when_its_session_has_ended(
    console: Console, sign_in: Callable[..., Page]
) -> None:
    page = sign_in("rita")
    _let_the_session_end(page.context, console)
    expect(page.get_by_text("Your session has ended.")).to_be_visible()
    expect(page.locator("[hx-trigger]")).to_have_count(0)
    page.get_by_role("link", name="Sign in again").click()
    expect(page.get_by_label("Token")).to_be_focused()


def _let_the_session_end(context: BrowserContext, console: Console) -> None:
    """The cookie is now one of nine hours ago."""
    (cookie,) = [each for each in context.cookies() if "session" in each["name"]]
    fernet = Fernet(console.key)
    token = fernet.decrypt(cookie["value"])
    old = fernet.encrypt_at_time(token, int(time.time()) - 9 * 3_600).decode()
    context.add_cookies([{**cookie, "value": old}])  # type: ignore[typeddict-item]


def test_hostile_texts_are_shown_and_never_run(
    console: Console, sign_in: Callable[..., Page], tmp_path: Path
) -> None:
    prompt = f"The motto of Atlantis is {HOSTILE}"
    page = sign_in("both")
    page.goto(f"{console.url}/propose")
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Target").fill(HOSTILE)
    page.get_by_label("Subject").fill("Atlantis")
    page.get_by_label("Source").fill(HOSTILE)
    page.get_by_label("Lane").select_option("lanes/facts")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Proposed.")).to_be_visible()
    name = "/".join(page.url.partition("?")[0].split("/")[-2:])
    for path in (f"/{name}", "/edits?q=Atlantis", "/reviews", "/log", ""):
        page.goto(console.url + path)
        assert page.locator("main script, main img, [onerror]").count() == 0
        assert "\u202e" not in page.locator("main").inner_text()
    page.goto(f"{console.url}/{name}")
    expect(page.get_by_text("{{ 7*7 }} \\u202egnp.exe").first).to_be_visible()
    page.goto(f"{console.url}/edits?q={HOSTILE}")
    expect(page.get_by_label("Text")).to_have_value(HOSTILE)
    with console.client("both", tmp_path) as client:
        found = client.get_edit(name)
        assert found.spec.prompt == prompt, "it is kept as it was typed"
        client.withdraw([name])


def test_an_approval_of_what_was_withdrawn_meanwhile(
    console: Console, sign_in: Callable[..., Page], corpus: Corpus, tmp_path: Path
) -> None:
    edit = corpus.demo_edits()[3]
    with console.client("ann", tmp_path) as client:
        spec = EditSpec(edit.prompt, edit.target, edit.subject)
        (waits,) = client.submit_edits([spec], lane="lanes/facts")
        page = sign_in("eve")
        page.goto(f"{console.url}/reviews")
        form = page.get_by_role("region", name=edit.prompt)
        form.get_by_label("Comment").fill("my long thoughts")
        client.withdraw([waits.name])
        form.get_by_role("button", name="Approve").click()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("withdrawn by ann")
        expect(alert).to_be_focused()
        expect(page.get_by_text("my long thoughts")).to_be_visible()
        assert client.get_edit(waits.name).state is EditState.WITHDRAWN


def test_nobody_approves_his_own_edit_here_either(
    console: Console, sign_in: Callable[..., Page], corpus: Corpus, tmp_path: Path
) -> None:
    edit = corpus.demo_edits()[3]
    with console.client("both", tmp_path) as client:
        spec = EditSpec(edit.prompt, edit.target, edit.subject)
        (waits,) = client.submit_edits([spec], lane="lanes/facts")
        page = sign_in("both")
        page.goto(f"{console.url}/reviews")
        form = page.get_by_role("region", name=edit.prompt)
        form.get_by_label("Comment").fill("of course it is right")
        form.get_by_role("button", name="Approve").click()
        expect(page.get_by_role("alert")).to_contain_text("nobody approves his own edit")
        expect(form.get_by_label("Comment")).to_have_value("of course it is right")
        assert client.get_edit(waits.name).state is EditState.PROPOSED
        client.withdraw([waits.name])


def test_a_form_that_is_sent_twice_has_one_effect(
    console: Console, http: httpx2.Client, corpus: Corpus, tmp_path: Path
) -> None:
    edit = corpus.demo_edits()[6]
    page = http.get(f"{console.url}/propose").text
    request_id = re.search('name="request_id" value="([^"]+)"', page)
    assert request_id is not None
    form = {"form_code": _code(http, console), "request_id": request_id[1], "act": "submit"}
    form |= {"prompt": edit.prompt, "target": edit.target, "lane": "lanes/facts"}
    first = http.post(f"{console.url}/propose", data=form)
    again = http.post(f"{console.url}/propose", data=form)
    assert first.status_code == 303
    assert first.headers["location"] == again.headers["location"]
    other = http.post(f"{console.url}/propose", data={**form, "target": "Nobody"})
    assert other.status_code == 409
    assert request_id[1] not in other.text, "the form that comes back can be sent as a new one"
    with console.client("olga", tmp_path) as client:
        client.withdraw([first.headers["location"].removeprefix("/console/").partition("?")[0]])
