"""Compaction: a lane learned anew from its edits in force, checked before anybody reads it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import structlog

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.lane.commits import Compaction
from errata.editing.lane.inventory import fact_of
from errata.editing.model.causal_lm import CausalLM
from errata.errors import CheckFailedError, PreconditionError
from errata.log.entries import Figures
from errata.replica.applier import OpenLane
from errata.writer import checks
from errata.writer.batching import seed_of
from errata.writer.fitting import TRIAL_SEQ

_log = structlog.get_logger(__name__)
_MOST_CHECKED = 500  # edits that are asked about before and after
DEFAULT_MAX_LOSS = 0.02


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for.

    Attributes:
        num_experts: among which edits are shared out; the method's own number if 0.
        max_loss: how much lower mean reliability, generality and locality may be afterwards.
    """

    num_experts: int = 0
    max_loss: float = DEFAULT_MAX_LOSS


@dataclass(frozen=True, slots=True)
class Compacted:
    """A compaction that passed its check.

    Attributes:
        artifact: bytes of what carries all edits.
        edits: their names, oldest first.
        seed: of the fit.
        before, after: mean figures of the edits that were asked about.
        sizes_before: of the lane.
    """

    artifact: bytes
    edits: tuple[str, ...]
    seed: int
    before: Figures
    after: Figures
    sizes_before: Mapping[str, int]


def compact(model: CausalLM, lane: OpenLane, edits: Sequence[Edit], order: Order) -> Compacted:
    """Fits all edits anew, tries the result on the model, measures, and takes it back.

    The model and the lane are unchanged afterwards, whatever happens.

    Args:
        model: of the writer.
        lane: applied as far as the log goes.
        edits: of the lane in force, oldest first.
        order: what is asked for.

    Raises:
        PreconditionError: the method has no compaction, or no edit is in force.
        CheckFailedError: mean reliability, generality or locality fell by more than allowed.
        InvalidRequestError, FitError: from the method.
    """
    name, retrain = lane.configured.lane, lane.lane.compact
    if retrain is None:
        raise PreconditionError(
            f"{name} edits with {lane.configured.method}, which carries nothing but its edits in "
            "force; there is nothing to compact.",
            lane=name,
        )
    if not edits:
        raise PreconditionError(f"{name} has no edit in force; there is nothing to compact.")
    seed = seed_of(lane.configured.config_digest, edits)
    asked = _asked(edits, seed)
    # What the probes say is taken as it is now: a compaction shall change nothing there either.
    baseline = checks.baseline(model, asked, lane.route)
    before = _mean(checks.measure(model, asked, baseline, lane.route))
    artifact = retrain(edits, num_experts=order.num_experts, seed=seed).to_bytes()
    names = tuple(edit.name for edit in edits)
    trial = Compaction(TRIAL_SEQ, names, Artifact.from_bytes(artifact))
    undo = lane.lane.prepare(trial).apply()
    try:
        after = _mean(checks.measure(model, asked, baseline, lane.route))
    finally:
        undo()
    _log.info("compaction tried", lane=name, num_edits=len(edits), reliability=after.reliability)
    for metric in ("reliability", "generality", "locality"):
        if getattr(before, metric) is not None:  # edits without rephrases have no generality
            _check(metric, getattr(before, metric), getattr(after, metric), order.max_loss)
    report = lane.lane.report()
    sizes = {} if report is None else report.sizes
    return Compacted(artifact, names, seed, before, after, sizes)


def _asked(edits: Sequence[Edit], seed: int) -> list[Edit]:
    """The newest edit of each fact, a sample of them if there are many."""
    newest = list({fact_of(edit.prompt): edit for edit in edits}.values())
    return random.Random(seed).sample(newest, min(_MOST_CHECKED, len(newest)))


def _check(metric: str, before: float, after: float, max_loss: float) -> None:
    if after < before - max_loss:
        raise CheckFailedError(
            f"{metric} would fall from {before:.3f} to {after:.3f}, {max_loss:.3f} is allowed; "
            "nothing was changed. Allow more, or ask for more experts if the method lets you.",
            metric=metric,
            value=f"{after:.4f}",
            limit=f"{before - max_loss:.4f}",
        )


def _mean(figures: Sequence[Figures]) -> Figures:
    known = [item.generality for item in figures if item.generality is not None]
    return Figures(
        reliability=fmean(item.reliability for item in figures),
        generality=fmean(known) if known else None,
        locality=fmean(item.locality for item in figures),
        already_answered=all(item.already_answered for item in figures),
    )
