"""Which page belongs to which section of the site."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.docs_site.staging import PROJECT_PAGES

SECTIONS: dict[str, Sequence[str]] = {
    "Tutorials": ("tutorial.md", "notebooks/*.md"),
    "How-to guides": (
        *("choosing.md", "models.md", "operations.md", "security.md", "signing.md"),
        *("http.md", "console.md", "examples/README.md", "bulk.md", "policy.md", "namespaces.md"),
        "canary.md",
        *("finding.md", "events.md", "vllm.md", "backup.md", "trimming.md"),
        "runbooks.md",
        "*.md",  # what no other section names
    ),
    "Reference": (
        *("reference/cli.md", "reference/settings.md", "reference/sdk.md", "reference/http.md"),
        *("reference/grpc/*.md", "reference/errors.md", "limits.md", "metrics.md"),
    ),
    "Explanation": (
        *("concepts.md", "promises.md", "architecture.md", "reliability.md", "snapshots.md"),
        *("sizing.md", "evaluation.md", "decisions/README.md", "decisions/*.md"),
    ),
    "Results": ("results.md", "results/README.md", "results/*.md"),
    "Project": tuple(f"source/{name}" for name in PROJECT_PAGES),
}
"""Patterns of pages, in order; a page belongs to the first pattern that names it without `*`, else
to the first that matches."""
_HOME = "index.md"


def sections(pages: Path) -> dict[str, list[str]]:
    """The pages of each section, as paths relative to the folder of all pages.

    Raises:
        SystemExit: a section names a page that does not exist, or a page is in no section.
    """
    named = {name for names in SECTIONS.values() for name in names if "*" not in name} | {_HOME}
    taken: set[str] = {_HOME}
    made = {
        title: [name for pattern in patterns for name in _matches(pages, pattern, named, taken)]
        for title, patterns in SECTIONS.items()
    }
    every = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    left = sorted(name for name in every - taken if not name.startswith("source/"))
    if left:
        raise SystemExit(f"in no section of tools/docs_site/navigation.py: {', '.join(left)}")
    return {title: names for title, names in made.items() if names}


def _matches(pages: Path, pattern: str, named: set[str], taken: set[str]) -> Iterator[str]:
    """The pages of a pattern that no earlier one has; a missing page of a wildcard is none."""
    for path in sorted(pages.glob(pattern)):
        name = path.relative_to(pages).as_posix()
        if name not in taken and ("*" not in pattern or name not in named):
            taken.add(name)
            yield name


def as_toml(found: dict[str, list[str]]) -> str:
    """The value of `nav`, on one line."""
    lists = (f"{{ {json.dumps(title)} = {json.dumps(names)} }}" for title, names in found.items())
    return f"[{', '.join([json.dumps(_HOME), *lists])}]"
