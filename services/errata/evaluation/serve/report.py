"""The result of every suite of `errata bench serve`, and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from errata.evaluation.report import circumstances, code_version
from errata.launch.output import TextTable

Quantiles = dict[str, float | None]


def quantiles_ms(seconds: Sequence[float]) -> Quantiles:
    """p50, p95 and p99 in milliseconds, by rank; None if nothing was measured."""
    ranked = sorted(seconds)

    def at(share: float) -> float | None:
        if not ranked:
            return None
        return 1e3 * ranked[max(0, math.ceil(share * len(ranked)) - 1)]

    return {"p50": at(0.50), "p95": at(0.95), "p99": at(0.99)}


def p99_ms(seconds: Sequence[float]) -> float:
    """p99 in milliseconds; 0 if nothing was measured."""
    return quantiles_ms(seconds)["p99"] or 0.0


def suite_report(
    suite: str,
    *,
    ratio: float | None,
    ours: float,
    baseline: float,
    first: Sequence[float],
    between: Sequence[float],
    whole: Sequence[float],
    requests: int,
    errors: int = 0,
    stale_answers: int = 0,
    mixed_version_answers: int = 0,
    edit_visible: Mapping[str, Sequence[float]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The suite's result under the names that other tools read.

    Args:
        suite: its name.
        ratio: ours to the baseline, measured in the same run.
        ours: tokens per second.
        baseline: tokens per second.
        first: seconds to the first token of each stream.
        between: seconds between tokens.
        whole: seconds to the end of each answer.
        requests: number sent.
        errors: number failed.
        stale_answers: answers older than the requested `min_seq`.
        mixed_version_answers: answers of more than one version.
        edit_visible: seconds from commit until visible on the `first` and on `all` replicas.
        **more: further figures of the suite; JSON values.
    """
    visible = edit_visible or {"first": (), "all": ()}
    return {
        "suite": suite,
        "ratio": ratio,
        "tokens_per_second": {"ours": ours, "baseline": baseline},
        "ttft_ms": quantiles_ms(first),
        "itl_ms": quantiles_ms(between),
        "e2e_ms": quantiles_ms(whole),
        "edit_visible_ms": {name: quantiles_ms(values) for name, values in visible.items()},
        "requests": requests,
        "errors": errors,
        "stale_answers": stale_answers,
        "mixed_version_answers": mixed_version_answers,
        "commit": code_version(),
        **more,
        **circumstances(),
    }


def terminal_table(found: Mapping[str, Any]) -> Table:
    """The figures as a table for a terminal."""
    made = TextTable("", "p50", "p95", "p99", title=f"suite {found['suite']}")
    rows = [
        ("time to first token, ms", found["ttft_ms"]),
        ("between tokens, ms", found["itl_ms"]),
        ("whole answer, ms", found["e2e_ms"]),
        ("edit visible on the first replica, ms", found["edit_visible_ms"]["first"]),
        ("edit visible on all replicas, ms", found["edit_visible_ms"]["all"]),
    ]
    for name, values in rows:
        made.add_row(name, *(_shown(values[key]) for key in ("p50", "p95", "p99")))
    made.add_section()
    rate = found["tokens_per_second"]
    made.add_row("tokens/s, ours and baseline", _shown(rate["ours"]), _shown(rate["baseline"]))
    made.add_row("ratio", _shown(found["ratio"], 3))
    for name in ("equal_lengths", "unclaimed"):
        if name in found:
            made.add_row(f"ratio, {name.replace('_', ' ')}", _shown(found[name]["ratio"], 3))
    for name in ("requests", "errors", "stale_answers", "mixed_version_answers"):
        made.add_row(name.replace("_", " "), str(found[name]))
    return made


def _shown(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
