"""LEMoE: experts beside a frozen FFN, one for each batch of edits.

Source: "LEMoE: Advanced Mixture of Experts Adaptor for Lifelong Model Editing of Large Language
Models" (Wang and Li, 2024). What its routing cannot do is said in docs/decisions/010-lemoe.md.
"""

from __future__ import annotations

from errata.editing.lane.contract import (
    Capabilities,
    Compaction,
    LaneModelSupport,
    Method,
    Ordering,
)
from errata.editing.lemoe.config import PAPER, LemoeConfig
from errata.editing.lemoe.fit import encode_all, fit, fit_anew, prepare
from errata.editing.lemoe.order import plan_order
from errata.editing.lemoe.state import LemoeState
from errata.editing.lemoe.view import LemoeRouter
from errata.editing.retriever.lane_model import read_bytes

METHOD = Method(
    name="lemoe",
    config=LemoeConfig,
    capabilities=Capabilities(
        changes_weights=False,
        defers=True,
        reversal=(
            "The edit claims nothing any more, and an expert without edits is dropped. What an "
            "expert with other edits learned of it stays in it until the lane is compacted."
        ),
    ),
    prepare=prepare,
    fit=fit,
    new_state=LemoeState,
    new_router=LemoeRouter,
    lane_model=LaneModelSupport(
        read=read_bytes,
        prepare=LemoeState.prepare_model,
        encode=encode_all,
        dump=LemoeState.dump,
        restore=LemoeState.restore,
        needed=lambda config: config.scope == "retriever",
    ),
    ordering=Ordering(
        size=lambda config: config.expert_edits,
        max_wait_seconds=lambda config: config.max_wait_seconds,
        plan=plan_order,
    ),
    compaction=Compaction(fit=fit_anew, prepare=LemoeState.prepare_compaction),
    report=LemoeState.report,
    presets={"paper": PAPER},
)

__all__ = ["METHOD"]
