"""LEMoE: experts beside a frozen FFN, one for each batch of edits.

Source: "LEMoE: Advanced Mixture of Experts Adaptor for Lifelong Model Editing of Large Language
Models" (Wang and Li, 2024). What its routing cannot do is said in docs/decisions/010-lemoe.md.
"""

from __future__ import annotations

from errata.editing.lane.contract import Capabilities, SliceMethod
from errata.editing.lemoe.config import PAPER, LemoeConfig
from errata.editing.lemoe.lane import LemoeLane

METHOD = SliceMethod(
    name="lemoe",
    config=LemoeConfig,
    capabilities=Capabilities(
        changes_weights=False,
        defers=True,
        reversal=(
            "The edit claims nothing any more, and an expert without edits is dropped. What an "
            "expert with other edits learned of it stays in it until the lane is compacted."
        ),
        has_lane_models=True,
    ),
    opener=LemoeLane,
    presets={"paper": PAPER},
)

__all__ = ["METHOD"]
