"""A replica's state of a LEMoE lane: experts with anchors, and which expert has which edit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from errata.editing.lane.routed import EMPTY
from errata.editing.lemoe.lane_experts import LaneExpert, SharedRouting
from errata.editing.retriever.gated_lane import GatedContents


@dataclass(frozen=True, eq=False)
class LemoeContents(GatedContents):
    """Contents of a lane; keys (n, width) and mean embeddings e (n, d) are in the inventory.

    Attributes:
        routing: None before the first commit.
        experts: oldest first.
        expert_of: edit → index of its expert.
    """

    routing: SharedRouting | None = None
    experts: tuple[LaneExpert, ...] = ()
    expert_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def anchors(self) -> Tensor:
        """(t, d) fp32 in host memory, t at least 1."""
        return torch.stack([expert.anchor for expert in self.experts])

    def digests(self) -> Iterator[bytes]:
        """Of lane model, shared routing, experts, edits, and of which expert learned which edit."""
        yield bytes.fromhex(self.model_digest)
        if self.routing is not None:
            yield self.routing.digest
        for expert in self.experts:
            yield expert.digest
        yield self.inventory.digests()
        yield repr([self.expert_of[name] for name in self.inventory.names]).encode()

    def without(self, edits: Collection[str]) -> LemoeContents:
        """Removes these edits' claims, and experts without remaining edits.

        A lane without edits has no projection either: it equals the lane before the first edit.

        Raises:
            EditNotRevertibleError: an edit is not active.
        """
        inventory = self.inventory.without(edits)
        if not inventory.names:
            return LemoeContents(EMPTY, self.gate)
        remaining = {name: self.expert_of[name] for name in inventory.names}
        used = sorted(set(remaining.values()))
        new_index = {old: new for new, old in enumerate(used)}
        return replace(
            self,
            experts=tuple(self.experts[old] for old in used),
            expert_of={name: new_index[old] for name, old in remaining.items()},
            inventory=inventory,
        )
