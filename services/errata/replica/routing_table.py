"""Decides with all lanes which edits claim which prompts, at one position of the log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import Tensor

from errata.editing.canaries import NO_CANARIES, Canaries
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.lane.claims import Claim, RoutingView, VectorView
from errata.editing.namespaces import DEFAULT_ONLY, Reading, Readings

_NO_VECTORS: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, eq=False, slots=True)
class RoutingTable:
    """The lanes' views at one position of the log, and the order of all edits.

    Attributes:
        views: of the lanes that route and have active edits, by lane.
        commit_seq: log position of each edit's commit.
        canaries: the open ones.
    """

    views: Mapping[str, RoutingView]
    commit_seq: Mapping[str, int]
    canaries: Canaries = NO_CANARIES

    @property
    def by_vector(self) -> dict[str, VectorView]:
        """Lanes that decide by vectors which only the LLM makes."""
        views = {lane: view.vector_view for lane, view in self.views.items()}
        return {lane: view for lane, view in views.items() if view is not None}

    def claims(
        self,
        prompts: Sequence[str],
        vectors: Mapping[str, Tensor] = _NO_VECTORS,
        lanes: Collection[str] | None = None,
        readings: Readings = None,
    ) -> list[dict[str, Claim]]:
        """For each prompt, the claim of each lane, in the order of `views`.

        Args:
            prompts: of a batch.
            vectors: (n, …) by lane, for lanes that decide by vectors; a lane without them computes
                its own.
            lanes: decide; all of them if None.
            readings: the namespaces that each prompt reads.

        Raises:
            InvalidRequestError: a lane's vectors are missing, and there is no LLM to compute them.
        """
        asked = [lane for lane in self.views if lanes is None or lane in lanes]
        if not asked:
            return [{} for _ in prompts]
        by_vector = self.by_vector
        by_lane = [
            by_vector[lane].claims_of(vectors[lane], readings)
            if lane in by_vector and lane in vectors
            else self.views[lane].claims(prompts, readings)
            for lane in asked
        ]
        return [dict(zip(asked, row, strict=True)) for row in zip(*by_lane, strict=True)]

    def plans(self, claims: Sequence[Mapping[str, Claim]]) -> list[RowPlan]:
        """The plan of each row; if several lanes claim a row, the newest edit wins.

        Args:
            claims: of each row, by lane; the same lanes in all of them.
        """
        lanes = tuple(claims[0]) if claims else ()
        if not lanes:
            return [BASE] * len(claims)
        by_lane = [self.views[lane].plans([row[lane] for row in claims]) for lane in lanes]
        return [self.newest_of(row) for row in zip(*by_lane, strict=True)]

    def route(self, prompts: Sequence[str], reading: Reading = DEFAULT_ONLY) -> list[RowPlan]:
        """Decides in this process on a batch of prompts, all of which read the same."""
        return self.plans(self.claims(prompts, readings=[reading] * len(prompts)))

    def winner(self, claims: Mapping[str, Claim]) -> str:
        """The newest edit of those that claim a prompt; empty if none does."""
        holding = [claim.edit for claim in claims.values() if claim.holds]
        return max(holding, key=lambda edit: self.commit_seq[edit], default="")

    def newest_of(self, plans: Sequence[RowPlan]) -> RowPlan:
        """The plan of the newest edit of those that claim a row; the base model's if none does."""
        claimed = [plan for plan in plans if plan.edits]
        won = max(claimed, key=lambda plan: self.commit_seq[plan.edits[0]], default=BASE)
        return replace(won, cut=True) if any(plan.cut for plan in plans) else won
