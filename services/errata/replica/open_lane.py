"""A lane of the log, opened on this process's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.effects.plan import RowPlan
from errata.editing.lane.claims import route
from errata.editing.lane.commits import LaneEntry
from errata.editing.lane.contract import Capabilities, Lane
from errata.editing.lane.search import Indices
from errata.editing.lane.swap import Change
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.model.weights import EditedWeights
from errata.editing.namespaces import DEFAULT_ONLY, Reading
from errata.editing.registry import get_method
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    ErrataError,
    InvalidRequestError,
)
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

    def route(self, prompts: Sequence[str], reading: Reading = DEFAULT_ONLY) -> list[RowPlan]:
        """The plan that the lane's edits give each prompt; all of these read the same."""
        return route(self.lane.view(), prompts, reading)


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


def changes_weights(configured: LaneConfigured) -> bool:
    """Whether the lane's method changes weights.

    Raises:
        InvalidRequestError: the method is unknown here.
    """
    return get_method(configured.method).capabilities.changes_weights


def lane_change(name: str, lane: OpenLane, entry: LaneEntry) -> Change:
    """Prepares an entry of a lane; blocks.

    Raises:
        ArtifactCorruptError: the entry's tensors have a form that the lane cannot read.
        ErrataError: as `Lane.prepare`.
    """
    try:
        return lane.lane.prepare(entry)
    except ErrataError:
        raise
    except Exception as error:  # the artifact comes from outside
        raise ArtifactCorruptError(
            f"{name} cannot apply its next entry ({type(error).__name__}): the artifact has "
            "another form than the lane's method writes. Restore it, or upgrade this process."
        ) from error


def check_model(model: BaseLLM, digest: str, what: str) -> None:
    """Returns if something was made for a model.

    Args:
        model: of this process.
        digest: of the model that it was made for.
        what: for the message.

    Raises:
        BaseModelMismatchError: it was made for another one.
    """
    if digest != model.digest:
        raise BaseModelMismatchError(
            f"{what} was made for base model {digest[:16]}…, but this process runs "
            f"{model.digest[:16]}…; load the model and dtype that the log was made with.",
            expected=digest,
            found=model.digest,
        )
