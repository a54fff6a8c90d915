"""How a batch of edits becomes one more expert, or a whole lane fewer experts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.contexts import openings, training_texts
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.contract import FitResult, Resources
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.repository import Rows
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.experts import Shape
from errata.editing.lemoe.lane_experts import LaneExpert, SharedRouting, placed
from errata.editing.lemoe.order import plan_order
from errata.editing.lemoe.packing import pack, pack_rows
from errata.editing.lemoe.projection import Projection
from errata.editing.lemoe.state import LemoeContents
from errata.editing.lemoe.training import Earlier, Trained, TrainingSet, train
from errata.editing.model.causal_lm import CausalLM
from errata.editing.retriever.gate import Gate
from errata.editing.scope import (
    calibrated_cosine,
    document_frequencies,
    first_paragraphs,
    held_out_prompts,
    mean_embeddings,
    unit,
)
from errata.errors import FitError, InvalidRequestError, LaneFullError


@dataclass(frozen=True, eq=False, slots=True)
class Statistics:
    """What fits of a lane need of the statistics text.

    Attributes:
        held_out: mean embeddings of prompts that no edit is about, of length 1, (m, d) fp32; empty
            where no test is calibrated on them.
        idf: inverse document frequency of each token, (V) fp32; empty where no test goes by it.
        contexts: that prompts are learned behind.
    """

    held_out: Tensor
    idf: Tensor
    contexts: tuple[str, ...]


def fit(
    model: CausalLM,
    batch: EditBatch,
    config: LemoeConfig,
    held: LemoeContents,
    statistics: Statistics,
) -> FitResult:
    """Trains a new expert on a batch (LEMoE §3); earlier experts are not changed.

    Args:
        model: carries no edit of this lane; unchanged afterwards.
        batch: edits and the seed; a later attempt takes more steps.
        config: of the lane.
        held: earlier experts.
        statistics: from `gather`.

    Returns:
        Artifact with the new expert, its anchor, and the edits' keys and embeddings; seconds of
        `encode` and `train`.

    Raises:
        InvalidEditError: an edit cannot be tokenised.
        LaneFullError: the lane has as many experts as it may have.
        FitError: the expert is not finite.
    """
    start = perf_counter()
    shape = Shape.of(model, config)
    if len(held.experts) >= config.max_experts:
        raise LaneFullError(
            f"the lane has {len(held.experts)} experts, its limit; {config.way_out}.",
            lane_is_full=True,
            taken=len(held.experts),
        )
    rows = encode(model, config, held.gate, statistics.idf, batch.edits)
    projection = _projection(shape, config, held.routing, batch.seed).to(model.device)
    taught = _training_set(model, batch.edits, rows.values, config, statistics, held.gate)
    earlier = _earlier(model, shape, config, held.experts, rows.values[:0], projection)
    encoded = perf_counter()
    more = config.model_copy(update={"steps": config.steps * (1 + batch.attempt)})
    trained = train(model, shape, taught, earlier, more, batch.seed)
    stored = held.repository.keys if held.repository.num_rows else rows.keys[:0]
    limit = _limit(config, statistics, torch.cat([stored, rows.keys]))
    artifact = pack(
        model,
        held.model_digest,
        rows,
        SharedRouting.of(shape, trained.projection, limit, statistics.idf),
        [_lane_expert(model, shape, trained)],
        [0] * len(batch),
        with_projection=held.routing is None or config.routing == "literal",
    )
    seconds = {"encode": encoded - start, "train": perf_counter() - encoded}
    return FitResult(artifact, None, seconds)


def retrain(
    model: CausalLM,
    edits: Sequence[Edit],
    config: LemoeConfig,
    held: LemoeContents,
    statistics: Statistics,
    *,
    num_experts: int,
    seed: int,
) -> Artifact:
    """Shares all active edits among few experts and trains each expert on its own.

    Edits that a newer one supersedes stay active behind it: they get experts of their own, for no
    expert can learn two answers to one prompt.

    Args:
        model: of the writer.
        edits: all active edits of the lane, oldest first.
        config: of the lane.
        held: its gate and its projection stay.
        statistics: from `gather`.
        num_experts: for the edits that answer; 0 takes as many as `expert_edits` asks for.
        seed: of clusters and experts.

    Raises:
        InvalidRequestError: more experts than the lane may have or than there are edits, or
            routing is `literal`, whose keys depend on the order of fits.
        FitError: an expert is not finite.
    """
    if config.routing == "literal":
        raise InvalidRequestError(
            "literal routing cannot be compacted: its keys were trained one after the other.",
            field="lane",
        )
    shape = Shape.of(model, config)
    batches = _shared_out(model, edits, config, num_experts, seed)
    if len(batches) > config.max_experts:
        raise InvalidRequestError(
            f"{len(batches)} experts would be needed, the lane may have {config.max_experts}; ask "
            "for fewer.",
            field="num_experts",
        )
    projection = _projection(shape, config, held.routing, seed).to(model.device)
    rows = encode(model, config, held.gate, statistics.idf, edits)
    alone = Earlier([], rows.values[:0], projection)
    experts, owners = [], dict[int, int]()
    for number, batch in enumerate(batches):
        part = [edits[index] for index in batch]
        taught = _training_set(model, part, rows.values[batch], config, statistics, held.gate)
        steps = config.steps * math.ceil(len(part) / config.expert_edits)
        more = config.model_copy(update={"steps": steps})
        trained = train(model, shape, taught, alone, more, seed + number)
        experts.append(_lane_expert(model, shape, trained))
        owners |= dict.fromkeys(batch, number)
    limit = _limit(config, statistics, rows.keys)
    routing = SharedRouting.of(shape, projection, limit, statistics.idf)
    order = [owners[index] for index in range(len(edits))]
    return pack(model, held.model_digest, rows, routing, experts, order, with_projection=True)


def _shared_out(
    model: CausalLM, edits: Sequence[Edit], config: LemoeConfig, num_experts: int, seed: int
) -> list[list[int]]:
    """Numbers of edits for each expert; no fact is twice in one."""
    left = list(range(len(edits)))
    batches: list[list[int]] = []
    while left:
        newest = sorted({fact_of(edits[index].prompt): index for index in left}.values())
        asked = 0 if batches else num_experts
        if asked > len(newest):
            raise InvalidRequestError(
                f"{num_experts} experts for {len(newest)} edits; ask for fewer.",
                field="num_experts",
            )
        part = [edits[index] for index in newest]
        planned = plan_order(model, config, part, seed, asked)
        batches += [[newest[index] for index in batch] for batch in planned]
        left = sorted(set(left) - set(newest))
    return batches


def encode(
    model: CausalLM,
    config: LemoeConfig,
    gate: Gate | None,
    idf: Tensor,
    edits: Sequence[Edit],
) -> Rows:
    """Keys by which the scope test finds edits, and e of their prompts."""
    prompts = [edit.prompt for edit in edits]
    e = mean_embeddings(model, prompts, idf if config.scope == "idf" else None)
    keys = unit(e) if gate is None else gate.keys(edits)
    names = tuple(edit.name for edit in edits)
    return Rows(names, tuple(map(fact_of, prompts)), keys, e)


def gather(model: CausalLM, config: LemoeConfig, resources: Resources) -> Statistics:
    """Reads held-out prompts, where a scope test is calibrated on them, and contexts."""
    Shape.of(model, config)
    is_calibrated = config.scope in ("cosine", "idf") and config.threshold is None
    is_read = config.num_contexts or config.scope == "idf" or is_calibrated
    paragraphs = first_paragraphs(resources.text()) if is_read else []
    held_out = idf = torch.zeros(0, device=model.device)
    if config.scope == "idf":
        idf = document_frequencies(model, paragraphs)
    if is_calibrated:
        prompts = held_out_prompts(model, paragraphs)
        held_out = unit(mean_embeddings(model, prompts, idf if len(idf) else None))
    return Statistics(held_out, idf, openings(paragraphs))


def encode_all(
    llm: CausalLM, config: LemoeConfig, lane_model: bytes, edits: Sequence[Edit]
) -> Artifact | None:
    """All edits of a lane as a new lane model finds them; experts stay. None without edits.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the lane model cannot be used here.
    """
    gate = Gate.of_bytes(lane_model, llm)
    if not edits:
        return None
    nothing = torch.zeros(0, device=llm.device)
    return pack_rows(llm, gate.digest, encode(llm, config, gate, nothing, edits))


def _earlier(
    model: CausalLM,
    shape: Shape,
    config: LemoeConfig,
    experts: Sequence[LaneExpert],
    nothing: Tensor,
    projection: Projection,
) -> Earlier:
    """What a new expert stands beside; `anchored` training sees none of it."""
    if config.routing == "anchored" or not experts:
        return Earlier([], nothing, projection)
    anchors = torch.stack([expert.anchor for expert in experts]).to(model.device)
    return Earlier([placed(model, shape, expert) for expert in experts], anchors, projection)


def _projection(
    shape: Shape, config: LemoeConfig, known: SharedRouting | None, seed: int
) -> Projection:
    if known is not None:
        return known.projection
    return Projection.new(shape, seed, is_residual=config.routing == "anchored")


def _training_set(
    model: CausalLM,
    edits: Sequence[Edit],
    embeddings: Tensor,
    config: LemoeConfig,
    statistics: Statistics,
    gate: Gate | None,
) -> TrainingSet:
    frames = None if gate is None else gate.model.frames
    texts = [
        training_texts(
            model, edit, statistics.contexts, config.num_contexts, frames, config.num_rephrases
        )
        for edit in edits
    ]
    owners = [number for number, own in enumerate(texts) for _ in own]
    return TrainingSet(
        [text for own in texts for text in own],
        torch.tensor(owners, device=model.device),
        embeddings,
    )


def _lane_expert(model: CausalLM, shape: Shape, trained: Trained) -> LaneExpert:
    """As it travels: in the model's own type, fp32 anchors."""
    tensors = {name: tensor.to(model.dtype) for name, tensor in trained.tensors.items()}
    learned = (*tensors.values(), trained.anchor, trained.projection.down, trained.projection.up)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in learned):
        raise FitError("the expert is not finite; use a smaller learning_rate.")
    return LaneExpert.of(shape, tensors, trained.anchor)


def _limit(config: LemoeConfig, statistics: Statistics, stored: Tensor) -> float:
    """τ: configured, or calibrated; 0 where no cosine decides."""
    if config.scope not in ("cosine", "idf"):
        return 0.0
    if config.threshold is not None:
        return config.threshold
    return calibrated_cosine(statistics.held_out, stored, config.false_claims)
