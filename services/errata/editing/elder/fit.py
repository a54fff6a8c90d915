"""Fits edits: draws allocations, trains the lane's experts, calibrates the scope test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.contexts import openings, training_texts
from errata.editing.edit import Edit, EditBatch
from errata.editing.elder.allocation import Allocator, capacity
from errata.editing.elder.banks import FrozenBank, FrozenBanks
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.memory import EditTexts, ElderMemory, answer_of, pack_texts
from errata.editing.elder.neighbours import neighbour_queries
from errata.editing.elder.packing import Packed, pack, pack_rows
from errata.editing.elder.peft import read as read_adapters
from errata.editing.elder.queries import queries_of
from errata.editing.elder.scope import HeldOut, limit_of
from errata.editing.elder.state import ElderContents, Learned, is_of_other_namespace
from errata.editing.elder.training import TrainingSet, train
from errata.editing.lane.contract import FitResult, Resources
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.repository import Repository, Rows
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

    1. If the bank that learns has no room for the batch, or learns edits of another namespace, a
       new bank starts (`elder.banks`).
    2. Each new fact gets an allocation that no other fact of the bank has.
    3. Experts and routers are trained on the batch and on replayed edits of the bank.
    4. The scope test's limit is calibrated on held-out prompts, unless it is configured.

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
    held_out, shape = statistics.held_out, Shape.of(model, config)
    rows = encode(model, shape, config, contents.gate, held_out.idf, batch.edits)
    encoded = perf_counter()
    fitter = _Fitter(model, shape, config, contents, memory, statistics)
    groups, starts_bank = _groups(batch.edits, shape, config, contents)
    before = None if starts_bank or len(groups) > 1 else _learned(contents)
    fitted = [
        fitter.fit(group, rows, before, batch.seed + number, batch.attempt)
        for number, group in enumerate(groups)
    ]
    packed, experts = _as_committed(before, fitted[-1].experts)
    texts = [text for bank in fitted for text in bank.texts]
    neighbours = [*memory.neighbours(), *(text.neighbours for text in texts)]
    limit = _limit(config, held_out, experts, [*contents.inventory.stored, rows], neighbours)
    artifact = pack(
        model,
        contents.model_digest,
        rows,
        packed,
        limit,
        held_out.idf,
        starts_bank=starts_bank,
        frozen=_frozen(model, fitted[:-1]) if len(fitted) > 1 else None,
    )
    seconds = {"encode": encoded - start, "train": perf_counter() - encoded}
    return FitResult(artifact, pack_texts(texts), seconds)


def _learned(contents: ElderContents) -> Learned | None:
    """What the bank knows; a bank whose edits were all reverted still knows them, and forgets."""
    return contents.learned if contents.num_in_bank else None


def _limit(
    config: ElderConfig,
    held_out: HeldOut,
    experts: Experts,
    edits: Sequence[Repository | Rows],
    neighbours: Sequence[Tensor],
) -> float:
    """The limit of the scope test for these edits."""
    stored = [part.values if config.scope == "codes" else part.keys for part in edits]
    with torch.inference_mode():
        return limit_of(
            config, held_out, experts, torch.cat([s for s in stored if len(s)]), neighbours
        )


def _groups(
    edits: Sequence[Edit], shape: Shape, config: ElderConfig, contents: ElderContents
) -> tuple[list[Sequence[Edit]], bool]:
    """A batch by bank, and whether its first bank is a new one behind others.

    Raises:
        InvalidEditError: the lane has a single bank, of another namespace.
    """
    is_other = is_of_other_namespace(contents, edits[0].namespace, config)
    if not config.bank_edits:
        return [edits], False
    room = capacity(len(shape.layers), shape.num_experts, shape.top_k)
    size = min(config.bank_edits, room)
    groups = [edits[i : i + size] for i in range(0, len(edits), size)]
    held = contents.num_in_bank
    return groups, bool(held and (is_other or held + len(edits) > size))


@dataclass(frozen=True, eq=False, slots=True)
class _Bank:
    """Experts after a fit, the edits that they learned in it, and the texts of these."""

    experts: Experts
    edits: tuple[str, ...]
    texts: Sequence[EditTexts]


@dataclass(frozen=True, eq=False, slots=True)
class _Fitter:
    """Fits the edits of one bank after another; the fields are the arguments of `fit`."""

    model: CausalLM
    shape: Shape
    config: ElderConfig
    contents: ElderContents
    memory: ElderMemory
    statistics: FitInputs

    def fit(
        self, edits: Sequence[Edit], rows: Rows, before: Learned | None, seed: int, attempt: int
    ) -> _Bank:
        """Trains a bank on edits, which are among `rows`; `before` is None for a new bank."""
        config, others = self.config, self.contents.frozen.bank_of
        known = [] if before is None else self.memory.in_bank(others)
        new = _training_texts(
            self.model, edits, self.shape, known, config, self.statistics, self.contents.gate
        )
        earlier: list[EditTexts] = []
        if before is None:
            experts = _initial_experts(self.model, self.shape, config, seed, self.statistics)
        else:
            experts = Experts(self.shape, before.experts.tensors())
            earlier = self.memory.drawn({texts.fact for texts in new}, seed, others)
        query_of = dict(zip(rows.names, rows.values, strict=True))
        queries = torch.stack([query_of[edit.name] for edit in edits])
        earlier_queries = [self.contents.inventory.value_of(texts.edit) for texts in earlier]
        data = _training_set(edits, new, queries, earlier, earlier_queries)
        config = config.model_copy(update={"steps": config.steps * (1 + attempt)})
        train(self.model, experts, data, config, seed)
        _check_finite(experts)
        return _Bank(experts, tuple(edit.name for edit in edits), new)


def _frozen(model: CausalLM, banks: Sequence[_Bank]) -> FrozenBanks:
    """Banks as replicas hold them once they no longer learn."""
    frozen = []
    for bank in banks:
        experts = bank.experts.requires_grad_(False)
        frozen.append(FrozenBank.of(experts, experts.mixture_for(model), bank.edits))
    return FrozenBanks.joined(frozen)


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
    """Trains new banks on all active edits; reverted edits leave no trace.

    Each step trains on `replay_rows` edits of a bank, or on all of them if they are no more. The
    number of steps is such that each edit is trained on about `steps` times.

    Raises:
        InvalidRequestError: a number of experts was requested; the configuration fixes it.
        FitError: the experts are not finite.
    """
    if num_experts:
        raise InvalidRequestError(
            "the configuration fixes an ELDER lane's number of experts; leave num_experts out.",
            field="num_experts",
        )
    shape, held_out = Shape.of(model, config), statistics.held_out
    parts = [
        encode(model, shape, config, gate, held_out.idf, edits[i : i + _ENCODE_CHUNK])
        for i in range(0, len(edits), _ENCODE_CHUNK)
    ]
    rows = Rows.joined(parts)
    query_of = dict(zip(rows.names, rows.values, strict=True))
    newest = memory.newest()
    size = config.bank_edits or len(newest)
    members = [newest[i : i + size] for i in range(0, len(newest), size)]
    banks = []
    for number, texts in enumerate(members):
        experts = _initial_experts(model, shape, config, seed + number, statistics)
        queries = torch.stack([query_of[text.edit] for text in texts])
        data = _training_set(edits, texts, queries, [], [])
        _train_bank(model, experts, data, config, seed + number)
        banks.append(_Bank(experts, _edits_about(texts, rows), texts))
    limit = _limit(config, held_out, banks[-1].experts, [rows], memory.neighbours())
    digest, packed = "" if gate is None else gate.digest, Packed.whole(banks[-1].experts)
    frozen = _frozen(model, banks[:-1])
    return pack(model, digest, rows, packed, limit, held_out.idf, frozen=frozen)


def _edits_about(texts: Sequence[EditTexts], rows: Rows) -> tuple[str, ...]:
    """All edits of these facts, oldest first, including those that newer ones supersede."""
    facts = {text.fact for text in texts}
    return tuple(n for n, fact in zip(rows.names, rows.facts, strict=True) if fact in facts)


def _train_bank(
    model: CausalLM, experts: Experts, data: TrainingSet, config: ElderConfig, seed: int
) -> None:
    """Trains on a whole bank; early stop needs steps that see all of it."""
    if (num_edits := len(data.texts)) > config.replay_rows:
        num_steps = config.steps * math.ceil(num_edits / config.replay_rows)
        data = replace(data, num_new=0, num_own=())
        config = config.model_copy(update={"steps": num_steps, "stop_loss": 0.0})
    train(model, experts, data, config, seed)
    _check_finite(experts)


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
    known: Sequence[EditTexts],
    config: ElderConfig,
    statistics: FitInputs,
    gate: Gate | None,
) -> list[EditTexts]:
    """The texts and allocations of new edits; `known` are the earlier edits of their bank."""
    frames = None if gate is None else gate.model.frames
    allocator = Allocator(len(shape.layers), shape.num_experts, shape.top_k)
    for texts in known:
        allocator.keep(texts.fact, texts.answer, texts.allocation)
    names = statistics.held_out.names if config.calibrates_codes else ()
    neighbours = neighbour_queries(model, shape, edits, names)
    new = []
    for edit, withheld in zip(edits, neighbours, strict=True):
        fact, answer = fact_of(edit.said), answer_of(edit.subject, edit.target)
        options = (config.num_contexts, frames, config.num_rephrases, config.num_questions)
        rows = training_texts(model, edit, statistics.contexts, *options)
        allocation = allocator.take(fact, answer)
        new.append(EditTexts(edit.name, fact, answer, allocation, rows, withheld))
    return new


def _training_set(
    edits: Sequence[Edit],
    new: Sequence[EditTexts],
    new_queries: Tensor,
    earlier: Sequence[EditTexts],
    earlier_queries: Sequence[Tensor],
) -> TrainingSet:
    """Texts of new edits, then of earlier ones; all texts of an edit share the edit's query."""
    num_own = {edit.name: 1 + len(edit.rephrases) for edit in edits}
    pairs = [
        *zip(new, new_queries, strict=True),
        *zip(earlier, earlier_queries, strict=True),
    ]
    return TrainingSet(
        texts=[edit.texts for edit, _ in pairs],
        queries=torch.stack([query for _, query in pairs]),
        allocations=torch.stack([edit.allocation for edit, _ in pairs]).to(new_queries.device),
        num_new=len(new),
        num_own=[num_own[texts.edit] for texts in new],
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
