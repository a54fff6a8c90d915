"""What the log knows about editing methods; it runs without torch, which the methods need.

A test compares this with the registry of methods.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Support:
    """Which entries the lanes of a method take.

    Attributes:
        lane_models: lane models; the lane's configuration can still exclude them.
        compaction: compactions.
        namespaces: edits outside the default namespace: its lanes decide for each request.
    """

    lane_models: bool
    compaction: bool
    namespaces: bool = True


METHODS = {
    "adaple": Support(lane_models=False, compaction=True, namespaces=False),
    "recipe": Support(lane_models=True, compaction=False),
    "elder": Support(lane_models=True, compaction=True),
    "lemoe": Support(lane_models=True, compaction=True),
}
