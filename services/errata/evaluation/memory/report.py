"""What a plan says and what was measured, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from errata.engine.needs import max_length
from errata.errors import InvalidRequestError
from errata.evaluation.memory.fill import quick_config
from errata.evaluation.memory.measure import (
    Measured,
    in_new_process,
    measure_worker,
    measure_writer,
    save_lane_model,
)
from errata.evaluation.memory.process import check_is_measurable
from errata.launch.output import TextTable
from errata.launch.plan.plan import Part, Plan, PlannedLane, make_plan
from errata.launch.plan.show import size


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing, planned and measured.

    Attributes:
        service: the process.
        what: the thing.
        planned: bytes.
        measured: bytes.
    """

    service: str
    what: str
    planned: int
    measured: int

    @property
    def ratio(self) -> float:
        """Measured bytes for each planned one."""
        return self.measured / self.planned if self.planned else 0.0


def compare(plan: Plan) -> list[Comparison]:
    """Measures the only lane of a plan on this machine's CPU.

    Fits take two steps and statistics little text, which changes no size. A lane that needs a lane
    model and names none gets an untrained one of the default sizes.

    Args:
        plan: of one lane, for the CPU; the LLM's weights are loaded.

    Raises:
        InvalidRequestError: not such a plan, or not Linux.
        ModelNotFoundError, UnsupportedModelError: the LLM cannot be loaded.
    """
    check_is_measurable()
    if len(plan.lanes) != 1 or plan.load.device != "cpu" or not plan.load.num_edits:
        raise InvalidRequestError(
            "--measure needs one lane with at least one edit, on the CPU; use --method METHOD.",
            field="measure",
        )
    (lane,) = plan.lanes
    with tempfile.TemporaryDirectory() as folder:
        lane = replace(lane, config=quick_config(lane.method, lane.config))
        if lane.config.needs_lane_model and lane.model is None:
            dtype = str(plan.model.dtype)[6:]
            in_new_process(save_lane_model, plan.model.name, dtype, folder)
            lane = replace(lane, model=Path(folder))
        quick = make_plan(
            plan.model, [lane], plan.load, plan.limits, replicas=1, uses_retrieval=False
        )
        measured = _measured(quick, lane)
        worker = in_new_process(measure_worker, measured)
        writer = in_new_process(measure_writer, measured)
    return [*_compared(quick, "worker", worker), *_compared(quick, "writer", writer)]


def _measured(plan: Plan, lane: PlannedLane) -> Measured:
    load = replace(plan.load, lane_model=lane.model)
    return Measured(
        model=plan.model.name,
        dtype=str(plan.model.dtype)[6:],
        method=lane.method.name,
        config=lane.config.model_dump_json(),
        lane_model=lane.model,
        num_edits=load.num_edits,
        batch=lane.method.needs(plan.model, lane.config, load).batch,
        text_tokens=load.text_tokens,
        rows=plan.limits.max_rows,
        max_length=max_length(plan.model, plan.limits),
    )


_PLANNED: Mapping[str, Callable[[Part], bool]] = {
    "LLM": lambda part: part.owner == "model" and not part.need.during,
    "lane": lambda part: part.owner.startswith("lanes/") and not part.need.during,
    "keys and values": lambda part: part.owner == "engine" and not part.need.during,
    "fit": lambda part: part.need.during == "fit",
}
"""Which parts of a service make up each thing that is measured."""


def _compared(plan: Plan, name: str, measured: Mapping[str, int]) -> list[Comparison]:
    (service,) = (service for service in plan.services if service.name == name)
    return [
        Comparison(
            name,
            what,
            sum(part.need.num_bytes for part in service.parts if _PLANNED[what](part)),
            found,
        )
        for what, found in measured.items()
    ]


def comparison_table(rows: list[Comparison]) -> Table:
    """One row for each thing."""
    table = TextTable(title="planned and measured", title_justify="left")
    for column in ("service", "what", "planned", "measured", "measured / planned"):
        table.add_column(column, justify="right" if column not in ("service", "what") else "left")
    for row in rows:
        table.add_row(
            row.service, row.what, size(row.planned), size(row.measured), f"{row.ratio:.2f}"
        )
    return table
