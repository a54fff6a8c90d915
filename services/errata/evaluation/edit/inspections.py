"""Measurements inside a lane, in addition to its answers; a suite's points name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from errata.editing.adaple.config import AdapleConfig
from errata.evaluation.data.record import Record
from errata.evaluation.edit.embedding import code_plane, prompt_plane
from errata.evaluation.edit.experts import expert_figures
from errata.evaluation.edit.update_cosines import update_cosines
from errata.evaluation.systems.lane import LaneSystem


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A lane at the end of a run, while the last edits are active.

    Attributes:
        system: the lane.
        records: of the run.
        shares: prompt of a record whose edit is active → its `judge.shares`.
    """

    system: LaneSystem
    records: Sequence[Record]
    shares: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Inspection:
    """One measurement.

    Attributes:
        key: of its JSON in the run's results.
        measure: returns the JSON; None if there is nothing to measure.
    """

    key: str
    measure: Callable[[FinishedRun], dict[str, Any] | None]


def _update_cosines(run: FinishedRun) -> dict[str, Any] | None:
    """Cosines in the last edited layer; needs two commits."""
    system, config = run.system, run.system.config
    assert isinstance(config, AdapleConfig), "suites ask for it with AdaPLE only"
    if len(system.commits) < 2:
        return None
    layer = config.resolve_layers(system.model.num_layers)[-1]
    return update_cosines(system.commits, config, layer)


INSPECTIONS: Mapping[str, Inspection] = {
    "experts": Inspection("experts", lambda run: expert_figures(run.system, run.shares)),
    "prompt plane": Inspection("embedding", lambda run: prompt_plane(run.system, run.records)),
    "code plane": Inspection("embedding", lambda run: code_plane(run.system, run.records)),
    "update cosines": Inspection("similarity", _update_cosines),
}
"""Measurements by the names that points use."""
