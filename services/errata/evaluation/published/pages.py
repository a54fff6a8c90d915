"""Pages with parts that are made from published results.

A part lies between a marker, `<!-- table NAME -->`, `<!-- paired NAME -->` or `<!-- plot NAME -->`,
and `<!-- end -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

from errata.errors import InvalidRequestError
from errata.evaluation.published import comparisons
from errata.evaluation.published.curves import draw
from errata.evaluation.published.tables import (
    NOTHING,
    commands,
    read_definitions,
    read_published,
    shown_in,
    table,
)

_PART = re.compile(r"(<!-- (table|paired|plot) ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Pages:
    """`results.md`, `choosing.md` and the pages in `results/` of a folder of documentation."""

    def __init__(self, docs: Path) -> None:
        """Reads the definitions and the published files.

        Raises:
            InvalidRequestError: a file is unusable, or a run names an unknown table or plot.
        """
        self._docs, self._own = docs, docs / "results"
        self._known = read_definitions(self._own / "tables.toml")
        self._files = read_published(self._own / "data")
        for file in self._files:
            for row in file["rows"]:
                (kind,) = row.keys() & self._known.keys()
                place = row[kind]
                if place not in self._known[kind]:
                    raise InvalidRequestError(
                        f"{file['name']} is shown in {place!r}, which tables.toml does not define.",
                        field="row",
                    )
        self.paths = [docs / "choosing.md", docs / "results.md", *sorted(self._own.glob("*.md"))]

    def made(self, path: Path) -> str:
        """A page as the published files make it.

        Raises:
            InvalidRequestError: the page names an unknown table or plot.
        """
        prefix = "" if path.parent == self._own else f"{self._own.name}/"

        def part(found: re.Match[str]) -> str:
            start, kind, name, end = found.groups()
            known = self._known[kind]
            if name not in known:
                raise InvalidRequestError(
                    f"{path} has a {kind} {name!r} that tables.toml does not define.", field="docs"
                )
            shown = shown_in(self._files, kind, known[name].rows)
            if kind == "paired":
                body = comparisons.table(known[name], self._files, f"{prefix}data")
            elif kind == "table":
                body = table(known[name], shown, f"{prefix}data")
            elif shown:
                picture = f"![{known[name].title}]({prefix}plots/{name}.png)\n\n"
                body = picture + commands(shown, f"{prefix}data")
            else:
                body = NOTHING
            return f"{start}\n{body}\n{end}"

        return _PART.sub(part, path.read_text(encoding="utf-8"))

    def unused(self) -> set[str]:
        """Definitions that no page has."""
        texts = [path.read_text(encoding="utf-8") for path in self.paths]
        placed = {found[3] for text in texts for found in _PART.finditer(text)}
        return {name for known in self._known.values() for name in known} - placed

    def pictures(self) -> list[Path]:
        """The files of all plots that show a run."""
        return [
            self._picture(name)
            for name in self._known["plot"]
            if shown_in(self._files, "plot", name)
        ]

    def write(self) -> list[Path]:
        """Writes all pages and plots; returns the pages that changed."""
        changed = []
        for path in self.paths:
            text = self.made(path)
            if text != path.read_text(encoding="utf-8"):
                path.write_text(text, encoding="utf-8")
                changed.append(path)
        for name, plot in self._known["plot"].items():
            if shown := shown_in(self._files, "plot", name):
                draw(plot, shown, self._picture(name))
        return changed

    def _picture(self, name: str) -> Path:
        return self._own / "plots" / f"{name}.png"
