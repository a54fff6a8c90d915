"""The state that requests are admitted under: a version, and the router of its edits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from errata.editing.effects.plan import RowPlan
from errata.editing.lane.contract import Attribution
from errata.engine.sequence import Request, Version


@dataclass(frozen=True, eq=False, slots=True)
class PendingPlan:
    """A decision that a hidden state of the request's own prefill completes.

    Attributes:
        request: whose plan it is.
        plan: applies until then; has no prefix.
        router: completes it.
    """

    request: Request
    plan: RowPlan
    router: RequestRouter


Decision = RowPlan | PendingPlan
"""The final plan of a request, or one that its prefill completes."""


def initial_plan(decision: Decision) -> RowPlan:
    """The plan that applies when the prefill starts."""
    return decision.plan if isinstance(decision, PendingPlan) else decision


class RequestRouter(ABC):
    """Decides on the plans of requests under one version; called by the engine's thread.

    A router whose decisions are never pending implements only `before_prefill`.
    """

    @property
    def module(self) -> nn.Module | None:
        """The model's module whose input at each prompt's last token completes pending plans.

        None if no decision is ever pending.
        """
        return None

    @abstractmethod
    def before_prefill(
        self, requests: Sequence[Request], *, single_pass: bool
    ) -> Sequence[Decision]:
        """Decides on a batch of requests.

        Args:
            requests: at least one.
            single_pass: each prompt is read by a single prefill pass, which can complete its plan.

        Returns:
            One decision for each request; final plans only, unless `single_pass`.
        """

    def during_prefill(self, pending: Sequence[PendingPlan], states: Tensor) -> Sequence[RowPlan]:
        """Completes pending plans.

        Args:
            pending: decisions of this router.
            states: (n, …), the input of `module` at the last token of each prompt.

        Returns:
            One plan for each of `pending`, without prefixes: the prompts have been read.
        """
        raise NotImplementedError  # a router that leaves no plan pending is never asked


@dataclass(frozen=True, eq=False, slots=True)
class FunctionRouter(RequestRouter):
    """Decides by a function of the requests; no decision is ever pending.

    Attributes:
        plans: requests → one final plan for each.
    """

    plans: Callable[[Sequence[Request]], Sequence[RowPlan]]

    def before_prefill(
        self, requests: Sequence[Request], *, single_pass: bool
    ) -> Sequence[RowPlan]:
        """The function's plans."""
        return self.plans(requests)


@dataclass(frozen=True, eq=False, slots=True)
class ServingState:
    """The state that requests are admitted under.

    Attributes:
        version: of the log.
        attribution: names the edits that shaped a forward pass; None if no active edit needs it.
        router: decides on the plans of requests; None if no lane routes.
    """

    version: Version
    attribution: Attribution | None = None
    router: RequestRouter | None = None
