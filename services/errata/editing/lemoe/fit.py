"""Trains a new expert on a batch of edits, or retrains a lane with fewer experts."""

from __future__ import annotations

import math
from collections import Counter
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
from errata.editing.lemoe.lane_experts import LaneExpert, SharedRouting, to_device
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
from errata.errors import FitError, InvalidEditError, InvalidRequestError, LaneFullError


@dataclass(frozen=True, eq=False, slots=True)
class FitInputs:
    """What a lane's fits need from the statistics text.

    Attributes:
        held_out: mean embeddings of prompts that no edit is about, of length 1, (m, d) fp32; empty
            if no scope test is calibrated on them.
        idf: inverse document frequency of each token, (V) fp32; empty if no scope test uses it.
        contexts: texts that prompts are trained after.
    """

    held_out: Tensor
    idf: Tensor
    contexts: tuple[str, ...]


def fit(
    model: CausalLM,
    batch: EditBatch,
    config: LemoeConfig,
    contents: LemoeContents,
    statistics: FitInputs,
) -> FitResult:
    """Trains a new expert on a batch (LEMoE §3); earlier experts are not changed.

    Args:
        model: carries no edit of this lane; unchanged afterwards.
        batch: edits and the seed; each retry has more steps.
        config: of the lane.
        contents: of the lane, with the earlier experts.
        statistics: from `gather`.

    Returns:
        Artifact with the new expert, its anchor, and the edits' keys and embeddings; wall-clock
        seconds of `encode` and `train`.

    Raises:
        InvalidEditError: an edit cannot be tokenised, or the lane has edits of another namespace.
        LaneFullError: the lane has its maximum number of experts.
        FitError: the expert has values that are not finite.
    """
    start = perf_counter()
    _check_namespace(batch.edits[0].namespace, config, contents)
    shape = Shape.of(model, config)
    if len(contents.experts) >= config.max_experts:
        raise LaneFullError(
            f"the lane has {len(contents.experts)} experts, which is its limit; {config.remedy}.",
            lane_is_full=True,
            taken=len(contents.experts),
        )
    rows = encode(model, config, contents.gate, statistics.idf, batch.edits)
    projection = _projection(shape, config, contents.routing, batch.seed).to(model.device)
    data = _training_set(model, batch.edits, rows.values, config, statistics, contents.gate)
    earlier = _earlier(model, shape, config, contents.experts, rows.values[:0], projection)
    encoded_at = perf_counter()
    scaled = config.model_copy(update={"steps": config.steps * (1 + batch.attempt)})
    trained = train(model, shape, data, earlier, scaled, batch.seed)
    stored = [one.keys for one in contents.inventory.stored if one.num_rows]
    limit = _limit(config, statistics, torch.cat([*stored, rows.keys]))
    artifact = pack(
        model,
        contents.model_digest,
        rows,
        SharedRouting.of(shape, trained.projection, limit, statistics.idf),
        [_lane_expert(model, shape, trained)],
        [0] * len(batch),
        with_projection=contents.routing is None or config.routing == "literal",
    )
    seconds = {"encode": encoded_at - start, "train": perf_counter() - encoded_at}
    return FitResult(artifact, None, seconds)


def _check_namespace(namespace: str, config: LemoeConfig, contents: LemoeContents) -> None:
    """Returns if a batch's edits can share the lane with those that are there.

    Unless the claiming edit names its expert, all experts answer together, those of namespaces
    that the request does not read among them.

    Raises:
        InvalidEditError: they cannot.
    """
    others = [other for other in contents.inventory.namespaces if other != namespace]
    if others and config.takes_one_namespace:
        raise InvalidEditError(
            f"routing {config.routing} with scope {config.scope} mixes the experts of all edits, "
            "and the lane has edits of another namespace; use a lane with routing anchored and a "
            "scope test, or a lane for each namespace.",
            field="namespace",
        )


def retrain(
    model: CausalLM,
    edits: Sequence[Edit],
    config: LemoeConfig,
    contents: LemoeContents,
    statistics: FitInputs,
    *,
    num_experts: int,
    seed: int,
) -> Artifact:
    """Distributes all active edits among few experts and trains each expert separately.

    Edits that a newer one supersedes stay active. They get separate experts, because no expert can
    learn two answers to one prompt.

    Args:
        model: of the writer.
        edits: all active edits of the lane, oldest first.
        config: of the lane.
        contents: of the lane; its gate and its projection are kept.
        statistics: from `gather`.
        num_experts: number for the newest edits of all facts; 0 derives it from `expert_edits`.
        seed: of clusters and experts.

    Raises:
        InvalidRequestError: more experts than the lane allows or than there are edits, or routing
            is `literal`, whose keys depend on the order of fits.
        FitError: an expert has values that are not finite.
    """
    if config.routing == "literal":
        raise InvalidRequestError(
            "literal routing cannot be compacted: its keys depend on the order of fits.",
            field="lane",
        )
    shape = Shape.of(model, config)
    batches = _distribute(model, edits, config, num_experts, seed)
    if len(batches) > config.max_experts:
        raise InvalidRequestError(
            f"the edits need {len(batches)} experts, but the lane allows {config.max_experts}; "
            "request fewer.",
            field="num_experts",
        )
    projection = _projection(shape, config, contents.routing, seed).to(model.device)
    rows = encode(model, config, contents.gate, statistics.idf, edits)
    no_earlier = Earlier([], rows.values[:0], projection)
    experts, expert_of = [], dict[int, int]()
    for number, batch in enumerate(batches):
        part = [edits[index] for index in batch]
        data = _training_set(model, part, rows.values[batch], config, statistics, contents.gate)
        steps = config.steps * math.ceil(len(part) / config.expert_edits)
        scaled = config.model_copy(update={"steps": steps})
        trained = train(model, shape, data, no_earlier, scaled, seed + number)
        experts.append(_lane_expert(model, shape, trained))
        expert_of |= dict.fromkeys(batch, number)
    limit = _limit(config, statistics, rows.keys)
    routing = SharedRouting.of(shape, projection, limit, statistics.idf)
    owners = [expert_of[index] for index in range(len(edits))]
    return pack(model, contents.model_digest, rows, routing, experts, owners, with_projection=True)


