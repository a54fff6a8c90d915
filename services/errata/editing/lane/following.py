"""Options of fits that keep what the model says after an answer."""

from __future__ import annotations

from pydantic import Field

from errata.editing.lane.contract import LaneConfig


class KeepsFollowing(LaneConfig):
    """Configuration of a lane whose experts are on while an answer goes on.

    Attributes:
        num_following: number of tokens after each target whose likelihoods a fit keeps as they are
            without the edit (`editing.model.continuation`); 0 keeps none (paper), and experts that
            have learned many forms of text then repeat the answer. Ours.
        following_weight: of KL(base ‖ edited) of these tokens, a mean over them.
    """

    num_following: int = Field(default=0, ge=0, le=16)
    following_weight: float = Field(default=2.0, gt=0.0)

    @property
    def num_read_on(self) -> int:
        """Tokens that a fit reads after each target: the last of the following is only scored."""
        return max(0, self.num_following - 1)
