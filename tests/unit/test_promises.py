"""Every promise of docs/promises.md has tests, and the docs refer to things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.robustness import report

ROOT = Path(__file__).resolve().parents[2]


def test_every_promise_has_a_test() -> None:
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    promised = set(re.findall(r"^\| (P\d+) ", text, flags=re.MULTILINE))
    assert promised == {f"P{number}" for number in range(1, 13)}
    assert promised == set(report.tests_of_promises())


def test_the_page_of_runs_under_faults_names_the_files_with_a_promises_tests() -> None:
    rows = re.findall(
        r"^\| (P\d+) \|.*\| ([^|]*) \|$", report.PAGE.read_text("utf-8"), flags=re.MULTILINE
    )
    found = {promise: re.findall(r"`([^`]+)`", files) for promise, files in rows if "`" in files}
    assert found == report.tests_of_promises()


@pytest.mark.parametrize(
    "page",
    sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]),
)
def test_links_in_the_docs_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{page} links to {target}"


def test_the_readmes_commands_are_the_makefiles_and_cis() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in ("demo", "test"):
        assert re.search(rf"^{command}:", makefile, flags=re.MULTILINE)
        assert f"make {command}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
