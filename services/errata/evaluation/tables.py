"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COLUMNS = {
    "efficacy": "efficacy",
    "generalization": "generalization",
    "specificity": "specificity",
    "score": "Score",
    "perplexity_before": "perplexity before",
    "perplexity_after": "perplexity after",
    "seconds_per_edit": "s/edit",
}


def markdown_table(report: Mapping[str, Any]) -> str:
    """A row per configuration of `editing_bench.run`'s report, mean ± 95 % interval over seeds.

    Columns that no run measured are left out.
    """
    results: Mapping[str, Any] = report["results"]
    known = {key for row in results.values() for key in row["mean"]}
    columns = {key: title for key, title in _COLUMNS.items() if key in known}
    lines = [
        "| configuration | " + " | ".join(columns.values()) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name, row in results.items():
        cells = [_cell(key, row["mean"][key], row["ci95"][key]) for key in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(key: str, value: float, interval: float) -> str:
    digits = 1 if key.startswith("perplexity") else 3
    text = f"{value:.{digits}f}"
    return f"{text} ± {interval:.{digits}f}" if interval else text
