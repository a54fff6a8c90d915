"""The schedule of a training: its stages, its learning rates, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping

from errata.editing.retriever.checkpoints import Run, Stage
from errata.editing.retriever.training_config import TrainingConfig

_LOWEST_RATE = 0.05  # of the maximum, at the end of the cosine schedule


class Schedule:
    """The schedule of one training. Progress is by steps or by time, whichever is further.

    Attributes:
        bounds: each stage's share of the training, as (begin, end), from 0 to 1.
    """

    def __init__(self, config: TrainingConfig, max_seconds: float) -> None:
        """Divides the training into stages.

        Args:
            config: of the training.
            max_seconds: limit of the wall-clock time of all runs.
        """
        self._config, self._max_seconds = config, max_seconds
        self.bounds: Mapping[Stage, tuple[float, float]] = _bounds(config)

    @property
    def first(self) -> Stage:
        """The first stage."""
        return next(iter(self.bounds))

    def done(self, run: Run) -> float:
        """The completed share of the training, 0 to 1."""
        by_steps = run.step / self._config.max_steps
        return min(1.0, max(by_steps, run.seconds / self._max_seconds))

    def stage(self, run: Run) -> Stage:
        """The stage of the next step; there must be one."""
        done = self.done(run)
        return next(name for name, (_, end) in self.bounds.items() if done < end)

    def is_stuck(self, run: Run) -> bool:
        """Whether the validation score has not improved for `patience` validations.

        Only the last stage can stop early: before it, the score does not include MLP_P.
        """
        patience = self._config.patience * self._config.evaluate_every
        is_last = run.stage in ("all", "prompts")
        return is_last and run.step - run.best_step > patience

    def rate(self, run: Run) -> float:
        """The factor on the maximum learning rates for the next step."""
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
