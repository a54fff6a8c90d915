"""Every page, for everybody: accessible in light and dark, without scripts, and by role."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, Route, expect

from errata.demo import Corpus
from errata_client import EditSpec
from tests.integration.console.conftest import Console

PAGES = (
    *("", "/ask", "/edits", "/propose", "/reviews", "/canaries", "/lanes", "/log"),
    "/no-such-page",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(
    console: Console,
    sign_in: Callable[..., Page],
    open_context: Callable[..., BrowserContext],
    corpus: Corpus,
    tmp_path: Path,
    scheme: str,
) -> None:
    edit = corpus.demo_edits()[3]
    with console.client("both", tmp_path) as client:
        spec = EditSpec(edit.prompt, edit.target, edit.subject, rephrases=edit.rephrases[:1])
        (waits,) = client.submit_edits([spec], lane="lanes/facts")
        (made,) = client.submit_edits([EditSpec(edit.prompt, edit.target, edit.subject)])
        client.wait_edits([made.name])
    axe, found = Axe(), {}
    page = open_context(color_scheme=scheme).new_page()
    page.goto(f"{console.url}/login")
    found["login"] = axe.run(page)
    page = sign_in("both", color_scheme=scheme)
    for path in (*PAGES, f"/{waits.name}", f"/{made.name}?ask=now"):
        page.goto(console.url + path)
        found[path] = axe.run(page)
    page.goto(f"{console.url}/{waits.name}")
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("heading", name="Preview").wait_for()
    found["preview"] = axe.run(page)
    page.set_viewport_size({"width": 390, "height": 800})
    for path in ("", "/edits", f"/{made.name}"):
        page.goto(console.url + path)
        found[f"phone {path}"] = axe.run(page)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{path or '/'} is wider than a phone: {wide}"
    bad = {
        path: result.generate_report() for path, result in found.items() if result.violations_count
    }
    assert not bad, "\n".join(bad.values())
    assert all(result.response["passes"] for result in found.values()), "else axe saw nothing"
    with console.client("both", tmp_path) as client:
        client.withdraw([waits.name])
        client.revert([made.name])


def test_an_edit_of_a_namespace_is_made_found_and_asked_for(
    console: Console, sign_in: Callable[..., Page], corpus: Corpus
) -> None:
    edit, page = corpus.demo_edits()[5], sign_in("both")
    page.goto(f"{console.url}/propose")
    typed = {"Prompt": edit.prompt, "Target": edit.target, "Subject": edit.subject}
    for label, text in (typed | {"Namespace": "acme"}).items():
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#life .badge").first).to_have_text("in force")
    expect(page.locator("#life").get_by_text("acme", exact=True)).to_be_visible()
    for namespace, number in (("acme", 1), ("other", 0)):
        page.goto(f"{console.url}/edits?namespace={namespace}")
        expect(page.locator("#found tbody tr")).to_have_count(number)
    for namespaces in ("", "acme, default"):
        page.goto(f"{console.url}/ask")
        page.get_by_label("Text to continue").fill(edit.prompt)
        page.get_by_label("Namespaces to read").fill(namespaces)
        page.get_by_role("button", name="Ask", exact=True).click()
        answer = expect(page.locator("article.answer blockquote"))
        (answer.to_contain_text if namespaces else answer.not_to_contain_text)(edit.target)


def test_a_credential_of_a_namespace_reads_that_alone(
    console: Console, sign_in: Callable[..., Page], corpus: Corpus, tmp_path: Path
) -> None:
    edit = corpus.demo_edits()[6]
    with console.client("both", tmp_path) as client:
        texts = (edit.prompt, edit.target, edit.subject)
        (made,) = client.submit_edits([EditSpec(*texts, namespace="other")])
        (own,) = client.submit_edits(
            [EditSpec(edit.prompt, "mine", edit.subject, namespace="acme")]
        )
        client.wait_edits([made.name, own.name])
    page = sign_in("tina")
    for namespaces in ("other", "default", "*", "acme, other"):
        page.goto(f"{console.url}/ask")
        page.get_by_label("Text to continue").fill(edit.prompt)
        page.get_by_label("Namespaces to read").fill(namespaces)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("may not use")
        expect(page.locator("article.answer")).to_have_count(0)
    page.goto(f"{console.url}/ask")
    page.get_by_label("Text to continue").fill(edit.prompt)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("article.answer")).to_contain_text(own.name)
    page.goto(f"{console.url}/edits")
    expect(page.locator("#found")).to_contain_text(own.name)
    expect(page.locator("#found")).not_to_contain_text(made.name)
    page.goto(f"{console.url}/{made.name}")
    expect(page.locator("main")).to_contain_text("another namespace")


def test_the_browser_verifies_the_chain_and_notices_a_change(
    console: Console, sign_in: Callable[..., Page]
) -> None:
    page = sign_in("rita")
    page.goto(f"{console.url}/log")
    expect(page.get_by_text("The gateway verified this page.")).to_be_visible()
    page.get_by_role("button", name="Verify the whole log in this browser").click()
    said = page.locator("#verified")
    expect(said).to_contain_text("This browser verified entries 1 to")
    head = page.locator("code.long").inner_text()
    assert head[:12] in said.inner_text()

    def altered(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        payload = body["entries"][2]["payload"]
        body["entries"][2]["payload"] = ("A" if payload[0] != "A" else "B") + payload[1:]
        route.fulfill(response=answer, json=body)

    page.route("**/console/log/chain*", altered)
    page.get_by_role("button", name="Verify the whole log in this browser").click()
    expect(said).to_contain_text("could not verify the log: entry 3 breaks the chain")


def test_pages_work_without_scripts(console: Console, sign_in: Callable[..., Page]) -> None:
    page = sign_in("olga", java_script_enabled=False)
    page.get_by_role("link", name="Log").click()
    expect(page.get_by_text("The gateway verified this page.")).to_be_visible()
    expect(page.get_by_role("button", name="Verify the whole log")).to_be_hidden()
    page.get_by_role("link", name="Edits", exact=True).click()
    page.get_by_label("State").select_option("rejected")
    page.get_by_role("button", name="Search").click()
    assert "state=rejected" in page.url
    page.get_by_role("link", name="Ask").click()
    page.get_by_label("Text to continue").fill("The capital of Germany is")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("article.answer blockquote")).to_contain_text("Berlin")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto(f"{console.url}/log")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_what_a_role_may_not_do_is_not_offered_and_is_refused(
    console: Console, sign_in: Callable[..., Page]
) -> None:
    page = sign_in("rita")
    names = page.get_by_role("navigation", name="Pages").get_by_role("link").all_inner_texts()
    assert names == ["Overview", "Ask", "Edits", "Review", "Canaries", "Lanes", "Log"]
    page.goto(f"{console.url}/propose")
    expect(page.get_by_role("heading", name="Not allowed")).to_be_visible()
    expect(page.get_by_text("rita may not call PreviewEdits")).to_be_visible()
    page = sign_in("eve")
    page.goto(f"{console.url}/propose")
    expect(page.get_by_role("button", name="Preview")).to_be_visible()
    expect(page.get_by_role("button", name="Submit")).to_have_count(0)
