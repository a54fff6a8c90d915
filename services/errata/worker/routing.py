"""How a worker routes its requests at one position of the log: here, or by the service."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor, nn

from errata.editing.effects.plan import RowPlan
from errata.editing.lane.claims import Claim, VectorView
from errata.engine.sequence import LateRoute, Request, Route
from errata.replica.routing import Routing
from errata.worker.metrics import note_claims

Ask = Callable[[Sequence[str], Mapping[str, Tensor], Collection[str]], list[dict[str, Claim]]]
"""(prompts, vectors by lane, lanes) → what each of these lanes decided on each prompt."""


def whole(routing: Routing, ask: Ask) -> Route:
    """Decides before prompts are read; vectors are made by passes of their own."""

    def route(requests: Sequence[Request]) -> list[RowPlan]:
        prompts = [request.prompt for request in requests]
        vectors = {lane: view.vectors(prompts) for lane, view in routing.by_vector.items()}
        return routing.plans(_asked(ask, prompts, vectors, list(routing.views)))

    return route


def late(routing: Routing, ask: Ask) -> LateRoute | None:
    """Decides while prompts are read; None unless exactly one lane goes by a hidden state.

    With several of them the first to decide would change what the others read.
    """
    found = [(lane, view, view.module) for lane, view in routing.by_vector.items()]
    read = [(lane, view, module) for lane, view, module in found if module is not None]
    if len(read) != 1:
        return None
    ((lane, view, module),) = read
    return _late(routing, ask, lane, view, module)


def _late(routing: Routing, ask: Ask, lane: str, view: VectorView, module: nn.Module) -> LateRoute:
    others = [name for name in routing.views if name != lane]

    def early(requests: Sequence[Request]) -> list[RowPlan]:
        prompts = [request.prompt for request in requests]
        by_vector = routing.by_vector
        vectors = {name: by_vector[name].vectors(prompts) for name in others if name in by_vector}
        return routing.plans(_asked(ask, prompts, vectors, others))

    def decide(
        requests: Sequence[Request], plans: Sequence[RowPlan], states: Tensor
    ) -> list[RowPlan]:
        prompts = [request.prompt for request in requests]
        claims = _asked(ask, prompts, {lane: view.vectors_of(states)}, [lane])
        return [routing.newest_of(pair) for pair in zip(plans, routing.plans(claims), strict=True)]

    return LateRoute(module, early, decide)


def _asked(
    ask: Ask,
    prompts: Sequence[str],
    vectors: Mapping[str, Tensor],
    lanes: Sequence[str],
) -> list[dict[str, Claim]]:
    if not lanes:
        return [{} for _ in prompts]
    claims = ask(prompts, vectors, lanes)
    note_claims(claims)
    return claims
