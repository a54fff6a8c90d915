"""LEMoE: experts beside a frozen FFN, one for each batch of edits.

Source: "LEMoE: Advanced Mixture of Experts Adaptor for Lifelong Model Editing of Large Language
Models" (Wang and Li, 2024). docs/decisions/010-lemoe.md describes the limits of its routing.
"""

from __future__ import annotations

from errata.editing.lane.contract import Capabilities
from errata.editing.lane.method import SliceMethod, own_defaults
from errata.editing.lemoe.config import (
    PAPER,
    LemoeConfig,
    lane_before_all_said,
    lane_before_questions,
    new_lane,
)
from errata.editing.lemoe.lane import LemoeLane
from errata.editing.lemoe.needs import needs

METHOD = SliceMethod(
    name="lemoe",
    config=LemoeConfig,
    capabilities=Capabilities(
        changes_weights=False,
        defers=True,
        reversal=(
            "The edit no longer claims prompts, and an expert without edits is removed. An expert "
            "with other edits keeps what it learned from this edit until the lane is compacted."
        ),
        has_lane_models=True,
    ),
    opener=LemoeLane,
    planner=needs,
    presets={"paper": PAPER},
    defaults=new_lane,
    earlier_defaults=(lane_before_all_said, lane_before_questions, own_defaults),
)

__all__ = ["METHOD"]
