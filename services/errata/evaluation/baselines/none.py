"""No editing: the figures of the base model."""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.lane.contract import LaneConfig
from errata.editing.model.causal_lm import CausalLM
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome
from errata.evaluation.systems.local import LocalModel


class NothingConfig(LaneConfig):
    """No settings."""


class NoEditing(LocalModel):
    """The base model; edits have no effect."""

    state_bytes = 0

    def __init__(self, model: CausalLM, config: NothingConfig) -> None:
        """Takes the model as it is."""
        super().__init__(model)

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Does nothing."""
        return EditOutcome(rejected=(), seconds=0.0)

    def reset(self) -> None:
        """Does nothing."""
