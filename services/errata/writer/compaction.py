"""Compaction: retrains a lane from its active edits and checks it before it is committed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import structlog

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.lane.commits import Compaction
from errata.editing.lane.inventory import fact_of
from errata.editing.model.causal_lm import CausalLM
from errata.editing.namespaces import is_canary_place, reading_for
from errata.errors import CheckFailedError, PreconditionError
from errata.log.entries import Figures
from errata.replica.open_lane import OpenLane
from errata.writer import checks
from errata.writer.batching import seed_of
from errata.writer.fitting import TRIAL_SEQ

_log = structlog.get_logger(__name__)
_MAX_CHECKED = 500  # edits that are measured before and after
DEFAULT_MAX_LOSS = 0.02


@dataclass(frozen=True, slots=True)
class CompactionOptions:
    """The options of a compaction request.

    Attributes:
        num_experts: number of experts that share the edits; 0 uses the method's own number.
        max_loss: how far mean reliability, generality and locality can fall.
    """

    num_experts: int = 0
    max_loss: float = DEFAULT_MAX_LOSS


@dataclass(frozen=True, slots=True)
class Compacted:
    """A compaction that passed its check.

    Attributes:
        artifact: bytes of the artifact that carries all edits.
        edits: their names, oldest first.
        seed: of the fit.
        before, after: mean figures of the measured edits.
        sizes_before: sizes of the lane before the compaction.
    """

    artifact: bytes
    edits: tuple[str, ...]
    seed: int
    before: Figures
    after: Figures
    sizes_before: Mapping[str, int]


def compact(
    model: CausalLM, lane: OpenLane, edits: Sequence[Edit], order: CompactionOptions
) -> Compacted:
    """Retrains the lane from all edits, applies the result to the model, measures it, undoes it.

    The model and the lane are unchanged afterwards, whatever happens.

    Args:
        model: of the writer.
        lane: applied as far as the log goes.
        edits: active edits of the lane, oldest first.
        order: what the request asks for.

    Raises:
        PreconditionError: the method has no compaction, no edit is active, or edits of several
            namespaces or of an open canary are.
        CheckFailedError: mean reliability, generality or locality fell by more than allowed.
        InvalidRequestError, FitError: from the method.
    """
    name, retrain = lane.configured.lane, lane.lane.compact
    if retrain is None:
        raise PreconditionError(
            f"{name} uses {lane.configured.method}, which holds nothing but its active edits; "
            "there is nothing to compact.",
            lane=name,
        )
    if not edits:
        raise PreconditionError(f"{name} has no active edit; there is nothing to compact.")
    namespace = _only_namespace(name, edits)
    route = partial(lane.route, reading=reading_for(namespace))
    seed = seed_of(lane.configured.config_digest, edits)
    sample = _sample_of(edits, seed)
    # The probes' current answers are the baseline: a compaction must not change these either.
    baseline = checks.baseline(model, sample, route)
    before = _mean(checks.measure(model, sample, baseline, route))
    artifact = retrain(edits, num_experts=order.num_experts, seed=seed).to_bytes()
    names = tuple(edit.name for edit in edits)
    outside = dict.fromkeys(names, namespace) if namespace else {}
    trial = Compaction(TRIAL_SEQ, names, Artifact.from_bytes(artifact), outside)
    undo = lane.lane.prepare(trial).apply()
    try:
        after = _mean(checks.measure(model, sample, baseline, route))
    finally:
        undo()
    _log.info("compaction tried", lane=name, num_edits=len(edits), reliability=after.reliability)
    for metric in ("reliability", "generality", "locality"):
        if getattr(before, metric) is not None:  # edits without rephrases have no generality
            _check(metric, getattr(before, metric), getattr(after, metric), order.max_loss)
    report = lane.lane.report()
    sizes = {} if report is None else report.sizes
    return Compacted(artifact, names, seed, before, after, sizes)


def _only_namespace(name: str, edits: Sequence[Edit]) -> str:
    """The namespace of a lane's edits.

    Raises:
        PreconditionError: there are several, or one of an open canary.
    """
    on_trial = sorted({edit.canary for edit in edits if is_canary_place(edit.namespace)})
    if on_trial:
        raise PreconditionError(
            f"{name} has edits of the open canary {on_trial[0]}, which a compaction would let "
            "share experts with those that every request reads; end the canary first.",
            lane=name,
            canary=on_trial[0],
        )
    namespaces = {edit.namespace for edit in edits}
    if len(namespaces) > 1:
        raise PreconditionError(
            f"{name} has edits of {len(namespaces)} namespaces, which a compaction would let share "
            "experts; compact lanes of one namespace only.",
            lane=name,
        )
    return min(namespaces)


def _sample_of(edits: Sequence[Edit], seed: int) -> list[Edit]:
    """A sample of at most `_MAX_CHECKED` edits, each the newest of its fact."""
    newest = list({fact_of(edit.said): edit for edit in edits}.values())
    return random.Random(seed).sample(newest, min(_MAX_CHECKED, len(newest)))


def _check(metric: str, before: float, after: float, max_loss: float) -> None:
    if after < before - max_loss:
        raise CheckFailedError(
            f"{metric} would fall from {before:.3f} to {after:.3f}; {max_loss:.3f} is allowed. "
            "Nothing was changed. Allow a larger loss, or request more experts if the method "
            "supports that.",
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
