"""How a worker routes requests at one position of the log, by what all lanes decide on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from torch import Tensor, nn

from errata.editing.effects.plan import RowPlan
from errata.editing.lane.claims import Claim, VectorView
from errata.editing.namespaces import Readings
from errata.engine.sequence import Request
from errata.engine.serving_state import Decision, PendingPlan, RequestRouter
from errata.replica.routing_table import RoutingTable
from errata.worker.metrics import note_claims

AskClaims = Callable[
    [Sequence[str], Mapping[str, Tensor], Collection[str], Readings], list[dict[str, Claim]]
]
"""(prompts, vectors by lane, lanes, readings) → for each prompt, the claim of each of these."""


class LaneRouter(RequestRouter):
    """Routes by the lanes of a routing table.

    If exactly one lane decides by a hidden state of the LLM, that lane can decide during the
    prompt's own prefill. With several of them, the first to decide would change what the others
    read.
    """

    def __init__(self, table: RoutingTable, ask: AskClaims) -> None:
        """Routes under the table's position.

        Args:
            table: makes plans of claims.
            ask: decides on the claims, here or in the retrieval service.
        """
        self._table = table
        self._ask = ask
        by_state = list(_lanes_by_state(table))
        self._by_state = by_state[0] if len(by_state) == 1 else None

    @property
    def module(self) -> nn.Module | None:
        """The module whose input the lane with a hidden state reads; None if there is none."""
        return None if self._by_state is None else self._by_state[1].module

    def before_prefill(
        self, requests: Sequence[Request], *, single_pass: bool
    ) -> Sequence[Decision]:
        """Decides on a batch of requests; vectors that are needed now take passes of their own.

        Three kinds of prompts get a final plan before their prefill. Of a prompt that is read in
        parts, the first parts would pass all layers before the hidden state is known. After
        another lane's prefix, or inside a conversation, the hidden state would not be that of what
        the user says alone.
        """
        if self._by_state is None or not single_pass:
            return self._plans(requests, list(self._table.views))
        lane, _ = self._by_state
        others = [name for name in self._table.views if name != lane]
        plans = self._plans(requests, others)
        early = [
            number
            for number, (request, plan) in enumerate(zip(requests, plans, strict=True))
            if plan.num_positions or request.said_at is not None
        ]
        decisions: list[Decision] = [
            PendingPlan(request, plan, self) for request, plan in zip(requests, plans, strict=True)
        ]
        if early:
            final = self._plans([requests[n] for n in early], list(self._table.views))
            for number, plan in zip(early, final, strict=True):
                decisions[number] = plan
        return decisions

    def during_prefill(self, pending: Sequence[PendingPlan], states: Tensor) -> list[RowPlan]:
        """Adds the decision of the lane with a hidden state; the newest edit wins."""
        assert self._by_state is not None
        lane, view = self._by_state
        requests = [each.request for each in pending]
        claims = self._claims(requests, {lane: view.vectors_of(states)}, [lane])
        return [
            self._table.newest_of((each.plan, plan))
            for each, plan in zip(pending, self._table.plans(claims), strict=True)
        ]

    def _plans(self, requests: Sequence[Request], lanes: Sequence[str]) -> list[RowPlan]:
        """Plans by the decisions of some lanes, made now."""
        prompts = [request.prompt for request in requests]
        by_vector = self._table.by_vector
        vectors = {lane: by_vector[lane].vectors(prompts) for lane in lanes if lane in by_vector}
        plans = self._table.plans(self._claims(requests, vectors, lanes))
        return [
            plan.behind(request.said_at or 0) for plan, request in zip(plans, requests, strict=True)
        ]

    def _claims(
        self, requests: Sequence[Request], vectors: Mapping[str, Tensor], lanes: Sequence[str]
    ) -> list[dict[str, Claim]]:
        if not lanes:
            return [{} for _ in requests]
        prompts = [request.prompt for request in requests]
        canaries = self._table.canaries
        readings = [canaries.reading(each.reading, each.canary_key) for each in requests]
        claims = self._ask(prompts, vectors, lanes, readings)
        note_claims(claims)
        return claims


def _lanes_by_state(table: RoutingTable) -> Iterator[tuple[str, VectorView]]:
    """Lanes that decide by a hidden state of the LLM."""
    for lane, view in table.by_vector.items():
        if view.module is not None:
            yield lane, view
