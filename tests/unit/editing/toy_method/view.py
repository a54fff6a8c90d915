"""Which prompts an edit claims, its own and no other, and what their rows get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.lane.claims import NO_CLAIM, Claim
from errata.editing.lane.inventory import Inventory, fact_of
from errata.editing.lane.reading import decide_over
from errata.editing.namespaces import Readings
from tests.unit.editing.toy_method.effect import Bias


@dataclass(frozen=True, eq=False, slots=True)
class ToyView:
    """Routes by what a lane held when the view was made."""

    inventory: Inventory
    layer: int

    @property
    def vector_view(self) -> None:
        """None: texts decide."""

    def claims(self, prompts: Sequence[str], readings: Readings = None) -> list[Claim]:
        def decide(namespace: str, numbers: Sequence[int], hidden: frozenset[str]) -> list[Claim]:
            repository = self.inventory.repository_of(namespace)
            found = [repository.edit_about(fact_of(prompts[number])) for number in numbers]
            return [Claim(e, 1.0, 0.0) if e and e not in hidden else NO_CLAIM for e in found]

        return decide_over(self.inventory, len(prompts), readings, decide)

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        return [self._plan(claim.edit) if claim.holds else BASE for claim in claims]

    def _plan(self, edit: str) -> RowPlan:
        return RowPlan((Bias(self.layer, self.inventory.value_of(edit)),), (edit,))
