"""A row of a suite's results, and the grids that many suites consist of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from errata.evaluation.edit.plan import Plan


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a suite's results; it is run once for each seed.

    Attributes:
        label: for tables.
        varied: configuration values of this point, on top of the plan's.
        edits: that the model carries in the end.
        batch: edits that are submitted together.
        repeats: how often other edits are made from the unedited model, measured as one.
        checkpoints: numbers of edits at which all edits so far are asked about.
        inspections: what is measured inside the lane (`inspections.INSPECTIONS`).
        lane_model: folder inside the plan's `lane_model`; empty for that one itself.
        served: the lane as it is, or another way to compare with (`systems.recipe_variants`).
        compact: experts that the lane is compacted to once all edits are in; 0 for the method's own
            number, None for no compaction.
    """

    label: str
    varied: Mapping[str, Any]
    edits: int
    batch: int
    repeats: int = 1
    checkpoints: tuple[int, ...] = ()
    inspections: tuple[str, ...] = ()
    lane_model: str = ""
    served: Literal["lane", "words", "leak"] = "lane"
    compact: int | None = None

    @property
    def num_records(self) -> int:
        """Records that a seed draws."""
        return self.edits * self.repeats


@dataclass(frozen=True, slots=True)
class EditSuite:
    """A kind of benchmark.

    Attributes:
        about: one line for `errata bench suites`.
        points: the plan's rows.
        headline: index of the row that stands for the whole run.
        methods: it is about; empty for all.
    """

    about: str
    points: Callable[[Plan], list[Point]]
    headline: int = 0
    methods: tuple[str, ...] = ()


def grid(plan: Plan, choices: Mapping[str, tuple[Any, ...]]) -> list[Point]:
    """A row for each combination of values, the last key's values varying fastest."""
    rows = [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]
    return [Point(label(row), row, plan.edits, plan.batch) for row in rows]


def label(varied: Mapping[str, Any]) -> str:
    """What a row is called that differs in some values."""
    return ", ".join(f"{key} {value}" for key, value in varied.items())
