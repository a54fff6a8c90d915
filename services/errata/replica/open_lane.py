"""A lane of the log, opened on this process's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.effects.plan import RowPlan
from errata.editing.lane.claims import route
from errata.editing.lane.contract import Capabilities, Lane
from errata.editing.lane.search import Indices
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.model.weights import EditedWeights
from errata.editing.registry import get_method
from errata.errors import ErrataError, InvalidRequestError
from errata.log.entries import LaneConfigured


@dataclass(frozen=True, slots=True)
class OpenLane:
    """A configured lane on this replica.

    Attributes:
        configured: payload of the entry that configures the lane.
        capabilities: of the lane's method.
        lane: holds the lane's state.
    """

    configured: LaneConfigured
    capabilities: Capabilities
    lane: Lane

    def route(self, prompts: Sequence[str]) -> list[RowPlan]:
        """The plan that the lane's edits give each prompt."""
        return route(self.lane.view(), prompts)


def open_lane(
    payload: LaneConfigured, model: BaseLLM, weights: EditedWeights | None, indices: Indices
) -> OpenLane:
    """Opens a lane, without edits, as its entry configures it.

    Args:
        payload: of the entry.
        model: of this process.
        weights: of the model; None in a process without.
        indices: makes the indices that routing searches.

    Raises:
        InvalidRequestError: the method or its configuration is unknown here, or does not fit.
        PreconditionError: the method changes weights, and this process has none.
    """
    method = get_method(payload.method)
    try:
        config = method.config.model_validate_json(payload.config_json)
        lane = method.open(model, config, weights, name=payload.lane, indices=indices)
    except ErrataError:
        raise
    except Exception as error:  # the values come from the log
        raise InvalidRequestError(
            f"{payload.lane} has a configuration that {payload.method} cannot use "
            f"({type(error).__name__}). Upgrade this process, or use another lane.",
            field="config_json",
        ) from error
    return OpenLane(payload, method.capabilities, lane)
