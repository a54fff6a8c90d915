"""How edits become an artifact: allocate, train the lane's experts, calibrate the scope test."""

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
from errata.editing.elder import peft
from errata.editing.elder.allocation import allocate, pack_code
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.memory import EditTexts, ElderMemory, pack_texts
from errata.editing.elder.packing import Packed, pack, pack_rows
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

_AT_ONCE = 256  # edits that are encoded together


@dataclass(frozen=True, eq=False, slots=True)
class Statistics:
    """What fits of a lane need of the statistics text.

    Attributes:
        held_out: prompts that no edit is about.
        contexts: that prompts are learned behind.
        loras: that experts begin with; None if none were given.
    """

    held_out: HeldOut
    contexts: tuple[str, ...]
    loras: Mapping[str, Tensor] | None


def fit(
    model: CausalLM,
    batch: EditBatch,
    config: ElderConfig,
    held: ElderContents,
    memory: ElderMemory,
    statistics: Statistics,
) -> FitResult:
    """Fits a batch together with earlier edits (ELDER, Algorithm 1).

    1. Each new fact gets an allocation that no other fact has.
    2. Experts and routers are trained on the batch and on the replayed edits.
    3. The scope test's limit is calibrated on held-out prompts, unless it is configured.

    Args:
        model: carries no edit of this lane; unchanged afterwards.
        batch: edits and the seed; a later attempt takes more steps.
        config: of the lane.
        held: experts, queries and keys of earlier edits.
        memory: texts and allocations of earlier edits; read only.
        statistics: from `gather`.

    Returns:
        Artifact with the experts' change and the batch's keys and queries; memory with its
        texts; seconds of `encode` and `train`.

    Raises:
        InvalidEditError: an edit cannot be tokenised.
        LaneFullError: there is no allocation left.
        FitError: the experts are not finite.
    """
    start = perf_counter()
    shape, gate = Shape.of(model, config), held.gate
    held_out = statistics.held_out
    new = _training_texts(model, batch.edits, shape, memory, config, statistics.contexts, gate)
    rows = encode(model, shape, config, gate, held_out.idf, batch.edits)
    encoded = perf_counter()
    if held.learned is None:
        experts = _begin(model, shape, config, batch.seed, statistics)
    else:
        experts = Experts(shape, held.learned.experts.tensors())
    earlier = memory.drawn({texts.fact for texts in new}, batch.seed)
    known = [held.repository.value_of(texts.edit) for texts in earlier]
    more = config.model_copy(update={"steps": config.steps * (1 + batch.attempt)})
    train(model, experts, _joined(new, rows.values, earlier, known), more, batch.seed)
    _check_finite(experts)
    packed, experts = _committed(held.learned, experts)
    stored = held.repository
    column = rows.values if config.scope == "codes" else rows.keys
    before = stored.values if config.scope == "codes" else stored.keys
    everything = torch.cat([before, column]) if stored.num_rows else column
    with torch.inference_mode():
        limit = limit_of(config, held_out, experts, everything)
    artifact = pack(model, held.model_digest, rows, packed, limit, held_out.idf)
    seconds = {"encode": encoded - start, "train": perf_counter() - encoded}
    return FitResult(artifact, pack_texts(new), seconds)


