"""When the stages of a training begin and end, and how large its steps are."""

from __future__ import annotations

import math
from collections.abc import Mapping

from errata.editing.retriever.checkpoints import Run, Stage
from errata.editing.retriever.training_config import TrainingConfig

_LOWEST_RATE = 0.05  # of the cosine schedule's highest


class Schedule:
    """The schedule of one training, by steps or by time, whichever is further.

    Attributes:
        bounds: each stage's share of the training, as (begin, end), from 0 to 1.
    """

    def __init__(self, config: TrainingConfig, max_seconds: float) -> None:
        """Plans a training.

        Args:
            config: of the training.
            max_seconds: of training, all calls together.
        """
        self._config, self._max_seconds = config, max_seconds
        self.bounds: Mapping[Stage, tuple[float, float]] = _bounds(config)

    @property
    def first(self) -> Stage:
        """The stage that a training begins with."""
        return next(iter(self.bounds))

    def done(self, run: Run) -> float:
        """The share of the training that is done, 0 to 1."""
        by_steps = run.step / self._config.max_steps
        return min(1.0, max(by_steps, run.seconds / self._max_seconds))

    def stage(self, run: Run) -> Stage:
        """The stage that the next step belongs to; the training must not be done."""
        done = self.done(run)
        return next(name for name, (_, end) in self.bounds.items() if done < end)

    def is_stuck(self, run: Run) -> bool:
        """Whether no validation was better for too long.

        Only the last stage can end early: validation scores mean nothing before MLP_P learns.
        """
        patience = self._config.patience * self._config.evaluate_every
        is_last = run.stage in ("all", "prompts")
        return is_last and run.step - run.best_step > patience

    def rate(self, run: Run) -> float:
        """The factor on the highest learning rates for the next step."""
        if self._config.schedule == "constant":
            return 1.0
        begin, end = self.bounds[run.stage]
        warm = (run.step - run.stage_began + 1) / max(1, self._config.warmup_steps)
        done = (self.done(run) - begin) / (end - begin)
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return min(1.0, warm) * (_LOWEST_RATE + (1 - _LOWEST_RATE) * falling)


def _bounds(config: TrainingConfig) -> dict[Stage, tuple[float, float]]:
    if config.stages == "joint":
        return {"all": (0.0, 1.0)}
    if config.stages == "prompts":
        return {"prompts": (0.0, 1.0)}
    second = config.retriever_share
    third = second + config.scope_share
    return {"retriever": (0.0, second), "scope": (second, third), "prompts": (third, 1.0)}
