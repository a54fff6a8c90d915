"""Which prompts an edit claims, its own and no other, and what their rows get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.lane.claims import NO_CLAIM, Claim
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.repository import Repository
from tests.unit.editing.toy_method.effect import Bias


@dataclass(frozen=True, eq=False, slots=True)
class ToyView:
    """Routes by what a lane held when the view was made."""

    repository: Repository
    layer: int

    @property
    def vector_view(self) -> None:
        """None: texts decide."""

    def claims(self, prompts: Sequence[str]) -> list[Claim]:
        found = [self.repository.edit_about(fact_of(prompt)) for prompt in prompts]
        return [Claim(edit, 1.0, 0.0) if edit else NO_CLAIM for edit in found]

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        return [self._plan(claim.edit) if claim.holds else BASE for claim in claims]

    def _plan(self, edit: str) -> RowPlan:
        return RowPlan((Bias(self.layer, self.repository.value_of(edit)),), (edit,))