def _distribute(
    model: CausalLM, edits: Sequence[Edit], config: LemoeConfig, num_experts: int, seed: int
) -> list[list[int]]:
    """Indices of each expert's edits; no expert has two edits of one fact."""
    remaining = list(range(len(edits)))
    batches: list[list[int]] = []
    while remaining:
        newest = sorted({fact_of(edits[index].said): index for index in remaining}.values())
        num_requested = 0 if batches else num_experts
        if num_requested > len(newest):
            raise InvalidRequestError(
                f"{num_experts} experts for {len(newest)} edits; request at most {len(newest)}.",
                field="num_experts",
            )
        part = [edits[index] for index in newest]
        planned = plan_order(model, config, part, seed, num_requested)
        batches += [[newest[index] for index in batch] for batch in planned]
        remaining = sorted(set(remaining) - set(newest))
    return batches


def encode(
    model: CausalLM,
    config: LemoeConfig,
    gate: Gate | None,
    idf: Tensor,
    edits: Sequence[Edit],
) -> Rows:
    """Computes the edits' keys for the scope test, and the mean embeddings e of their prompts."""
    prompts = [edit.said for edit in edits]
    e = mean_embeddings(model, prompts, idf if config.scope == "idf" else None)
    keys = unit(e) if gate is None else gate.keys(edits)
    names = tuple(edit.name for edit in edits)
    return Rows(names, tuple(map(fact_of, prompts)), keys, e)


def gather(model: CausalLM, config: LemoeConfig, resources: Resources) -> FitInputs:
    """Collects contexts, and held-out prompts if a scope test is calibrated on them."""
    Shape.of(model, config)
    is_calibrated = config.scope in ("cosine", "idf") and config.threshold is None
    needs_text = config.num_contexts or config.scope == "idf" or is_calibrated
    paragraphs = first_paragraphs(resources.text()) if needs_text else []
    held_out = idf = torch.zeros(0, device=model.device)
    if config.scope == "idf":
        idf = document_frequencies(model, paragraphs)
    if is_calibrated:
        prompts = held_out_prompts(model, paragraphs)
        held_out = unit(mean_embeddings(model, prompts, idf if len(idf) else None))
    return FitInputs(held_out, idf, openings(paragraphs))


def encode_all(
    llm: CausalLM, config: LemoeConfig, lane_model: bytes, edits: Sequence[Edit]
) -> Artifact | None:
    """Encodes all edits of a lane with a new lane model; experts stay. None without edits.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the lane model does not fit.
    """
    gate = Gate.of_bytes(lane_model, llm)
    if not edits:
        return None
    no_idf = torch.zeros(0, device=llm.device)
    return pack_rows(llm, gate.digest, encode(llm, config, gate, no_idf, edits))


def _earlier(
    model: CausalLM,
    shape: Shape,
    config: LemoeConfig,
    experts: Sequence[LaneExpert],
    no_anchors: Tensor,
    projection: Projection,
) -> Earlier:
    """The earlier experts that take part in training; none with `anchored` routing."""
    if config.routing == "anchored" or not experts:
        return Earlier([], no_anchors, projection)
    anchors = torch.stack([expert.anchor for expert in experts]).to(model.device)
    return Earlier([to_device(model, shape, expert) for expert in experts], anchors, projection)


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
    statistics: FitInputs,
    gate: Gate | None,
) -> TrainingSet:
    frames = None if gate is None else gate.model.frames
    subjects = Counter(edit.subject.casefold() for edit in edits)
    texts = []
    for edit in edits:
        # Questions name no relation of the edit's own. An expert does not know which edit claims a
        # prompt, so it must not learn several answers to questions about one subject.
        is_alone = subjects[edit.subject.casefold()] == 1
        texts.append(
            training_texts(
                model,
                edit,
                statistics.contexts,
                config.num_contexts,
                frames,
                config.num_rephrases,
                config.num_questions if is_alone else 0,
            )
        )
    owners = [number for number, rows in enumerate(texts) for _ in rows]
    is_own = [
        number <= len(edit.rephrases)
        for edit, rows in zip(edits, texts, strict=True)
        for number in range(len(rows))
    ]
    return TrainingSet(
        [text for rows in texts for text in rows],
        torch.tensor(owners, device=model.device),
        torch.tensor(is_own),
        embeddings,
    )


def _lane_expert(model: CausalLM, shape: Shape, trained: Trained) -> LaneExpert:
    """The expert as it is committed: in the model's dtype, with an fp32 anchor."""
    tensors = {name: tensor.to(model.dtype) for name, tensor in trained.tensors.items()}
    learned = (*tensors.values(), trained.anchor, trained.projection.down, trained.projection.up)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in learned):
        raise FitError("the expert has values that are not finite; use a smaller learning_rate.")
    return LaneExpert.of(shape, tensors, trained.anchor)


def _limit(config: LemoeConfig, statistics: FitInputs, stored: Tensor) -> float:
    """τ: configured, or calibrated; 0 if the scope test uses no cosine."""
    if config.scope not in ("cosine", "idf"):
        return 0.0
    if config.threshold is not None:
        return config.threshold
    return calibrated_cosine(statistics.held_out, stored, config.false_claims)
