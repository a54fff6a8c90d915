"""Which edits claim which prompts, as decided by all lanes together at one position of the log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import Tensor

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.lane.claims import Claim, RoutingView, VectorView

_NO_VECTORS: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, eq=False, slots=True)
class Routing:
    """What decides, at one position of the log, which prompts edits claim.

    Attributes:
        views: of the lanes that route and have edits in force, by lane.
        commit_seq: of every edit.
    """

    views: Mapping[str, RoutingView]
    commit_seq: Mapping[str, int]

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
    ) -> list[dict[str, Claim]]:
        """For each prompt, what each lane decided, in the order of `views`.

        Args:
            prompts: of a batch.
            vectors: (n, …) by lane, of those that decide by vectors; such a lane makes them itself
                where they are missing.
            lanes: that are asked; all if None.

        Raises:
            InvalidRequestError: a lane's vectors are missing, and there is no LLM to make them.
        """
        asked = [lane for lane in self.views if lanes is None or lane in lanes]
        if not asked:
            return [{} for _ in prompts]
        by_vector = self.by_vector
        found = [
            by_vector[lane].claims_of(vectors[lane])
            if lane in by_vector and lane in vectors
            else self.views[lane].claims(prompts)
            for lane in asked
        ]
        return [dict(zip(asked, row, strict=True)) for row in zip(*found, strict=True)]

    def plans(self, claims: Sequence[Mapping[str, Claim]]) -> list[RowPlan]:
        """What each row gets; when several lanes claim a row, the newest edit wins.

        Args:
            claims: of each row, by lane; the same lanes in all of them.
        """
        lanes = tuple(claims[0]) if claims else ()
        if not lanes:
            return [BASE] * len(claims)
        offers = [self.views[lane].plans([row[lane] for row in claims]) for lane in lanes]
        return [self.newest_of(row) for row in zip(*offers, strict=True)]

    def route(self, prompts: Sequence[str]) -> list[RowPlan]:
        """Decides here, on a whole batch of prompts."""
        return self.plans(self.claims(prompts))

    def winner(self, claims: Mapping[str, Claim]) -> str:
        """The newest edit of those that claim a prompt; empty if none does."""
        held = [claim.edit for claim in claims.values() if claim.holds]
        return max(held, key=lambda edit: self.commit_seq[edit], default="")

    def newest_of(self, plans: Sequence[RowPlan]) -> RowPlan:
        """The plan of the newest edit of those that claim a row; the base model's if none does."""
        claimed = [plan for plan in plans if plan.edits]
        won = max(claimed, key=lambda plan: self.commit_seq[plan.edits[0]], default=BASE)
        return replace(won, cut=True) if any(plan.cut for plan in plans) else won
