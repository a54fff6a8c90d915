"""Every knob of a RECIPE lane that is not part of its trained model; all of them travel in the log.

What training decided (encoder, widths, number of prompt tokens, their place) belongs to the lane
model, which is committed once and versioned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from errata.editing.lane.contract import LaneConfig
from errata.editing.retriever.sentinel import ClaimRule


class RecipeConfig(LaneConfig):
    """Configuration of a RECIPE lane.

    Attributes:
        claim: an edit takes a query if its score is strictly above the Knowledge Sentinel's
            (`sentinel`, the paper's rule) or its cosine with the query above one number for all
            queries (`threshold`, the ablation without sentinel).
        own_prompt: an edit takes exactly its own prompt whatever the sentinel says. Ours: who has
            corrected a question and asks it in the same words must not be told the old answer.
        refine_steps: gradient steps on each edit's own prompt when it is fitted; one that failed
            its check gets more at each further attempt. Paper: no gradient at all. Ours.
        num_contexts: texts that a prompt is also refined behind, drawn from the statistics text.
        threshold: for `claim="threshold"`; a cosine, for the scale of scores is each lane model's
            own.
    """

    claim: Literal["sentinel", "threshold"] = "sentinel"
    own_prompt: bool = True
    refine_steps: int = Field(default=0, ge=0, le=1000)
    num_contexts: int = Field(default=2, ge=0, le=64)
    threshold: float | None = Field(default=None, ge=-1, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> RecipeConfig:
        if (self.claim == "threshold") != (self.threshold is not None):
            raise ValueError("threshold goes with claim 'threshold', and claim 'threshold' with it")
        return self

    @property
    def rule(self) -> ClaimRule:
        """When an edit claims a query; `own_prompt` belongs to the sentinel's rule."""
        return ClaimRule(self.own_prompt and self.claim == "sentinel", self.threshold)


PAPER: Mapping[str, Any] = {"own_prompt": False}
"""Values of the published rule that differ from the defaults."""
