"""AdaPLE: closed-form edits of the FFN down projections, fused by drop and rescale.

Source: "Can We Continually Edit Language Models? On the Knowledge Attenuation in Sequential Model
Editing". It has no public code; where the paper is silent or wrong, MEMIT and PMET (its base) or
a measurement decides, and the docstring says so.
"""

from __future__ import annotations

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.lane import AdapleLane
from errata.editing.lane.contract import Capabilities, SliceMethod

METHOD = SliceMethod(
    name="adaple",
    config=AdapleConfig,
    capabilities=Capabilities(
        changes_weights=True,
        defers=False,
        reversal=(
            "The edit's delta is absent: the weights are rebuilt from the base without it. Other "
            "edits of the same prompt hold as before; edits of other prompts that were fitted "
            "after it, on weights that held it, are not refitted."
        ),
    ),
    opener=AdapleLane,
)

__all__ = ["METHOD"]
