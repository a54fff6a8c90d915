"""How edits become an artifact: allocate, train the lane's experts, calibrate the scope test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.causal_lm import CausalLM
from errata.editing.edit import Edit, EditBatch
from errata.editing.elder.allocation import allocate, pack_code
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.memory import ElderMemory, Lesson, pack_lessons
from errata.editing.elder.queries import queries_of
from errata.editing.elder.scope import HeldOut, limit_of, unit, weighted
from errata.editing.elder.state import ElderState, Gate, pack, pack_rows
from errata.editing.elder.training import Lessons, train
from errata.editing.inventory import fact_of
from errata.editing.method import FitResult, Resources
from errata.editing.prompts import tokenise
from errata.editing.recipe.lane_model import LaneModel, knowledge
from errata.editing.repository import Rows
from errata.errors import FitError


def fit(
    model: CausalLM,
    batch: EditBatch,
    config: ElderConfig,
    state: ElderState,
    memory: ElderMemory,
    statistics: HeldOut,
) -> FitResult:
    """Fits a batch, and earlier edits along with it (ELDER, Algorithm 1).

    1. Each new fact gets an allocation that no other fact has.
    2. Experts and routers are trained on the batch and on what is replayed.
    3. The scope test's limit is calibrated on held-out prompts, if it is not configured.

    Args:
        model: carries no edit of this lane, and is left as it was.
        batch: edits and the seed; a later attempt makes more steps.
        config: of the lane.
        state: experts, queries and keys of earlier edits.
        memory: texts and allocations of earlier edits; read only.
        statistics: held-out prompts, from `prepare`.

    Returns:
        Artifact with all experts and the batch's keys and queries; memory with its texts; seconds
        of `encode` and `train`.

    Raises:
        InvalidEditError: an edit cannot be tokenised.
        LaneFullError: there is no allocation left.
        FitError: the experts are not finite.
    """
    start = perf_counter()
    held, shape = state.holdings, Shape.of(model, config)
    gate = held.gate
    new = _lessons(model, batch.edits, shape, memory)
    rows = encode(model, shape, config, gate, statistics.idf, batch.edits)
    encoded = perf_counter()
    if held.learned is None:
        experts = Experts.new(shape, config.init, batch.seed).to(model.device)
    else:
        experts = Experts(shape, held.learned.experts.tensors())
    earlier = memory.drawn({lesson.fact for lesson in new}, batch.seed)
    known = [held.repository.value_of(lesson.edit) for lesson in earlier]
    lessons = _joined(new, rows.values, earlier, known)
    more = config.model_copy(update={"steps": config.steps * (1 + batch.attempt)})
    train(model, experts, lessons, more, batch.seed)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in experts.tensors().values()):
        raise FitError("the experts are not finite; use a smaller learning_rate.")
    stored = held.repository
    column = rows.values if config.scope == "codes" else rows.keys
    before = stored.values if config.scope == "codes" else stored.keys
    everything = torch.cat([before, column]) if stored.num_rows else column
    with torch.inference_mode():
        limit = limit_of(config, statistics, experts, everything)
    artifact = pack(
        model, "" if gate is None else gate.digest, rows, experts, limit, statistics.idf
    )
    seconds = {"encode": encoded - start, "train": perf_counter() - encoded}
    return FitResult(artifact, pack_lessons(new), seconds)


def _lessons(
    model: CausalLM, edits: Sequence[Edit], shape: Shape, memory: ElderMemory
) -> list[Lesson]:
    known = memory.allocations()
    made = []
    for edit in edits:
        fact = fact_of(edit.prompt)
        if fact not in known:
            taken = {pack_code(code) for code in known.values()}
            known[fact] = allocate(fact, taken, len(shape.layers), shape.num_experts, shape.top_k)
        texts = (edit.prompt, *edit.rephrases)
        rows = tuple(tokenise(model, text, edit.target) for text in texts)
        made.append(Lesson(edit.name, fact, known[fact], rows))
    return made


def _joined(
    new: Sequence[Lesson], queries: Tensor, earlier: Sequence[Lesson], known: Sequence[Tensor]
) -> Lessons:
    """Texts of new lessons, then of earlier ones; each goes by its own edit's query."""
    pairs = [*zip(new, queries, strict=True), *zip(earlier, known, strict=True)]
    return Lessons(
        texts=[text for lesson, _ in pairs for text in lesson.texts],
        queries=torch.stack([q for lesson, q in pairs for _ in lesson.texts]),
        allocations=torch.stack(
            [lesson.allocation for lesson, _ in pairs for _ in lesson.texts]
        ).to(queries.device),
        num_new=sum(len(lesson.texts) for lesson in new),
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
        with torch.inference_mode():
            keys = gate.model.edit_keys([knowledge(e.prompt, e.target) for e in edits])
    elif config.scope == "idf":
        keys = weighted(model, idf, prompts)
    elif config.scope == "cosine":
        keys = unit(queries)
    else:
        keys = queries.new_zeros(len(edits), 0)
    names = tuple(edit.name for edit in edits)
    return Rows(names, tuple(map(fact_of, prompts)), keys, queries)


def prepare(
    model: CausalLM,
    config: ElderConfig,
    resources: Resources,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeldOut:
    """Reads held-out prompts, where a scope test is calibrated on them."""
    Shape.of(model, config)
    return HeldOut.of(model, config, resources.text() if config.scope != "retriever" else ())


def encode_all(
    llm: CausalLM, config: ElderConfig, lane_model: bytes, edits: Sequence[Edit]
) -> Artifact | None:
    """All edits of a lane as a new lane model finds them; experts stay. None without edits.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the lane model cannot be used here.
    """
    digest = hashlib.sha256(lane_model).hexdigest()
    gate = Gate.of(LaneModel.from_artifact(Artifact.from_bytes(lane_model), llm), digest)
    if not edits:
        return None
    rows = encode(llm, Shape.of(llm, config), config, gate, torch.zeros(0), edits)
    return pack_rows(llm, digest, rows)
