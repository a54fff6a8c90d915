"""A fifth method that the services do not know: it brings a lane and an effect of its own."""

from __future__ import annotations

from errata.editing.lane.contract import Capabilities
from errata.editing.lane.method import SliceMethod
from tests.unit.editing.toy_method.config import ToyConfig
from tests.unit.editing.toy_method.lane import ToyLane

METHOD = SliceMethod(
    name="toy",
    config=ToyConfig,
    capabilities=Capabilities(changes_weights=False, defers=True, reversal="The bias is gone."),
    opener=ToyLane,
)

__all__ = ["METHOD"]
