"""Copies `docs/` and makes its links hold on the site.

The pages are written for a code host: they link to source files beside `docs/`. Each such file or
folder becomes a page of the site under `source/`, so the site is complete without a network.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tools.docs_site.notebooks import as_page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROJECT_PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
"""Pages beside `docs/` that the navigation lists."""
_AS_THEY_ARE = {".md", ".png", ".svg", ".json"}
_LANGUAGES = {".sh": "bash", ".yml": "yaml", ".yaml": "yaml", ".proto": "protobuf", ".py": "python"}
_FENCE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1`*\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#]*)(?P<anchor>#[^)\s]*)?(?=\))")


def stage(folder: Path) -> None:
    """Writes all pages that are not generated from code.

    Raises:
        SystemExit: a page links to a file that does not exist; every such link is named.
    """
    todo = [path for path in sorted(DOCS.rglob("*")) if _belongs(path)]
    todo += [ROOT / name for name in PROJECT_PAGES]
    done: set[Path] = set()
    missing: list[str] = []
    while todo:
        source = todo.pop()
        if source in done:
            continue
        done.add(source)
        target = folder / place(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = page_of(source)
        if text is None:
            shutil.copyfile(source, target)
            continue
        text, linked = rewritten(source, text)
        target.write_text(text, encoding="utf-8")
        for path in linked:
            if path.exists():
                todo.append(path)
            else:
                missing.append(f"{source.relative_to(ROOT)} links to {path}, which does not exist")
    if missing:
        raise SystemExit("\n".join(missing))


def _belongs(path: Path) -> bool:
    """Whether a file of `docs/` is on the site even if no page links to it."""
    return path.is_file() and path.suffix in {*_AS_THEY_ARE, ".ipynb"}


def place(source: Path) -> Path:
    """Where a file or folder of the repository is among the site's sources."""
    if source.is_dir():
        inside = source / "README.md"
        return (
            place(inside) if inside.exists() else "source" / source.relative_to(ROOT) / "index.md"
        )
    if source.is_relative_to(DOCS) and source.suffix in _AS_THEY_ARE:
        return source.relative_to(DOCS)
    if source.is_relative_to(DOCS) and source.suffix == ".ipynb":
        return source.relative_to(DOCS).with_suffix(".md")
    path = "source" / source.relative_to(ROOT)
    return path if path.suffix in {".md", ".png", ".svg"} else path.with_name(f"{path.name}.md")


def page_of(source: Path) -> str | None:
    """A file or folder as Markdown, with links as on a code host; None if it is copied."""
    if source.is_dir():
        return _listing(source)
    if source.suffix == ".md":
        return source.read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        return as_page(source)
    if source.suffix in _AS_THEY_ARE:
        return None
    name = source.relative_to(ROOT).as_posix()
    language = _LANGUAGES.get(source.suffix, source.suffix.removeprefix("."))
    text = source.read_text(encoding="utf-8")
    return f"# {name}\n\n````{language}\n{text}````\n"


def _listing(folder: Path) -> str:
    """A folder without a README: its files, as links."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    rows = "\n".join(f"- [{name}]({name})" for name in names)
    return f"# {folder.relative_to(ROOT).as_posix()}/\n\n{rows}\n"


def rewritten(source: Path, text: str) -> tuple[str, list[Path]]:
    """The text with its relative links as the site needs them, and the files that they name."""
    here, linked = place(source).parent, list[Path]()
    folder = source if source.is_dir() else source.parent

    def link(match: re.Match[str]) -> str:
        path, anchor = match["path"], match["anchor"] or ""
        if not path or ":" in path:
            return match[0]
        target = (folder / path).resolve()
        linked.append(target)
        return os.path.relpath(place(target), here) + anchor

    return "".join(
        part if is_code else _LINK.sub(link, part) for part, is_code in _parts(text)
    ), linked


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is a block of code."""
    end = 0
    for block in _FENCE.finditer(text):
        yield text[end : block.start()], False
        yield block[0], True
        end = block.end()
    yield text[end:], False
