"""Fits edits: draws allocations, trains the lane's experts, calibrates the scope test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.contexts import openings, training_texts
from errata.editing.edit import Edit, EditBatch
from errata.editing.elder.allocation import allocate, pack_code
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.memory import EditTexts, ElderMemory, pack_texts
from errata.editing.elder.packing import Packed, pack, pack_rows
from errata.editing.elder.peft import read as read_adapters
from errata.editing.elder.queries import queries_of
from errata.editing.elder.scope import HeldOut, limit_of
from errata.editing.elder.state import ElderContents, Learned
from errata.editing.elder.training import TrainingSet, train
from errata.editing.lane.contract import FitResult, Resources
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.repository import Rows
from errata.editing.model.causal_lm import CausalLM
from errata.editing.retriever.gate import Gate
from errata.editing.scope import first_paragraphs, mean_embeddings, unit
from errata.errors import FitError, InvalidRequestError

_ENCODE_CHUNK = 256  # edits that are encoded together


@dataclass(frozen=True, eq=False, slots=True)
class FitInputs:
    """What a lane's fits take from the statistics text and from adapters.

    Attributes:
        held_out: prompts that no edit is about.
        contexts: texts after which prompts are also learned.
        loras: initial LoRAs of the experts; None if no adapters were given.
    """

    held_out: HeldOut
    contexts: tuple[str, ...]
    loras: Mapping[str, Tensor] | None


def fit(
    model: CausalLM,
    batch: EditBatch,
    config: ElderConfig,
    contents: ElderContents,
    memory: ElderMemory,
    statistics: FitInputs,
) -> FitResult:
    """Fits a batch together with earlier edits (ELDER, Algorithm 1).

    1. Each new fact gets an allocation that no other fact has.
    2. Experts and routers are trained on the batch and on the replayed edits.
    3. The scope test's limit is calibrated on held-out prompts, unless it is configured.

    Args:
        model: carries no edit of this lane; unchanged afterwards.
        batch: edits and the seed; a later attempt trains for more steps.
        config: of the lane.
        contents: experts, queries and keys of earlier edits.
        memory: texts and allocations of earlier edits; read only.
        statistics: from `gather`.

    Returns:
        An artifact with the experts' change and the batch's keys and queries, a memory with the
        batch's texts, and the seconds of `encode` and `train`.

    Raises:
        InvalidEditError: an edit cannot be tokenised.
        LaneFullError: no allocation is left.
        FitError: the experts are not finite.
    """
    start = perf_counter()
    shape, gate = Shape.of(model, config), contents.gate
    held_out = statistics.held_out
    new = _training_texts(model, batch.edits, shape, memory, config, statistics.contexts, gate)
    rows = encode(model, shape, config, gate, held_out.idf, batch.edits)
    encoded = perf_counter()
    if contents.learned is None:
        experts = _initial_experts(model, shape, config, batch.seed, statistics)
    else:
        experts = Experts(shape, contents.learned.experts.tensors())
    earlier = memory.drawn({texts.fact for texts in new}, batch.seed)
    repository = contents.repository
    earlier_queries = [repository.value_of(texts.edit) for texts in earlier]
    data = _training_set(new, rows.values, earlier, earlier_queries)
    train_config = config.model_copy(update={"steps": config.steps * (1 + batch.attempt)})
    train(model, experts, data, train_config, batch.seed)
    _check_finite(experts)
    packed, experts = _as_committed(contents.learned, experts)
    vectors = rows.values if config.scope == "codes" else rows.keys
    if repository.num_rows:
        stored = repository.values if config.scope == "codes" else repository.keys
        vectors = torch.cat([stored, vectors])
    with torch.inference_mode():
        limit = limit_of(config, held_out, experts, vectors)
    artifact = pack(model, contents.model_digest, rows, packed, limit, held_out.idf)
    seconds = {"encode": encoded - start, "train": perf_counter() - encoded}
    return FitResult(artifact, pack_texts(new), seconds)


def retrain(
    model: CausalLM,
    edits: Sequence[Edit],
    config: ElderConfig,
    gate: Gate | None,
    memory: ElderMemory,
    statistics: FitInputs,
    *,
    num_experts: int,
    seed: int,
) -> Artifact:
    """Trains new experts on all active edits, in mixed steps; reverted edits leave no trace.

    Each step trains on `replay_rows` of the edits. The number of steps is such that each edit is
    trained on about `steps` times.

    Raises:
        InvalidRequestError: a number of experts was requested; the configuration fixes it.
        FitError: the experts are not finite.
    """
    if num_experts:
        raise InvalidRequestError(
            "the configuration fixes an ELDER lane's number of experts; leave num_experts out.",
            field="num_experts",
        )
    shape = Shape.of(model, config)
    experts = _initial_experts(model, shape, config, seed, statistics)
    held_out = statistics.held_out
    parts = [
        encode(model, shape, config, gate, held_out.idf, edits[i : i + _ENCODE_CHUNK])
        for i in range(0, len(edits), _ENCODE_CHUNK)
    ]
    rows = Rows.joined(parts)
    query_of = dict(zip(rows.names, rows.values, strict=True))
    newest = memory.newest()
    queries = [query_of[texts.edit] for texts in newest]
    data = _training_set([], rows.values[:0], newest, queries)
    num_steps = config.steps * math.ceil(len(newest) / config.replay_rows)
    train_config = config.model_copy(update={"steps": num_steps, "stop_loss": 0.0})
    train(model, experts, data, train_config, seed)
    _check_finite(experts)
    vectors = rows.values if config.scope == "codes" else rows.keys
    with torch.inference_mode():
        limit = limit_of(config, held_out, experts, vectors)
    digest = "" if gate is None else gate.digest
    return pack(model, digest, rows, Packed.whole(experts), limit, held_out.idf)


def _initial_experts(
    model: CausalLM, shape: Shape, config: ElderConfig, seed: int, statistics: FitInputs
) -> Experts:
    """Experts that have not learned an edit yet."""
    if config.init == "adapters" and statistics.loras is None:
        raise InvalidRequestError(
            "the lane's experts start from adapters, but none are given; name their folders as "
            "`adapters` in the lanes file.",
            field="adapters",
        )
    return Experts.new(shape, config.init, seed, statistics.loras).to(model.device)


def _as_committed(before: Learned | None, experts: Experts) -> tuple[Packed, Experts]:
    """The experts as the artifact holds them, and as every process reads them back from it."""
    if before is None:
        return Packed.whole(experts), experts
    packed = Packed.difference(before.digest, before.experts, experts)
    return packed, packed.experts(before.experts)


def _check_finite(experts: Experts) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in experts.tensors().values()):
        raise FitError("the experts are not finite; use a smaller learning_rate.")


def _training_texts(
    model: CausalLM,
    edits: Sequence[Edit],
    shape: Shape,
    memory: ElderMemory,
    config: ElderConfig,
    contexts: Sequence[str],
    gate: Gate | None,
) -> list[EditTexts]:
    allocations = memory.allocations()
    frames = None if gate is None else gate.model.frames
    taken = {pack_code(allocation) for allocation in allocations.values()}
    texts = []
    for edit in edits:
        fact = fact_of(edit.said)
        if fact not in allocations:
            allocation = allocate(fact, taken, len(shape.layers), shape.num_experts, shape.top_k)
            allocations[fact] = allocation
            taken.add(pack_code(allocation))
        rows = training_texts(
            model, edit, contexts, config.num_contexts, frames, config.num_rephrases
        )
        texts.append(EditTexts(edit.name, fact, allocations[fact], rows))
    return texts


def _training_set(
    new: Sequence[EditTexts],
    new_queries: Tensor,
    earlier: Sequence[EditTexts],
    earlier_queries: Sequence[Tensor],
) -> TrainingSet:
    """Texts of new edits, then of earlier ones; all texts of an edit share the edit's query."""
    pairs = [
        *zip(new, new_queries, strict=True),
        *zip(earlier, earlier_queries, strict=True),
    ]
    return TrainingSet(
        texts=[edit.texts for edit, _ in pairs],
        queries=torch.stack([query for _, query in pairs]),
        allocations=torch.stack([edit.allocation for edit, _ in pairs]).to(new_queries.device),
        num_new=len(new),
    )


