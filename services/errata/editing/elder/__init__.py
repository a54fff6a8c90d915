"""ELDER: a mixture of LoRAs whose routers give each edit an allocation that identifies it.

Source: "Enhancing Lifelong Model Editing with Mixture-of-LoRA" (Li et al., 2024). Where the paper
and the authors' code differ, the docstring names both.
"""

from __future__ import annotations

from errata.editing.elder.config import (
    BANKS,
    EARLIER_BANKS,
    ONE_BANK,
    PAPER,
    ElderConfig,
    with_banks,
)
from errata.editing.elder.lane import ElderLane
from errata.editing.elder.needs import needs
from errata.editing.lane.contract import Capabilities
from errata.editing.lane.method import SliceMethod, own_defaults

METHOD = SliceMethod(
    name="elder",
    config=ElderConfig,
    capabilities=Capabilities(
        changes_weights=False,
        defers=True,
        reversal=(
            "The edit no longer claims any prompt. What the lane's experts learned from it stays "
            "in them until the lane is compacted."
        ),
        has_lane_models=True,
    ),
    opener=ElderLane,
    planner=needs,
    presets={"paper": PAPER, "one-bank": ONE_BANK},
    defaults=with_banks(BANKS),
    earlier_defaults=(*map(with_banks, EARLIER_BANKS), own_defaults),
)

__all__ = ["METHOD"]
