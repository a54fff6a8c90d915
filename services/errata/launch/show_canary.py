"""How canaries look on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from errata.launch.output import TextTable, line
from errata.launch.show import local_time, some_names
from errata.platform.typed import share_text, span_text
from errata_client import Canary, CanaryComparison, CanaryCounts, CanaryRule, CanaryState

_STYLES = {
    CanaryState.OPEN: "cyan",
    CanaryState.PROMOTED: "green",
    CanaryState.ROLLED_BACK: "yellow",
}


def canary_lines(canary: Canary) -> Group:
    """One canary: its audience, its rule, its life, and both arms side by side."""
    where = f" in {canary.lane}, namespace {canary.namespace or 'default'}"
    rows: list[RenderableType] = [line((canary.name, "bold"), " ", _state(canary), where)]
    rows.append(line(f"  {audience_text(canary)}"))
    if canary.rule is not None:
        rows.append(line(f"  {rule_text(canary.rule)}"))
    opened = f"opened at seq {canary.opened_seq} by {canary.author or 'nobody named'}"
    rows.append(line(f"  {opened}, {local_time(canary.open_time)}"))
    if canary.set_seq > canary.opened_seq and not canary.ended_seq:
        rows.append(line(f"  as it is since seq {canary.set_seq}, {local_time(canary.set_time)}"))
    if canary.ended_seq:
        ended = f"ended at seq {canary.ended_seq} by {canary.ended_by or 'nobody named'}"
        rows.append(line(f"  {ended}, {local_time(canary.end_time)}"))
    if canary.comment:
        rows.append(line(f"  {canary.comment}"))
    edits = some_names(canary.edits) or "none"
    if "…" in edits:
        edits += f"; all of them: errata edits --canary {canary.name.removeprefix('canaries/')}"
    rows.append(line(f"  edits: {edits}"))
    if canary.comparison is None:
        rows.append(line(("  no replica has counted a request yet", "dim")))
    else:
        rows.append(comparison_table(canary.comparison))
    return Group(*rows)


def audience_text(canary: Canary) -> str:
    """Who is in a canary, in words."""
    said = f"{share_text(canary.share)} of the requests that read the namespace"
    if canary.readers:
        said += f", and those that also read {' or '.join(canary.readers)}"
    return said


def rule_text(rule: CanaryRule) -> str:
    """When a canary ends by itself, in words."""
    increase = f"{rule.max_error_increase * 100:g}"
    said = (
        f"from {rule.min_requests:,} requests on: rolls back if its share of errors is more than "
        f"{increase} points above the rest's"
    )
    if rule.promote_after_seconds:
        said += f"; promotes after {span_text(rule.promote_after_seconds)} with this audience"
    return said


def comparison_table(comparison: CanaryComparison) -> Table:
    """Both arms, one column each."""
    table = TextTable()
    table.add_column("")
    for arm in ("canary", "rest"):
        table.add_column(arm, justify="right")
    arms = [_cells(comparison.canary), _cells(comparison.rest)]
    for name, cells in zip(_ROWS, zip(*arms, strict=True), strict=True):
        table.add_row(name, *cells)
    return table


_ROWS = ("requests", "claimed by its edits", "shaped", "errors", "tokens", "mean time")


def _cells(counts: CanaryCounts) -> tuple[str, ...]:
    seconds = counts.mean_seconds
    return (
        f"{counts.requests:,}",
        _share(counts.claims, counts.claim_share),
        _share(counts.shaped, counts.shaped_share),
        _share(counts.errors, counts.error_share),
        f"{counts.tokens:,}",
        "–" if seconds is None else f"{seconds * 1000:,.1f} ms",
    )


def _share(number: int, share: float | None) -> str:
    return f"{number:,}" if share is None else f"{number:,} ({share:.2%})"


def canary_table(canaries: Iterable[Canary]) -> Table:
    """Canaries, one row each."""
    table = TextTable()
    for column in ("canary", "state", "lane", "audience", "edits", "requests", "errors", "opened"):
        table.add_column(column, overflow="fold", no_wrap=column in ("canary", "state"))
    for canary in canaries:
        counts = canary.comparison
        asked = "" if counts is None else f"{counts.canary.requests:,} / {counts.rest.requests:,}"
        table.add_row(
            canary.name.removeprefix("canaries/"),
            _state(canary),
            " · ".join(filter(None, (canary.lane.removeprefix("lanes/"), canary.namespace))),
            " + ".join([share_text(canary.share), *canary.readers]),
            str(len(canary.edits)),
            asked,
            "" if counts is None else f"{_percent(counts.canary)} / {_percent(counts.rest)}",
            f"{canary.open_time.astimezone():%Y-%m-%d %H:%M}",
        )
    return table


def _percent(counts: CanaryCounts) -> str:
    return "–" if counts.error_share is None else f"{counts.error_share:.2%}"


def _state(canary: Canary) -> Text:
    return line((canary.state.name.lower().replace("_", " "), _STYLES.get(canary.state, "")))
