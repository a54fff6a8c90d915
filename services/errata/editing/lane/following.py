"""Options of fits that keep what the model says after an answer, and what these fits need."""

from __future__ import annotations

from pydantic import Field

from errata.editing.lane.contract import LaneConfig
from errata.editing.lane.needs import EditLoad, Need, Work
from errata.editing.model.continuation import AT_ONCE
from errata.editing.model.shape import ModelShape


class KeepsFollowing(LaneConfig):
    """Configuration of a lane whose experts are on while an answer goes on.

    Attributes:
        num_following: number of tokens after each target whose likelihoods a fit keeps as they are
            without the edit (`editing.model.continuation`); 0 keeps none (paper), and experts that
            have learned many forms of text then repeat the answer. Ours.
        following_weight: of KL(base ‖ edited) of these tokens, a mean over those of each text.
    """

    num_following: int = Field(default=0, ge=0, le=16)
    following_weight: float = Field(default=2.0, gt=0.0)

    @property
    def num_read_on(self) -> int:
        """Tokens that a fit reads after each target: the last of the following is only scored."""
        return max(0, self.num_following - 1)


def following_needs(model: ModelShape, config: KeepsFollowing, load: EditLoad) -> list[Need]:
    """Keys and values of the texts that the model goes on with at once."""
    if not config.num_following:
        return []
    tokens = AT_ONCE * (load.text_tokens + config.num_read_on)
    return [
        Need(
            "keys and values of texts that go on",
            tokens * model.kv_width * model.element_bytes,
            f"{AT_ONCE}·T·kv·b",
            during="fit",
            is_estimate=True,
        )
    ]


def following_work(
    model: ModelShape, config: KeepsFollowing, texts: int, load: EditLoad
) -> list[Work]:
    """One pass of the whole model over the texts of a fit and what follows them."""
    if not config.num_following:
        return []
    tokens = texts * (load.text_tokens + config.num_read_on)
    return [Work("reading a fit's texts", 2 * tokens * model.num_block_parameters, "texts·T·2·P")]
