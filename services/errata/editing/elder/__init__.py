"""ELDER: a mixture of LoRAs, whose routers give each edit an allocation that recognises it.

Source: "Enhancing Lifelong Model Editing with Mixture-of-LoRA" (Li et al., 2024). Where paper and
authors' code differ, the docstring names both.
"""

from __future__ import annotations

from errata.editing.elder.config import PAPER, ElderConfig
from errata.editing.elder.fit import encode_all, fit, fit_anew, prepare
from errata.editing.elder.memory import ElderMemory
from errata.editing.elder.state import ElderState
from errata.editing.elder.view import ElderRouter
from errata.editing.lane.contract import Capabilities, Compaction, LaneModelSupport, Method
from errata.editing.retriever.lane_model import read_bytes

METHOD = Method(
    name="elder",
    config=ElderConfig,
    capabilities=Capabilities(
        changes_weights=False,
        defers=True,
        reversal=(
            "The edit claims nothing any more. What the lane's experts learned of it stays in "
            "them until the lane is compacted."
        ),
    ),
    prepare=prepare,
    fit=fit,
    new_state=ElderState,
    new_memory=ElderMemory,
    new_router=ElderRouter,
    lane_model=LaneModelSupport(
        read=read_bytes,
        prepare=ElderState.prepare_model,
        encode=encode_all,
        dump=ElderState.dump,
        restore=ElderState.restore,
        needed=lambda config: config.scope == "retriever",
    ),
    compaction=Compaction(fit=fit_anew, prepare=ElderState.prepare_compaction),
    report=ElderState.report,
    presets={"paper": PAPER},
)

__all__ = ["METHOD"]