def encode(
    model: CausalLM,
    shape: Shape,
    config: ElderConfig,
    gate: Gate | None,
    idf: Tensor,
    edits: Sequence[Edit],
) -> Rows:
    """Encodes edits as rows: keys for the scope test, and queries."""
    prompts = [edit.said for edit in edits]
    queries = queries_of(model, shape, prompts)
    if gate is not None:
        keys = gate.keys(edits)
    elif config.scope == "idf":
        keys = unit(mean_embeddings(model, prompts, idf))
    elif config.scope == "cosine":
        keys = unit(queries)
    else:
        keys = queries.new_zeros(len(edits), 0)
    names = tuple(edit.name for edit in edits)
    return Rows(names, tuple(map(fact_of, prompts)), keys, queries)


def gather(model: CausalLM, config: ElderConfig, resources: Resources) -> FitInputs:
    """Reads contexts, adapters, and held-out prompts if the scope test is calibrated on them.

    Missing adapters are no error here: only the lane's first fit needs them.

    Raises:
        InvalidRequestError: the adapters do not fit the lane.
    """
    shape, loras = Shape.of(model, config), None
    if config.init == "adapters" and resources.adapters:
        loras = read_adapters(model, shape, resources.adapters)
    needs_text = config.num_contexts or HeldOut.are_needed(config)
    paragraphs = first_paragraphs(resources.text()) if needs_text else []
    return FitInputs(HeldOut.of(model, config, paragraphs), openings(paragraphs), loras)


def encode_all(
    llm: CausalLM, config: ElderConfig, lane_model: bytes, edits: Sequence[Edit]
) -> Artifact | None:
    """Encodes all edits of a lane under a new lane model; experts stay. None without edits.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the lane model cannot be used here.
    """
    gate = Gate.of_bytes(lane_model, llm)
    if not edits:
        return None
    rows = encode(llm, Shape.of(llm, config), config, gate, torch.zeros(0), edits)
    return pack_rows(llm, gate.digest, rows)
