"""What an ELDER lane needs: banks of LoRAs and routers, and a key, a query and a code per edit."""

from __future__ import annotations

import math

from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Shape
from errata.editing.elder.neighbours import PER_EDIT
from errata.editing.elder.packing import difference_bytes
from errata.editing.lane.following import following_needs, following_work
from errata.editing.lane.inventory import FACT_BYTES
from errata.editing.lane.needs import (
    FP32,
    INT32,
    TEXT_TOKEN_BYTES,
    EditLoad,
    LaneNeeds,
    Need,
    Searched,
    Work,
    header_store,
    repository_needs,
    row_store,
)
from errata.editing.model.shape import ModelShape
from errata.editing.retriever.needs import GateNeeds

_HEADER_BYTES = 1_800


def needs(model: ModelShape, config: ElderConfig, load: EditLoad) -> LaneNeeds:
    """The needs of a lane (symbols: `editing.lane.needs`), with P_e = `Shape.num_parameters`."""
    shape, batch = Shape.of(model, config), load.batch_edits
    gate = GateNeeds.of(model, load.lane_model) if config.needs_lane_model else None
    width = _key_width(model, config, shape, gate)
    code_bytes = math.ceil(len(shape.layers) * shape.num_experts / 8)
    rows = [
        *(gate.replica() if gate else ()),
        *repository_needs(load, batch, width, shape.d_q),
    ]
    if config.scope == "codes":
        rows += [
            Need("codes", load.num_edits * code_bytes, "N·⌈L·N_e/8⌉", "host"),
            Need("making codes", load.num_edits * shape.d_q * FP32, "N·d_q·4", during="commit"),
        ]
    banks = num_banks(config, load.num_edits, batch)
    shared = _experts(shape, FP32)
    # Every commit changes the bank that learns, and each position that is kept has its own.
    history = load.num_kept(batch) * shared.num_bytes
    return LaneNeeds(
        replica=(
            *rows,
            _experts(shape, model.element_bytes),
            *_frozen(shape, model.element_bytes, banks - 1),
        ),
        writer=(*(gate.writer(load) if gate else ()), *_writer(model, config, shape, load)),
        retrieval=(
            *rows,
            *_frozen(shape, FP32, banks - 1),
            Need("experts of kept positions", history, "⌈history/(u + 1)⌉·4(P_e + P_B)"),
        ),
        effects=(
            Need(
                "gates of running rows",
                load.rows * len(shape.layers) * shape.num_experts * model.element_bytes,
                "rows·L·N_e·b",
            ),
        ),
        store=(*((gate.store(),) if gate else ()), *_store(config, shape, width, load)),
        batch=batch,
        searched=Searched(load.num_edits, width, code_bytes if config.scope == "codes" else 0),
        work=(*(gate.request(load) if gate else ()), *_work(model, config, shape, load)),
    )


def _key_width(model: ModelShape, config: ElderConfig, shape: Shape, gate: GateNeeds | None) -> int:
    """The width of keys, as `elder.fit.encode` makes them."""
    if gate is not None:
        return gate.sizes.d_r
    return {"codes": 0, "cosine": shape.d_q, "idf": model.d}[config.scope]


