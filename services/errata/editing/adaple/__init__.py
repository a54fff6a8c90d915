"""AdaPLE: closed-form edits of the FFN down projections, fused by drop and rescale.

Source: "Can We Continually Edit Language Models? On the Knowledge Attenuation in Sequential Model
Editing". No public code exists. Where the paper is silent or wrong, this package follows MEMIT and
PMET (the paper's base) or a measurement, and the docstring says so.
"""

from __future__ import annotations

from errata.editing.adaple.config import PAPER, AdapleConfig, new_lane
from errata.editing.adaple.lane import AdapleLane
from errata.editing.adaple.needs import needs
from errata.editing.lane.contract import Capabilities
from errata.editing.lane.method import SliceMethod

METHOD = SliceMethod(
    name="adaple",
    config=AdapleConfig,
    capabilities=Capabilities(
        changes_weights=True,
        defers=False,
        reversal=(
            "The edit's delta is removed: the weights are rebuilt from the base without it. Other "
            "edits of the same prompt keep their effect; edits of other prompts that were fitted "
            "later, on weights that contained it, are not refitted."
        ),
    ),
    opener=AdapleLane,
    planner=needs,
    presets={"paper": PAPER},
    defaults=new_lane,
)

__all__ = ["METHOD"]