def retrain(
    model: CausalLM,
    edits: Sequence[Edit],
    config: ElderConfig,
    gate: Gate | None,
    memory: ElderMemory,
    statistics: Statistics,
    *,
    num_experts: int,
    seed: int,
) -> Artifact:
    """Trains new experts on all active edits, in mixed steps; reverted edits leave no trace.

    Each step shows `replay_rows` of the edits; there are as many steps as show each edit `steps`
    times.

    Raises:
        InvalidRequestError: a number of experts was asked for; the configuration fixes it.
        FitError: the experts are not finite.
    """
    if num_experts:
        raise InvalidRequestError(
            "an ELDER lane has the number of experts that its configuration says; leave it out.",
            field="num_experts",
        )
    shape = Shape.of(model, config)
    experts = _begin(model, shape, config, seed, statistics)
    held_out = statistics.held_out
    parts = [
        encode(model, shape, config, gate, held_out.idf, edits[i : i + _AT_ONCE])
        for i in range(0, len(edits), _AT_ONCE)
    ]
    rows = Rows.joined(parts)
    value_of = dict(zip(rows.names, rows.values, strict=True))
    known = memory.newest()
    texts = _joined([], rows.values[:0], known, [value_of[edit.edit] for edit in known])
    num_steps = config.steps * math.ceil(len(known) / config.replay_rows)
    many = config.model_copy(update={"steps": num_steps, "stop_loss": 0.0})
    train(model, experts, texts, many, seed)
    _check_finite(experts)
    column = rows.values if config.scope == "codes" else rows.keys
    with torch.inference_mode():
        limit = limit_of(config, held_out, experts, column)
    digest = "" if gate is None else gate.digest
    return pack(model, digest, rows, Packed.whole(experts), limit, held_out.idf)


def _begin(
    model: CausalLM, shape: Shape, config: ElderConfig, seed: int, statistics: Statistics
) -> Experts:
    """Experts that have learned no edit yet."""
    if config.init == "adapters" and statistics.loras is None:
        raise InvalidRequestError(
            "the lane's experts begin with adapters, and none are given; name their folders as "
            "`adapters` in the lanes file.",
            field="adapters",
        )
    return Experts.new(shape, config.init, seed, statistics.loras).to(model.device)


def _committed(before: Learned | None, experts: Experts) -> tuple[Packed, Experts]:
    """What the artifact says of the experts, and the experts that it makes of them everywhere."""
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
    known, frames = memory.allocations(), None if gate is None else gate.model.frames
    taken = {pack_code(code) for code in known.values()}
    made = []
    for edit in edits:
        fact = fact_of(edit.prompt)
        if fact not in known:
            known[fact] = allocate(fact, taken, len(shape.layers), shape.num_experts, shape.top_k)
            taken.add(pack_code(known[fact]))
        rows = training_texts(
            model, edit, contexts, config.num_contexts, frames, config.num_rephrases
        )
        made.append(EditTexts(edit.name, fact, known[fact], rows))
    return made


def _joined(
    new: Sequence[EditTexts], queries: Tensor, earlier: Sequence[EditTexts], known: Sequence[Tensor]
) -> TrainingSet:
    """Texts of new edits, then of earlier ones; each goes by its own edit's query."""
    pairs = [*zip(new, queries, strict=True), *zip(earlier, known, strict=True)]
    return TrainingSet(
        texts=[edit.texts for edit, _ in pairs],
        queries=torch.stack([query for _, query in pairs]),
        allocations=torch.stack([edit.allocation for edit, _ in pairs]).to(queries.device),
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
    """Keys by which the scope test finds edits, and their queries."""
    prompts = [edit.prompt for edit in edits]
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


def gather(model: CausalLM, config: ElderConfig, resources: Resources) -> Statistics:
    """Reads held-out prompts, where a scope test is calibrated on them, contexts and adapters.

    A lane whose adapters are not given goes on: it needs them only for its first fit.

    Raises:
        InvalidRequestError: adapters do not fit.
    """
    shape, loras = Shape.of(model, config), None
    if config.init == "adapters" and resources.adapters:
        loras = peft.read(model, shape, resources.adapters)
    is_read = config.num_contexts or HeldOut.are_needed(config)
    paragraphs = first_paragraphs(resources.text()) if is_read else []
    return Statistics(HeldOut.of(model, config, paragraphs), openings(paragraphs), loras)


def encode_all(
    llm: CausalLM, config: ElderConfig, lane_model: bytes, edits: Sequence[Edit]
) -> Artifact | None:
    """All edits of a lane as a new lane model finds them; experts stay. None without edits.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the lane model cannot be used here.
    """
    gate = Gate.of_bytes(lane_model, llm)
    if not edits:
        return None
    rows = encode(llm, Shape.of(llm, config), config, gate, torch.zeros(0), edits)
    return pack_rows(llm, gate.digest, rows)
