"""Takes the pictures of docs/console.md: a demo system, a real Chromium, one picture a page.

python tools/console_images.py [FOLDER]
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from errata import demo
from errata.demo.corpus import DemoEdit
from errata.launch.box import Box, free_addresses
from errata.launch.certs import DevelopmentCa, make_token
from errata_client import CanaryRule, Client, Credentials, EditSpec

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs/images/console"
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
_SECONDS = 180.0
_COLOURS = 256
_COUNTED_SECONDS = 8.0  # until the writer has added up what the replicas counted
_LANES = """
[lanes.main]
method = "adaple"
[lanes.main.config]
optimise = "top"
[lanes.facts]
method = "recipe"
model = "{model}"
requires_approval = true
[lanes.facts.config]
refine_steps = 0
[lanes.mixture]
method = "elder"
model = "{model}"
[lanes.experts]
method = "lemoe"
model = "{model}"
[lanes.experts.config]
max_wait_seconds = 0.0
"""


def main() -> int:
    """Writes the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary)
        lanes = data / "lanes.toml"
        lanes.write_text(_LANES.format(model=demo.lanes_path().parent / "recipe"))
        flags = {"data_dir": data, **free_addresses()}
        flags["writer"] = {**flags["writer"], "lanes_file": lanes}
        flags["gateway"] |= {"console": True, "default_timeout_seconds": _SECONDS}
        with Box(flags, secure=True) as box, sync_playwright() as playwright:
            ca = DevelopmentCa(data / "security")
            tokens = {
                name: make_token(ca, name, ["editor", "approver"]) for name in ("grace", "linus")
            }
            waiting = _edits(box, tokens, data)
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=list(_FLAGS)
            )
            _take_all(browser, f"{box.http_url}/console", tokens["grace"], waiting, folder)
            browser.close()
    return 0


def _edits(box: Box, tokens: dict[str, str], folder: Path) -> str:
    """A small history; returns the name of an edit that waits."""
    corpus = demo.load_corpus()
    known = corpus.demo_edits()
    clients = {}
    for name, token in tokens.items():
        file = folder / f"{name}.token"
        file.write_text(token)
        assert box.credentials is not None
        credentials = Credentials(token_file=file, ca_file=box.credentials.ca_file)
        clients[name] = Client(box.target, timeout=_SECONDS, credentials=credentials)
    plan = (
        (9, "grace", "lanes/facts"),
        (1, "linus", "lanes/mixture"),
        (2, "grace", "lanes/main"),
        (3, "linus", "lanes/experts"),
        (6, "grace", "lanes/mixture"),
        (0, "linus", "lanes/facts"),
        (8, "linus", "lanes/facts"),
    )
    made = []
    for index, name, lane in plan:
        edit = known[index]
        spec = EditSpec(
            edit.prompt,
            edit.target,
            edit.subject,
            rephrases=edit.rephrases[:2],
            locality_probes=[probe.prompt for probe in edit.neighbours[:2]],
            source=f"TICKET-{4_700 + index}",
        )
        made += clients[name].submit_edits([spec], lane=lane)
    clients["linus"].approve([made[0].name], comment="checked with the atlas")
    clients["linus"].wait_edits([edit.name for edit in made])
    clients["linus"].revert([made[3].name], comment="the source was withdrawn")
    _try(clients["grace"], known[4])
    for client in clients.values():
        client.close()
    return made[-1].name


def _try(client: Client, edit: DemoEdit) -> None:
    """A canary with answers of both arms."""
    lane, rule = "lanes/mixture", CanaryRule(500, 0.01, 3_600)
    client.set_canary("canaries/july", 0.3, lane=lane, rule=rule, comment="the new atlas")
    client.edit(edit.prompt, edit.target, subject=edit.subject, lane=lane, canary="canaries/july")
    for number in range(40):
        client.generate(edit.prompt, max_tokens=4, canary_key=f"user-{number}")
    time.sleep(_COUNTED_SECONDS)


def _take_all(browser: Browser, url: str, token: str, waiting: str, folder: Path) -> None:
    def opened(scheme: str = "light", width: int = 1_200) -> Page:
        context = browser.new_context(
            ignore_https_errors=True,
            color_scheme=scheme,  # type: ignore[arg-type]
            viewport={"width": width, "height": 800},
        )
        context.set_default_timeout(_SECONDS * 1_000)
        page = context.new_page()
        page.goto(url)
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Overview").wait_for()
        return page

    page = opened()
    _take(page, folder / "overview.png")
    for name in ("edits", "reviews", "lanes"):
        page.goto(f"{url}/{name}")
        _take(page, folder / f"{name}.png")
    for name, steps in _SCENES.items():
        steps(page, url, waiting)
        _take(page, folder / f"{name}.png")
    _take(opened("dark"), folder / "overview-dark.png")
    page = opened(width=390)
    page.goto(f"{url}/edits")
    _take(page, folder / "phone.png")


def _edit(page: Page, url: str, waiting: str) -> None:
    page.goto(f"{url}/edits?state=committed&lane=lanes/facts")
    page.get_by_role("link", name="edits/").first.click()
    page.get_by_role("button", name="Ask the model").click()
    page.get_by_role("button", name="Ask again").wait_for()


def _preview(page: Page, url: str, waiting: str) -> None:
    page.goto(f"{url}/{waiting}")
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("heading", name="Preview").wait_for()


def _propose(page: Page, url: str, waiting: str) -> None:
    page.goto(f"{url}/propose")
    page.get_by_label("Prompt", exact=True).fill("The currency of Brazil is")
    page.get_by_label("Target").fill("euro")
    page.get_by_label("Subject").fill("Brazil")


def _ask(page: Page, url: str, waiting: str) -> None:
    edit = demo.load_corpus().demo_edits()[5]
    page.goto(f"{url}/ask")
    page.get_by_label("Text to continue").fill(edit.prompt)
    page.get_by_label("At most tokens").fill("8")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("heading", name="Answer", exact=True).wait_for()
    other = page.context.new_page()
    other.goto(f"{url}/propose")
    other.get_by_label("Prompt", exact=True).fill(edit.prompt)
    other.get_by_label("Target").fill(edit.target)
    other.get_by_label("Subject").fill(edit.subject)
    other.get_by_role("button", name="Submit").click()
    other.locator("#life .badge.committed").first.wait_for()
    other.close()
    page.get_by_role("button", name="Ask again").click()
    page.get_by_role("heading", name="Two positions").wait_for()


def _canary(page: Page, url: str, waiting: str) -> None:
    page.goto(f"{url}/canaries/july")
    page.get_by_text("the new atlas").first.wait_for()


def _log(page: Page, url: str, waiting: str) -> None:
    page.goto(f"{url}/log")
    page.get_by_role("button", name="Verify the whole log in this browser").click()
    page.get_by_text("This browser verified").wait_for()


_SCENES: dict[str, Callable[[Page, str, str], None]] = {
    "edit": _edit,
    "preview": _preview,
    "propose": _propose,
    "ask": _ask,
    "canary": _canary,
    "log": _log,
}


def _take(page: Page, path: Path) -> None:
    """A picture of a few colours: they are enough, and the file is small."""
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    whole = page.evaluate("Math.min(document.documentElement.scrollHeight, 1100)")
    size = page.viewport_size
    assert size is not None
    clip = {"x": 0, "y": 0, "width": size["width"], "height": max(whole, 500)}
    data = page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
