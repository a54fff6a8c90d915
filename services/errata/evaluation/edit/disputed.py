"""Figures of the records whose subject no other record edits to another answer.

ZsRE has subjects with several records, whose questions differ little and whose new answers differ:
one subject's mother is two people, by two questions. All of these edits are active at once, so a
rephrase about such a subject has no single right answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from errata.evaluation.data.record import Record
from errata.evaluation.edit.confidence import half_width
from errata.evaluation.edit.exposure import GroupedFigures
from errata.evaluation.judge import Answers, shares

_FIGURES = tuple(
    f"{name}.{how}" for name in ("reliability", "generality") for how in ("token", "exact")
)


def undisputed(
    records: Sequence[Record], before: Sequence[Answers], now: Sequence[Answers]
) -> GroupedFigures:
    """Figures of the records whose subject no other record edits to another answer.

    Args:
        records: that were submitted, those that the checks rejected included.
        before: their answers before the first edit.
        now: their current answers.

    Returns:
        `undisputed.{figure}`, and `undisputed.records`, the share of all records.
    """
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        answers[_about(record)].add(record.target_new.strip().casefold())
    rows = [
        shares(*row)
        for row in zip(records, before, now, strict=True)
        if len(answers[_about(row[0])]) == 1
    ]
    columns = {name: [row[name] for row in rows if name in row] for name in _FIGURES}
    known = {f"undisputed.{name}": values for name, values in columns.items() if values}
    return GroupedFigures(
        {
            "undisputed.records": len(rows) / len(records),
            **{name: fmean(values) for name, values in known.items()},
        },
        {name: half_width(values) for name, values in known.items()},
    )


def _about(record: Record) -> str:
    return (record.subject or record.prompt).casefold()