def num_banks(config: ElderConfig, num_edits: int, batch: int) -> int:
    """Banks of N edits in batches of u; one holds whole batches, or a part of a larger one."""
    size = config.bank_edits
    if not size:
        return 1
    if batch <= size:
        return max(1, math.ceil(num_edits / (size // batch * batch)))
    whole, rest = divmod(num_edits, batch)
    return max(1, whole * math.ceil(batch / size) + math.ceil(rest / size))


def _experts(shape: Shape, element_bytes: int) -> Need:
    """Parameters in fp32, and the mixture's LoRAs: B is scaled, A copied unless it is fp32."""
    return Need(
        "experts and routers",
        FP32 * shape.num_parameters + _mixture_bytes(shape, element_bytes),
        "4·P_e + L·N_e·r·d_out·b (+ L·N_e·r·d_in·b)",
    )


def _frozen(shape: Shape, element_bytes: int, number: int) -> list[Need]:
    """Earlier banks: their mixtures and routers serve, their LoRAs in fp32 are for snapshots."""
    routers = FP32 * len(shape.layers) * shape.num_experts * (shape.d_q + 1)
    loras = FP32 * shape.num_parameters - routers
    served = routers + _mixture_bytes(shape, element_bytes)
    return [
        Need("frozen banks", number * served, "(banks − 1)(4·P_r + L·N_e·r·(d_in + d_out)·b)"),
        Need("LoRAs of frozen banks", number * loras, "(banks − 1)·4(P_e − P_r)", "host"),
    ]


def _mixture_bytes(shape: Shape, element_bytes: int) -> int:
    per_rank = len(shape.layers) * shape.num_experts * shape.rank
    width = shape.d_out + (0 if element_bytes == FP32 else shape.d_in)
    return per_rank * width * element_bytes


def num_texts(config: ElderConfig, load: EditLoad) -> int:
    """Texts of an edit, at most: all that `contexts.training_texts` makes of a text's prompt."""
    invented = config.num_rephrases if config.needs_lane_model else 0
    return 1 + load.num_rephrases + config.num_contexts + invented + config.num_questions


def _step_rows(config: ElderConfig, load: EditLoad) -> int:
    """Edits in one planned step of a fit: the new ones and those that are replayed."""
    new, earlier = _edits_of_fit(config, load)
    return new + min(config.num_replayed(load.batch_edits), earlier)


def _num_needed(config: ElderConfig, load: EditLoad) -> int:
    """Texts that a fit reads before each extra step: new edits' own, and earlier prompts."""
    new, earlier = _edits_of_fit(config, load)
    return new * (1 + load.num_rephrases) + earlier if config.extra_steps else 0


def _edits_of_fit(config: ElderConfig, load: EditLoad) -> tuple[int, int]:
    """Edits that a fit learns, and earlier ones of the bank that it can replay."""
    new, earlier = load.batch_edits, max(0, load.num_edits - load.batch_edits)
    if config.bank_edits:
        earlier = min(earlier, max(0, config.bank_edits - new))
        new = min(new, config.bank_edits)
    return new, 0 if config.replay == "none" else min(config.replay_pool, earlier)


def _writer(model: ModelShape, config: ElderConfig, shape: Shape, load: EditLoad) -> list[Need]:
    """Texts of all edits for replay; a fit's copy of the experts, its Adam and its activations.

    The step's rows keep, besides the blocks' activations, each adapted projection's input and the
    LoRAs' two products. Inputs of the first adapted block are kept for all texts of a fit.
    """
    tokens, texts = load.text_tokens + config.num_read_on, num_texts(config, load)
    rows = max(_step_rows(config, load), min(config.replay_rows, _num_needed(config, load)))
    numbers = rows * tokens * len(shape.layers)
    mixtures = numbers * (shape.d_in + 2 * shape.num_experts * shape.rank) * FP32
    scored = load.target_tokens + config.num_following
    logits = rows * scored * model.num_embeddings * 3 * FP32
    below = _texts_read(config, load)
    return [
        *following_needs(model, config, load),
        Need(
            "texts of earlier edits",
            load.num_edits * texts * load.text_tokens * TEXT_TOKEN_BYTES,
            f"N·texts·T·{TEXT_TOKEN_BYTES}",
            "host",
            is_estimate=True,
        ),
        Need("training of experts", 5 * FP32 * shape.num_parameters, "5·4·P_e", during="fit"),
        Need(
            "inputs of the first adapted block",
            below * tokens * model.d * FP32,
            "texts·T·d·4",
            during="fit",
            is_estimate=True,
        ),
        Need(
            "training's activations",
            model.saved_bytes(rows, tokens, shape.layers[0]) + mixtures + logits,
            "kept by the blocks from the first adapted one on, for a step's rows of T tokens",
            during="fit",
            is_estimate=True,
        ),
    ]


def _texts_read(config: ElderConfig, load: EditLoad) -> int:
    """Texts that a fit reads, at most: those of its steps."""
    drawn = _step_rows(config, load) * config.steps + _num_needed(config, load)
    return min(drawn, num_texts(config, load) * (load.batch_edits + config.replay_pool))


def _store(config: ElderConfig, shape: Shape, key_width: int, load: EditLoad) -> list[Need]:
    """Experts in full where a bank starts, as int8 differences in other commits; rows; texts."""
    commits = load.num_commits(load.batch_edits)
    banks = num_banks(config, load.num_edits, load.batch_edits)
    differences = max(0, commits - banks) * difference_bytes(shape)
    return [
        Need("experts of new banks", banks * FP32 * shape.num_parameters, "banks·4·P_e", "disk"),
        Need("differences of experts", differences, "(c − banks)(P_e + 4·vectors)", "disk"),
        row_store(load, key_width, shape.d_q),
        _text_store(config, shape, load),
        header_store(2 * commits, _HEADER_BYTES),
    ]


def _text_store(config: ElderConfig, shape: Shape, load: EditLoad) -> Need:
    """Memories (`elder.memory.pack_texts`): int32 ids, three int32 a text, allocation, digests."""
    text = INT32 * (load.text_tokens + 3)
    edit = num_texts(config, load) * text + len(shape.layers) * shape.num_experts + 2 * FACT_BYTES
    if config.calibrates_codes:
        edit += PER_EDIT * shape.d_q * FP32 + INT32
    return Need(
        "memories: texts",
        load.num_edits * edit,
        "N(texts·4(T + 3) + L·N_e + 64)",
        "disk",
        is_estimate=True,
    )


def _work(model: ModelShape, config: ElderConfig, shape: Shape, load: EditLoad) -> list[Work]:
    """A fit's steps, and a token of a claimed row, which passes all LoRAs of each layer."""
    per_block = model.num_block_parameters // model.num_layers
    upper = per_block * (model.num_layers - shape.layers[0])
    loras = shape.num_parameters
    needed, tokens = _num_needed(config, load), load.text_tokens + config.num_read_on
    planned = config.steps * _step_rows(config, load)
    extra = config.extra_steps * min(config.replay_rows, needed)
    read = config.extra_steps * needed
    return [
        *following_work(model, config, _texts_read(config, load), load),
        Work(
            "training of a fit, at most",
            tokens * ((planned + extra) * (4 * upper + 6 * loras) + 2 * read * (upper + loras)),
            "T(steps' rows·(4·P_upper + 6·P_e) + rows read·2(P_upper + P_e))",
        ),
        Work("a token of a claimed row", 2 * loras, "2·P_e"),
    ]
