"""How plans change a forward pass: each effect's hooks follow the current `BatchPlan`.

A hook is registered when the first plan needs it, and stays. Rows without a claim are not
touched at all, so their bits are those of the unhooked pass of the same shape (P8).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Never, TypeVar, cast

from errata.editing.effects.effect import BatchEffect, EffectHooks
from errata.editing.effects.plan import BatchPlan
from errata.editing.model.causal_lm import CausalLM

B = TypeVar("B", bound=BatchEffect)


class PlanHooks:
    """The hooks of one model.

    Attributes:
        enabled: if False, plans have no effect; comparisons use this as their baseline.
    """

    def __init__(self, model: CausalLM) -> None:
        """Use `of`: hooks stay registered, and a second object would add redundant ones."""
        self._model = model
        self._hooks: dict[type[BatchEffect], EffectHooks[Never]] = {}
        self.enabled = True

    @classmethod
    def of(cls, model: CausalLM) -> PlanHooks:
        """The hooks of a model; none is registered before the first plan that needs it."""
        if not isinstance(model.plan_hooks, cls):
            model.plan_hooks = cls(model)
        return model.plan_hooks

    @contextmanager
    def applied(self, plan: BatchPlan) -> Iterator[None]:
        """Applies `plan` to the passes inside; one batch at a time."""
        try:
            self._start(plan)
            yield
        finally:
            self._stop()

    def follow(self, plan: BatchPlan) -> None:
        """Applies another plan to the rest of the current pass."""
        self._stop()
        self._start(plan)

    def _start(self, plan: BatchPlan) -> None:
        for batch in plan.effects:
            hooks = self._hooks_of(batch)
            hooks.register(batch)
            if self.enabled:
                hooks.follow(batch)

    def _stop(self) -> None:
        for hooks in self._hooks.values():
            hooks.follow(None)

    def _hooks_of(self, batch: B) -> EffectHooks[B]:
        found = self._hooks.get(type(batch))
        if found is None:
            found = self._hooks[type(batch)] = batch.new_hooks(self._model)
        return cast(EffectHooks[B], found)  # hooks are stored by their batch's type
