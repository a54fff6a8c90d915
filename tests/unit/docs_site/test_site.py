"""The site: staged links, sections, and a strict build that a fault ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tools.docs_site import built, navigation, staging
from tools.docs_site.__main__ import render, write_sources

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one page, and files beside `docs/`."""
    (tmp_path / "docs/deep").mkdir(parents=True)
    (tmp_path / "code/inner").mkdir(parents=True)
    (tmp_path / "code/a.py").write_text("x = '````'\n", encoding="utf-8")
    (tmp_path / "code/inner/b.toml").write_text("y = 1\n", encoding="utf-8")
    (tmp_path / "NOTES.md").write_text("# Notes\n\n[back](docs/page.md#top)\n", encoding="utf-8")
    monkeypatch.setattr(staging, "ROOT", tmp_path)
    monkeypatch.setattr(staging, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(staging, "PROJECT_PAGES", ("NOTES.md",))
    return tmp_path


def _staged(project: Path, text: str) -> str:
    (project / "docs/page.md").write_text(text, encoding="utf-8")
    staging.stage(project / "staged")
    return (project / "staged/page.md").read_text("utf-8")


def test_links_beside_the_docs_lead_to_pages_of_the_site(project: Path) -> None:
    text = _staged(project, "# P\n\n[a](../code/a.py), [b](../code/inner), [n](../NOTES.md)\n")
    assert "[a](source/code/a.py.md), [b](source/code/inner/index.md), [n](source/NOTES.md)" in text
    staged = project / "staged/source"
    assert "x = '````'" in (staged / "code/a.py.md").read_text("utf-8")
    assert "[b.toml](b.toml.md)" in (staged / "code/inner/index.md").read_text("utf-8")
    assert (staged / "code/inner/b.toml.md").exists()
    assert "[back](../page.md#top)" in (staged / "NOTES.md").read_text("utf-8")


def test_a_folder_inside_the_docs_is_listed_apart_from_the_pages(project: Path) -> None:
    (project / "docs/deep/figures.json").write_text("{}", encoding="utf-8")
    assert "[d](source/docs/deep/index.md)" in _staged(project, "# P\n\n[d](deep)\n")
    listing = (project / "staged/source/docs/deep/index.md").read_text("utf-8")
    assert "[figures.json](../../../deep/figures.json)" in listing
    assert (project / "staged/deep/figures.json").exists()


def test_code_and_addresses_stay_as_they_are(project: Path) -> None:
    text = "# P\n\n```\n[a](../code/a.py)\n```\n\n[x](https://example.org/a) [y](#p)\n"
    assert _staged(project, text) == text


def test_a_link_to_a_missing_file_is_named(project: Path) -> None:
    with pytest.raises(SystemExit, match=r"docs/page\.md links to .*gone\.py"):
        _staged(project, "[a](../gone.py)\n")


def test_every_page_is_in_one_section(tmp_path: Path) -> None:
    names = ["index.md", "tutorial.md", "new.md", "results/a.md", "decisions/001-x.md"]
    for name in [*names, "source/x.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = navigation.sections(tmp_path)
    assert found["How-to guides"] == ["new.md"], "a new page needs no change of the sections"
    assert found["Results"] == ["results/a.md"]
    listed = [name for section in found.values() for name in section]
    assert sorted(listed) == sorted(names[1:])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/y.md").touch()
    with pytest.raises(SystemExit, match=r"in no section .*elsewhere/y\.md"):
        navigation.sections(tmp_path)


def test_the_site_is_built_and_a_fault_ends_the_build(tmp_path: Path) -> None:
    output = tmp_path / "site"
    command = [sys.executable, "-m", "tools.docs_site", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("index", "tutorial", "notebooks/first_edit", "reference/cli", "source/SECURITY"):
        assert (output / f"{name}.html").is_file(), name
    assert built.faults(output) == []

    config = write_sources(tmp_path / "sources")
    page = config.parent / "pages/concepts.md"
    whole = page.read_text("utf-8")
    for fault in ("[x](operations.md#no-such-heading)", "[x](no-such-page.md)"):
        page.write_text(f"{whole}\n{fault}\n", encoding="utf-8")
        assert render(config).returncode != 0, fault


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<a href='b.html'>b</a>", "a.html: b.html leads to nothing"),
        ("<a href='#x'>x</a>", "a.html: #x leads to no anchor"),
        ("<img src='https://example.org/x.png'>", "loads https://example.org/x.png from a network"),
        ("<p>Text\n- item</p>", "Markdown that was not read: - item"),
    ],
)
def test_faults_of_pages_are_found(tmp_path: Path, body: str, fault: str) -> None:
    page = tmp_path / "a.html"
    page.write_text("<h1 id=y>Y</h1><a href='a.html#y'>y</a><a href='https://example.org'>e</a>")
    assert built.faults(tmp_path) == []
    page.write_text(body, encoding="utf-8")
    (found,) = built.faults(tmp_path)
    assert fault in found
