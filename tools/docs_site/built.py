"""Checks the finished pages: every relative link and anchor leads to something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ATTRIBUTES = {"href", "src"}
# Anything else that a page loads by itself would come from a network.
_LOADED = {"script", "link", "img", "iframe"}


@dataclass
class _Page(HTMLParser):
    """The links and anchors of one page."""

    links: list[tuple[str, str]] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes a tag's links, and what can be linked to."""
        for name, value in attrs:
            if name in _ATTRIBUTES and value:
                self.links.append((tag, value))
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def broken_links(site: Path) -> list[str]:
    """What is wrong with the links of all pages, a line each."""
    pages = {path: _parsed(path) for path in sorted(site.rglob("*.html"))}
    return [
        f"{path.relative_to(site)}: {problem}"
        for path, page in pages.items()
        if path.name != "404.html"  # its links begin at the root of the server
        for problem in _problems(path, page, pages)
    ]


def _parsed(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _problems(path: Path, page: _Page, pages: dict[Path, _Page]) -> Iterator[str]:
    for tag, link in page.links:
        split = urlsplit(link)
        if split.scheme or split.netloc:
            if tag in _LOADED and split.scheme != "data" and "canonical" not in link:
                yield f"loads {link} from a network"
            continue
        target = (path.parent / unquote(split.path)).resolve() if split.path else path
        if not target.is_file():
            yield f"{link} leads to nothing"
        elif split.fragment and target in pages:
            if unquote(split.fragment) not in pages[target].anchors:
                yield f"{link} leads to no anchor"
