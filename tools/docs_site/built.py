"""Checks the finished pages: links lead to something, and nothing is loaded from a network.

Zensical checks the links of Markdown pages to one another; this checks those of all HTML, and that
a code host's Markdown was read as such: lists and blocks that need another indent here stay text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ATTRIBUTES = {"href", "src"}
_UNREAD = re.compile(r"^(?:[-*] |\d+\. |```|\|)")
# Anything else that a page loads by itself would come from a network.
_LOADED = {"script", "link", "img", "iframe"}


@dataclass
class _Page(HTMLParser):
    """The links and anchors of one page, and its lines that look like Markdown."""

    links: list[tuple[str, str]] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)
    _inside: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes a tag's links, and what can be linked to."""
        for name, value in attrs:
            if name in _ATTRIBUTES and value:
                self.links.append((tag, value))
            elif name in ("id", "name") and value:
                self.anchors.add(value)
        self._inside[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        """Notes where the text is no longer."""
        self._inside[tag] -= 1

    def handle_data(self, data: str) -> None:
        """Notes lines of a paragraph that are Markdown still."""
        if self._inside["p"] and not self._inside["code"]:
            self.unread += [line for line in data.splitlines() if _UNREAD.match(line)]


def faults(site: Path) -> list[str]:
    """What is wrong with the pages, a line each."""
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
    yield from (f"Markdown that was not read: {line}" for line in page.unread)
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
