"""Paired differences of two runs on the same records.

Seeds draw overlapping records, so intervals of two runs, one beside the other, say little about
their difference. Here every record is compared with itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from errata.evaluation.edit.confidence import half_width
from errata.evaluation.edit.families import cell, markdown_table


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two runs.

    Attributes:
        figure: its name.
        first: mean of the first run.
        second: mean of the second run.
        difference: second − first.
        over_records: half-width of the difference's 95 % interval over distinct records; a record
            that several seeds drew counts once, with its mean.
        over_seeds: half-width over the seeds' means; None for a single seed.
        num_records: distinct records that have the figure in both runs.
    """

    figure: str
    first: float
    second: float
    difference: float
    over_records: float | None
    over_seeds: float | None
    num_records: int


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """The differences between two points.

    Args:
        first: a point of a result, with the shares of each record in its units.
        second: the same for another run.

    Returns:
        Nothing for points that drew different records, or for results without each record's shares.
    """
    units = [
        (one["records"], two["records"])
        for one, two in zip(first["units"], second["units"], strict=False)
        if "records" in one and "records" in two
    ]
    if any(one["ids"] != two["ids"] for one, two in units):
        return []
    names = dict.fromkeys(
        name for one, two in units for name in one["figures"] if name in two["figures"]
    )
    found = [_difference(name, units) for name in names]
    return [item for item in found if item is not None]


def _difference(
    name: str, units: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Difference | None:
    by_record: defaultdict[str, list[float]] = defaultdict(list)
    by_seed: list[list[float]] = []
    firsts: list[float] = []
    seconds: list[float] = []
    for one, two in units:
        rows = zip(one["ids"], one["figures"][name], two["figures"][name], strict=True)
        known = [row for row in rows if row[1] is not None and row[2] is not None]
        by_seed.append([b - a for _, a, b in known])
        for record, a, b in known:
            by_record[record].append(b - a)
            firsts.append(a)
            seconds.append(b)
    if not firsts:
        return None
    return Difference(
        figure=name,
        first=fmean(firsts),
        second=fmean(seconds),
        difference=fmean(seconds) - fmean(firsts),
        over_records=half_width([fmean(values) for values in by_record.values()]),
        over_seeds=half_width([fmean(values) for values in by_seed if values]),
        num_records=len(by_record),
    )


def table(first: str, second: str, found: Sequence[Difference]) -> str:
    """Markdown: one row for each figure."""
    rows = [
        [
            item.figure,
            cell(item.figure, item.first),
            cell(item.figure, item.second),
            f"{item.difference:+.3f}",
            cell(item.figure, item.over_records),
            cell(item.figure, item.over_seeds),
            f"{item.num_records:,}",
        ]
        for item in found
    ]
    headings = ["", first, second, "difference", "± over records", "± over seeds", "records"]
    return markdown_table(headings, rows)


def as_json(label: str, found: Sequence[Difference]) -> dict[str, Any]:
    """The differences of one pair of runs, for `compare.json`."""
    return {"second": label, "differences": [asdict(item) for item in found]}
