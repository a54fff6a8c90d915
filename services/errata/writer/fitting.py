"""Fits a batch and checks it on the writer's own model; rejects edits that fail individually."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import structlog

from errata.editing.artifact import Artifact
from errata.editing.edit import LAST_ATTEMPT, Edit, EditBatch
from errata.editing.lane.commits import Commit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.namespaces import reading_for
from errata.errors import (
    CheckFailedError,
    ErrataError,
    FitError,
    LaneFullError,
    traceback_of,
)
from errata.log.entries import Figures, Rejection
from errata.platform.settings import WriterSettings
from errata.replica.open_lane import OpenLane
from errata.writer import checks
from errata.writer.batching import seed_of

_log = structlog.get_logger(__name__)

# Above every position that the log can reach during a trial, so that the trial is the newest.
TRIAL_SEQ = 2**62


@dataclass(frozen=True, slots=True)
class Fitted:
    """A batch that was fitted and passed its check."""

    edits: tuple[Edit, ...]
    figures: tuple[Figures, ...]
    artifact: bytes
    memory: bytes | None
    seed: int


@dataclass(frozen=True, slots=True)
class FitOutcome:
    """The outcome of a batch.

    Attributes:
        fitted: the batch to commit; None if no edit passed.
        rejections: edits that failed individually.
        retry_alone: edits that failed in a batch; they stay pending and are retried individually.
        seconds: wall-clock time of the parts, summed over all attempts.
    """

    fitted: Fitted | None
    rejections: tuple[Rejection, ...]
    retry_alone: frozenset[str]
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def settled(self) -> frozenset[str]:
        """Edits that need no further fit."""
        fitted = self.fitted.edits if self.fitted else ()
        return frozenset(
            [edit.name for edit in fitted] + [rejection.edit for rejection in self.rejections]
        )


def fit_batch(
    model: CausalLM,
    lane: OpenLane,
    edits: Sequence[Edit],
    limits: WriterSettings,
) -> FitOutcome:
    """Fits as many of `edits` together as pass their checks.

    1. Fit all edits, apply the result to the model, measure it and undo it.
    2. If some failed, fit the others again without them; failed edits are retried individually.
    3. If all failed, or the fit raised an error, continue with the first half; the rest stays
       pending. If the lane is full for every edit, all are rejected at once.
    4. An edit that fails individually is fitted again, more strongly, before it is rejected.

    The model is unchanged afterwards, whatever happens.
    """
    remaining, retry, attempt = list(edits), frozenset[str](), 0
    seconds: defaultdict[str, float] = defaultdict(float)
    while True:
        single = len(remaining) == 1
        try:
            fitted, failures = _attempt(model, lane, remaining, limits, attempt, seconds)
        except Exception as caught:  # noqa: BLE001 an edit that breaks a fit must not end the writer
            error = caught if isinstance(caught, ErrataError) else _as_fit_error(caught)
            fitted, failures = None, [Rejection(edit.name, error, None) for edit in remaining]
        if not failures:
            return FitOutcome(fitted, (), retry, seconds)
        no_room = [r.error for r in failures if isinstance(r.error, LaneFullError)]
        lane_is_full = any(error.lane_is_full for error in no_room)
        if lane_is_full or (single and (no_room or attempt == LAST_ATTEMPT)):
            return FitOutcome(None, tuple(failures), retry, seconds)
        if single:
            attempt += 1
            continue
        failed = {rejection.edit for rejection in failures}
        _log.info("batch failed its check", num_edits=len(remaining), num_failed=len(failed))
        if len(failed) < len(remaining):
            retry |= failed
            remaining = [edit for edit in remaining if edit.name not in failed]
        else:
            remaining = remaining[: len(remaining) // 2]


def _as_fit_error(error: Exception) -> FitError:
    """Hides the cause, which can contain other users' texts; the writer's log has it."""
    _log.error("the fit failed", exception=traceback_of(error))
    return FitError(f"the fit failed ({type(error).__name__}); see the writer's log.")


def _attempt(
    model: CausalLM,
    lane: OpenLane,
    edits: Sequence[Edit],
    limits: WriterSettings,
    attempt: int,
    seconds: defaultdict[str, float],
) -> tuple[Fitted, list[Rejection]]:
    start = perf_counter()
    place = edits[0].namespace  # the batch has one
    outside = {edit.name: place for edit in edits} if place else {}
    route = partial(lane.route, reading=reading_for(place))
    before = checks.baseline(model, edits, route)
    seconds["check"] += perf_counter() - start
    batch = EditBatch(tuple(edits), seed_of(lane.configured.config_digest, edits), attempt)
    result = lane.lane.fit(batch)
    for part, value in result.seconds.items():
        seconds[part] += value
    start = perf_counter()
    artifact = result.artifact.to_bytes()
    names = tuple(edit.name for edit in edits)
    # The trial applies what replicas will read back from the bytes.
    commit = Commit(TRIAL_SEQ, names, Artifact.from_bytes(artifact), namespaces=outside)
    undo = lane.lane.prepare(commit).apply()
    try:
        figures = checks.measure(model, edits, before, route)
    finally:
        undo()
    seconds["check"] += perf_counter() - start
    failures = [
        Rejection(edit.name, error, measured)
        for edit, measured in zip(edits, figures, strict=True)
        if (error := _verdict(measured, limits)) is not None
    ]
    memory = result.memory.to_bytes() if result.memory is not None else None
    return Fitted(tuple(edits), tuple(figures), artifact, memory, batch.seed), failures


def _verdict(figures: Figures, limits: WriterSettings) -> CheckFailedError | None:
    for name, value, limit in (
        ("reliability", figures.reliability, limits.min_reliability),
        ("locality", figures.locality, limits.min_locality),
    ):
        if value < limit:
            return CheckFailedError(
                f"{name} is {value:.2f} after the fit; at least {limit:.2f} is required.",
                metric=name,
                value=f"{value:.4f}",
                limit=f"{limit:.4f}",
            )
    return None
