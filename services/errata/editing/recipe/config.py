"""The configuration of a RECIPE lane without its trained model; all of it travels in the log.

What training decided (encoder, widths, number of prompt tokens, their position) belongs to the lane
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
        claim: an edit claims a query if its score is strictly above the Knowledge Sentinel's
            (`sentinel`, the paper's rule), or if its cosine with the query is above one threshold
            for all queries (`threshold`, the ablation without sentinel).
        own_prompt: an edit claims exactly its own prompt, whatever the sentinel decides. Ours: a
            user who corrected a question and repeats it verbatim must not get the old answer.
        refine_steps: the most gradient steps on an edit's continuous prompt; only an edit whose
            answer is not certain without them takes any, and it stops as soon as it is. An edit
            that failed its check gets more steps at each further attempt. Paper: 0. Ours.
        num_rephrases: number of other wordings on which a prompt is refined: the edit's
            rephrasings, those of its relation in the lane model's training data, or questions
            about its subject.
        num_contexts: number of contexts, drawn from the statistics text; a prompt is also refined
            after each of them.
        threshold: for `claim="threshold"`; a cosine, because each lane model has its own scale of
            scores.
    """

    claim: Literal["sentinel", "threshold"] = "sentinel"
    own_prompt: bool = True
    refine_steps: int = Field(default=0, ge=0, le=1000)
    num_rephrases: int = Field(default=4, ge=0, le=16)
    num_contexts: int = Field(default=2, ge=0, le=64)
    threshold: float | None = Field(default=None, ge=-1, le=1)

    @property
    def needs_lane_model(self) -> bool:
        """True: the lane model encodes edits and routes prompts."""
        return True

    @property
    def rule(self) -> ClaimRule:
        """When an edit claims a query; `own_prompt` applies only to the sentinel's rule."""
        return ClaimRule(self.own_prompt and self.claim == "sentinel", self.threshold)

    @model_validator(mode="after")
    def _consistent(self) -> RecipeConfig:
        if (self.claim == "threshold") != (self.threshold is not None):
            raise ValueError("set threshold if claim is 'threshold', and only then")
        return self


REFINED: Mapping[str, Any] = {"refine_steps": 20, "num_contexts": 0}
"""What new lanes have; the configuration's own defaults are those of lanes made before it."""

PAPER: Mapping[str, Any] = {"own_prompt": False, "refine_steps": 0}
"""Published values that differ from the defaults."""
