"""The knob of a toy lane."""

from __future__ import annotations

from errata.editing.lane.contract import LaneConfig


class ToyConfig(LaneConfig):
    """Configuration of a toy lane.

    Attributes:
        strength: length of a bias, against the spread of the LLM's output embeddings.
    """

    strength: float = 200.0
