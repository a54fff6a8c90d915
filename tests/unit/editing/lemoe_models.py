"""Small LEMoE lanes."""

from __future__ import annotations

from errata.editing.lemoe import METHOD
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.state import LemoeState
from tests.unit.editing import lanes

SMALL = LemoeConfig(scope="cosine", threshold=0.9, learning_rate=2e-2, steps=150, expert_edits=2)
LITERAL = SMALL.model_copy(update={"routing": "literal", "scope": "off", "threshold": None})


class Lane(lanes.Lane[LemoeState, None]):
    """A LEMoE lane."""

    method = METHOD
