"""The rows of a suite's results, and grids of rows."""

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
        varied: configuration values of this point; they override the plan's.
        edits: number that the model carries at the end.
        batch: edits that are submitted together.
        repeats: number of repetitions from the unedited model with other edits, measured as one.
        checkpoints: numbers of edits after which all edits so far are measured.
        inspections: measurements inside the lane (`inspections.INSPECTIONS`).
        lane_model: folder inside the plan's `lane_model`; empty for that folder itself.
        served: the lane itself, or a variant for comparison (`systems.recipe_variants`).
        compact: number of experts to compact the lane to after all edits; 0 uses the method's
            default, None does not compact.
        users: whether what users need is measured afterwards (`edit.users`).
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
    users: bool = False

    @property
    def num_records(self) -> int:
        """Records that a seed draws."""
        return self.edits * self.repeats


@dataclass(frozen=True, slots=True)
class EditSuite:
    """A kind of benchmark.

    Attributes:
        about: one line for `errata bench suites`.
        points: gives the plan's rows.
        headline: index of the row that represents the whole run.
        methods: that it is for; empty for all.
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
    """The label of a row with these values."""
    return ", ".join(f"{key} {value}" for key, value in varied.items())
