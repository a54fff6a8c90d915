"""The console as people use it: every step of an edit's life, with a keyboard alone."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, expect

from errata.demo import Corpus
from tests.integration.console.conftest import Console
from tests.integration.console.keyboard import Keyboard
from tests.waiting import PATIENCE


def _signed_in(console: Console, context: BrowserContext, name: str) -> Keyboard:
    page = context.new_page()
    page.goto(console.url)
    person = Keyboard(page)
    page.keyboard.type(console.tokens[name])  # the field has the focus
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    return person


def _ask(person: Keyboard, prompt: str, button: str) -> Page:
    person.write("Text to continue", prompt)
    person.press(button)
    return person.page


def test_an_edit_is_proposed_previewed_approved_served_asked_about_and_reverted(
    console: Console, open_context: Callable[..., BrowserContext], corpus: Corpus
) -> None:
    edit = corpus.demo_edits()[0]
    ann = _signed_in(console, open_context(), "ann")
    eve = _signed_in(console, open_context(), "eve")

    ann.press("New edit")
    ann.write("Prompt", edit.prompt)
    ann.write("Target", edit.target)
    ann.write("Subject", edit.subject)
    ann.write("Rephrasings", "\n".join(edit.rephrases[:1]))
    ann.go_to("Lane")
    ann.page.keyboard.type("facts")
    ann.press("Preview")
    expect(ann.page.get_by_role("heading", name="Preview")).to_be_focused()
    expect(ann.page.get_by_text("It would take effect")).to_be_visible()
    answers = ann.page.get_by_role("group", name="Answers to the prompt")
    expect(answers.get_by_role("cell", name=edit.target).first).to_be_visible()
    expect(ann.page.get_by_label("Prompt", exact=True)).to_have_value(edit.prompt)

    ann.press("Submit")
    expect(ann.page.get_by_text("Proposed. Somebody else must approve it.")).to_be_visible()
    name = "/".join(ann.page.url.partition("?")[0].split("/")[-2:])

    eve.press("Ask")
    page = _ask(eve, edit.prompt, "Ask")
    expect(page.get_by_role("heading", name="Answer", exact=True)).to_be_focused()
    expect(page.locator("article.answer blockquote")).not_to_contain_text(edit.target)

    eve.press("Review")
    expect(eve.page.get_by_role("link", name=name, exact=True)).to_be_visible()
    eve.write("Comment", "checked with the atlas")
    eve.press("Approve")
    # The page follows the fit by itself.
    expect(eve.page.locator("#life .badge").first).to_have_text("in force")
    expect(eve.page.get_by_text("Approved by eve")).to_be_visible()
    expect(eve.page.get_by_text("checked with the atlas")).to_be_visible()

    ann.press("Ask")
    page = _ask(ann, edit.prompt, "Ask")
    expect(page.locator("article.answer blockquote")).to_contain_text(edit.target)
    expect(page.locator("article.answer").get_by_role("link", name=name)).to_be_visible()

    ann.press(name)
    ann.press("Ask the model")
    expect(ann.page.get_by_role("heading", name="Answers now")).to_be_focused()
    expect(ann.page.get_by_role("cell", name="yes").first).to_be_visible()
    ann.write("Why", "the atlas was wrong")
    ann.press(f"Revert {name}")
    expect(ann.page.get_by_text("Reverted: it has no effect any more.")).to_be_visible()
    expect(ann.page.get_by_text("the atlas was wrong")).to_be_visible()

    ann.press("Ask")
    _ask(ann, edit.prompt, "Ask")
    expect(ann.page.locator("article.answer blockquote")).not_to_contain_text(edit.target)


def test_an_answer_stands_beside_the_one_of_an_earlier_position(
    console: Console, sign_in: Callable[..., Page], corpus: Corpus
) -> None:
    edit = corpus.demo_edits()[8]
    page, other = sign_in("olga"), sign_in("ann")
    page.get_by_role("link", name="Ask").click()
    page.get_by_label("Text to continue").fill(edit.prompt)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("heading", name="Answer", exact=True)).to_be_visible()
    other.goto(f"{console.url}/propose")
    other.get_by_label("Prompt", exact=True).fill(edit.prompt)
    other.get_by_label("Target").fill(edit.target)
    other.get_by_label("Subject").fill(edit.subject)
    other.get_by_role("button", name="Submit").click()
    expect(other.locator("#life .badge").first).to_have_text("in force")
    committed = other.get_by_text("position").nth(1).inner_text()
    page.get_by_role("button", name="Ask again").click()
    expect(page.get_by_role("heading", name="Two positions, two answers")).to_be_visible()
    earlier, now = page.locator("article.answer").all()
    assert edit.target not in earlier.inner_text()
    assert edit.target in now.locator("blockquote").inner_text()
    shown = [int(each.locator("h3").inner_text().split()[-1]) for each in (earlier, now)]
    assert shown[0] < shown[1]
    assert str(shown[1]) in committed


def test_the_overview_follows_the_log_by_itself(
    console: Console, sign_in: Callable[..., Page], corpus: Corpus
) -> None:
    page, other = sign_in("rita"), sign_in("olga")
    expect(page.get_by_text("replicas agree")).to_be_visible()
    page.evaluate("document.body.dataset.loaded = 'once'")
    before = int(page.locator(".tiles dd").first.inner_text())
    edit = corpus.demo_edits()[9]
    other.goto(f"{console.url}/propose")
    other.get_by_label("Prompt", exact=True).fill(edit.prompt)
    other.get_by_label("Target").fill(edit.target)
    other.get_by_role("button", name="Submit").click()
    expect(page.locator(".tiles dd").first).not_to_have_text(str(before))
    assert page.evaluate("document.body.dataset.loaded") == "once", "the page was not reloaded"
    page.get_by_role("button", name="Stop refreshing").click()
    expect(page.locator("[hx-trigger]")).to_have_count(0)


def test_forgetting_is_measured_by_asking_again(sign_in: Callable[..., Page]) -> None:
    """The default lane has the edits of the tests before."""
    page = sign_in("rita")
    page.get_by_role("link", name="Lanes").click()
    lane = page.get_by_role("region", name="main", exact=True)
    lane.get_by_role("button", name="Check for forgetting").click()
    expect(page.get_by_role("heading", name="edits of main are still answered")).to_be_focused()
    expect(page.get_by_role("cell", name="100%").first).to_be_visible()


def test_edits_are_found_while_somebody_types(
    console: Console, sign_in: Callable[..., Page], corpus: Corpus
) -> None:
    found, other = corpus.demo_edits()[9], corpus.demo_edits()[8]
    page = sign_in("rita")
    page.goto(f"{console.url}/edits")
    expect(page.get_by_role("cell", name=other.prompt).first).to_be_visible()
    page.get_by_label("Text").press_sequentially(found.subject)
    expect(page.get_by_role("cell", name=other.prompt)).to_have_count(0)
    expect(page.get_by_role("cell", name=found.prompt).first).to_be_visible()
    page.get_by_label("Text").fill("nobody ever wrote this")
    expect(page.get_by_text("No edit fits; change the search.")).to_be_visible()
    assert "q=nobody" in page.url


def test_edits_are_listed_while_the_catalog_is_away(
    console: Console, sign_in: Callable[..., Page], corpus: Corpus
) -> None:
    page = sign_in("rita")
    page.goto(f"{console.url}/edits")
    expect(page.get_by_text("the newest first")).to_be_visible()
    newest = page.get_by_role("rowheader").first.inner_text()
    console.box.processes.pop("catalog").stop(PATIENCE)
    try:
        page.reload()
        expect(page.get_by_text("in the log’s order: the catalog is away")).to_be_visible()
        assert page.get_by_role("rowheader").last.inner_text() == newest
    finally:
        console.box.start_service("catalog", console.box.settings.catalog.address)
