"""A secured system with the console, whose lane of facts requires approval, and a real browser."""

from __future__ import annotations

import base64
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from errata import demo
from errata.launch.box import Box, free_addresses
from errata.launch.certs import DevelopmentCa, make_token
from errata_client import Client, Credentials
from tests.waiting import PATIENCE

# Of a browser that only tests use: it talks to nobody but the console.
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_MILLISECONDS = PATIENCE * 1_000
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ROLES = {
    "ann": ["editor"],
    "eve": ["approver"],
    "rita": ["reader"],
    "both": ["editor", "approver"],
    "olga": ["operator", "editor"],
    "tina": ["reader"],
}
_NAMESPACES = {"tina": ["acme"]}


@dataclass(frozen=True, slots=True)
class Console:
    """A running system, and who uses it."""

    box: Box
    url: str
    key: bytes
    tokens: dict[str, str]

    def client(self, name: str, folder: Path) -> Client:
        """An SDK client of one of them."""
        file = folder / f"{name}.token"
        file.write_text(self.tokens[name])
        credentials = self.box.credentials
        assert credentials is not None
        return Client(
            self.box.target,
            timeout=PATIENCE,
            credentials=Credentials(token_file=file, ca_file=credentials.ca_file),
        )


@pytest.fixture(scope="package")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("console")
    lanes, key_file = folder / "lanes.toml", folder / "console.key"
    lane = 'method = "recipe"\nmodel = "{}"\nconfig.refine_steps = 0\n'
    lane = lane.format(demo.lanes_path().parent / "recipe")
    lanes.write_text(f"[lanes.main]\n{lane}[lanes.facts]\n{lane}requires_approval = true\n")
    key = base64.urlsafe_b64encode(secrets.token_bytes(32))
    key_file.write_bytes(key)
    flags = {"data_dir": folder, **free_addresses()}
    flags["writer"] = {**flags["writer"], "lanes_file": lanes}
    flags["worker"] = {"num_replicas": 1}
    flags["gateway"] |= {
        "console": True,
        "console_key_file": key_file,
        "default_timeout_seconds": PATIENCE,
    }
    with Box(flags, secure=True) as box:
        ca = DevelopmentCa(folder / "security")
        tokens = {
            name: make_token(ca, name, roles, namespaces=_NAMESPACES.get(name))
            for name, roles in _ROLES.items()
        }
        yield Console(box, f"{box.http_url}/console", key, tokens)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The machine's Chromium; `.ci/run` installs it."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on PATH; install Debian's package chromium")
    expect.set_options(timeout=_MILLISECONDS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=list(_FLAGS))
        yield started
        started.close()


@pytest.fixture
def open_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Opens browsers' profiles, which share nothing; says of each page what went wrong in it."""
    opened: list[BrowserContext] = []
    problems: list[str] = []

    def opening(**options: object) -> BrowserContext:
        context = browser.new_context(ignore_https_errors=True, **options)  # type: ignore[arg-type]
        context.set_default_timeout(_MILLISECONDS)
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        context.on("console", lambda line: _note(line.type, line.text, problems))
        opened.append(context)
        return context

    yield opening
    for context in opened:
        context.close()
    assert not problems, problems


def _note(kind: str, text: str, problems: list[str]) -> None:
    """Refused forms are errors of the network to a browser; anything else is the page's fault."""
    if kind == "error" and "the server responded with a status of 4" not in text:
        problems.append(text)


@pytest.fixture
def sign_in(console: Console, open_context: Callable[..., BrowserContext]) -> Callable[..., Page]:
    """Opens the console for somebody, in a profile of his own."""

    def signing(name: str, **options: object) -> Page:
        page = open_context(**options).new_page()
        page.goto(console.url)
        page.get_by_label("Token").fill(console.tokens[name])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Overview").wait_for()
        return page

    return signing
