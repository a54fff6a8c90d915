"""What a LEMoE lane needs: an expert for every full batch, and a key and an embedding per edit."""

from __future__ import annotations

from errata.editing.lane.following import following_needs, following_work
from errata.editing.lane.needs import (
    FP32,
    INT64,
    EditLoad,
    LaneNeeds,
    Need,
    Searched,
    Work,
    header_store,
    repository_needs,
    row_store,
)
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.experts import Shape
from errata.editing.model.shape import ModelShape
from errata.editing.retriever.needs import GateNeeds

_HEADER_BYTES = 1_400


def needs(model: ModelShape, config: LemoeConfig, load: EditLoad) -> LaneNeeds:
    """The needs of a lane (symbols: `editing.lane.needs`).

    P_x = `Shape.num_parameters` of one expert; x = ⌈N / expert_edits⌉ experts, one for each full
    batch. Edits that arrive slowly fill fewer, so that there are more experts.
    """
    shape, batch = Shape.of(model, config), config.expert_edits
    gate = GateNeeds.of(model, load.lane_model) if config.needs_lane_model else None
    width = model.d if gate is None else gate.sizes.d_r
    experts = load.num_commits(batch)
    held = experts * (shape.num_parameters * model.element_bytes + model.d * FP32)
    rows = [
        *(gate.replica() if gate else ()),
        *repository_needs(load, batch, width, model.d),
        Need("experts and anchors", held, "x(P_x·b + 4·d)", "host"),
        Need("projection", 2 * shape.d * shape.d_p * FP32, "2·d·d_p·4"),
    ]
    return LaneNeeds(
        replica=(*rows, *_resident(model, config, shape, experts, load)),
        writer=(*(gate.writer(load) if gate else ()), *_training(model, config, shape, load)),
        retrieval=tuple(rows),
        effects=(),
        store=(*((gate.store(),) if gate else ()), *_store(model, shape, width, experts, load)),
        batch=batch,
        searched=Searched(load.num_edits, width),
        work=(*(gate.request(load) if gate else ()), *_work(model, config, shape, load)),
        warnings=_warnings(config, experts),
    )


def _resident(
    model: ModelShape, config: LemoeConfig, shape: Shape, experts: int, load: EditLoad
) -> list[Need]:
    """Experts on the device, as `lemoe.lane_experts.ExpertStore` holds them.

    An `ffn` expert on a CPU is the one in host memory; a `lora` expert is multiplied out.
    """
    if shape.kind == "ffn" and load.device == "cpu":
        return []
    resident = min(experts, config.max_resident) * 2 * model.matrix_numbers * model.element_bytes
    return [Need("experts on the device", resident, "min(x, max_resident)·2·d·d_ff·b")]


def _training(model: ModelShape, config: LemoeConfig, shape: Shape, load: EditLoad) -> list[Need]:
    """A new expert in fp32 with gradient and two moments of AdamW, and a step's activations.

    A step's rows keep, besides the blocks' activations, three vectors of d_ff and one of d at the
    expert. Inputs of the expert's block are kept for all texts of a batch.
    """
    texts = config.expert_edits * _num_texts(config, load)
    rows = min(config.batch_rows, texts)
    tokens = load.text_tokens + config.num_read_on
    inner = rows * tokens * (3 * model.d_ff + model.d) * FP32
    scored = load.target_tokens + config.num_following
    logits = rows * scored * model.num_embeddings * 3 * FP32
    return [
        *following_needs(model, config, load),
        Need("training of an expert", 4 * FP32 * shape.num_parameters, "4·4·P_x", during="fit"),
        Need(
            "inputs of the expert's block",
            texts * tokens * model.d * FP32,
            "texts·T·d·4",
            during="fit",
            is_estimate=True,
        ),
        Need(
            "training's activations",
            model.saved_bytes(rows, tokens, shape.layer) + inner + logits,
            "kept by the blocks from the expert's on, for batch_rows rows of T tokens",
            during="fit",
            is_estimate=True,
        ),
    ]


def _num_texts(config: LemoeConfig, load: EditLoad) -> int:
    invented = config.num_rephrases if config.needs_lane_model else 0
    return 1 + load.num_rephrases + config.num_contexts + invented + config.num_questions


def _store(
    model: ModelShape, shape: Shape, key_width: int, experts: int, load: EditLoad
) -> list[Need]:
    """Experts, anchors and the projection once; rows, each with the number of its expert."""
    own = shape.num_parameters * model.element_bytes + model.d * FP32
    return [
        Need("experts and anchors", experts * own, "x(P_x·b + 4·d)", "disk"),
        Need("projection", 2 * shape.d * shape.d_p * FP32, "2·d·d_p·4", "disk"),
        row_store(load, key_width, model.d),
        Need("owners", load.num_edits * INT64, "N·8", "disk"),
        header_store(experts, _HEADER_BYTES),
    ]


def _work(model: ModelShape, config: LemoeConfig, shape: Shape, load: EditLoad) -> list[Work]:
    """A fit's steps, and a token of a claimed row: its experts, and the frozen gate once more."""
    per_block = model.num_block_parameters // model.num_layers
    upper = per_block * (model.num_layers - shape.layer)
    matrices = 2 * model.matrix_numbers
    texts = config.expert_edits * _num_texts(config, load)
    own, tokens = config.expert_edits * (1 + load.num_rephrases), load.text_tokens
    planned = config.steps * min(config.batch_rows, texts)
    extra = config.extra_steps * min(config.batch_rows, own)
    read = config.extra_steps * own
    return [
        *following_work(model, config, texts, load),
        Work(
            "training of a fit, at most",
            (tokens + config.num_read_on)
            * ((planned + extra) * (4 * upper + 6 * matrices) + 2 * read * (upper + matrices)),
            "T(steps' rows·(4·P_upper + 6·2·d·d_ff) + rows read·2(P_upper + 2·d·d_ff))",
        ),
        Work(
            "a token of a claimed row",
            2 * (config.top_k * matrices + model.matrix_numbers),
            "2(k·2 + 1)·d·d_ff",
        ),
    ]


def _warnings(config: LemoeConfig, experts: int) -> tuple[str, ...]:
    if experts <= config.max_experts:
        return ()
    fits = config.max_experts * config.expert_edits
    return (
        f"the lane is full after {fits:,} edits ({config.max_experts} experts); {config.remedy}.",
    )
