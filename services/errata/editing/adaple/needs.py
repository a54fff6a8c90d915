"""What an AdaPLE lane needs. Its edited matrices and statistics grow with the model's width."""

from __future__ import annotations

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.contexts import num_contexts
from errata.editing.lane.needs import (
    FP32,
    FP64,
    EditLoad,
    LaneNeeds,
    Need,
    Searched,
    Work,
    header_store,
)
from errata.editing.model.shape import ModelShape

_HEADER_BYTES = 1_500  # of ten layers' tensors and the commit's metadata
_METADATA_BYTES = 71  # of an edit: its fact in hex, and a list of replaced edits, as JSON


def needs(model: ModelShape, config: AdapleConfig, load: EditLoad) -> LaneNeeds:
    """The needs of a lane, with L = `config.resolve_layers` (symbols: `editing.lane.needs`)."""
    layers = config.resolve_layers(model.num_layers)
    return LaneNeeds(
        replica=tuple(_replica(model, layers, load)),
        writer=tuple(_writer(model, config, layers, load)),
        retrieval=None,
        effects=(),
        store=tuple(_store(model, config, layers, load)),
        batch=load.batch_edits,
        searched=Searched(0, 0),
        work=tuple(_work(model, config, layers, load)),
        matrices=len(layers) * model.matrix_numbers * model.element_bytes,
    )


def _replica(model: ModelShape, layers: tuple[int, ...], load: EditLoad) -> list[Need]:
    """The edited matrices (`editing.model.weights`), and every commit's factors and directions.

    A change computes new sums and new matrices while the old ones are still there, and holds the
    old ones until the next change, which could still be undone.
    """
    count, edits = len(layers), load.num_edits
    matrices = count * model.matrix_numbers
    direction = model.d_ff * (FP32 + (2 if load.has_fast_bf16 else 0)) + FP32
    return [
        Need("base of edited matrices", matrices * model.element_bytes, "L·d·d_ff·b"),
        Need("fp32 sums of edited matrices", matrices * FP32, "L·d·d_ff·4"),
        Need(
            "factors of commits",
            count * edits * (model.d + model.d_ff + 1) * FP32,
            "L·N(d + d_ff + 1)·4",
        ),
        Need(
            "directions for attribution",
            edits * direction,
            "N(6·d_ff + 4)" if load.has_fast_bf16 else "N(4·d_ff + 4)",
        ),
        Need(
            "change of weights",
            matrices * (FP32 + model.element_bytes) + 2 * model.matrix_numbers * FP32,
            "L·d·d_ff(4 + b) + 2·d·d_ff·4",
            during="commit",
        ),
        Need(
            "renewal of directions", 2 * edits * model.d_ff * FP32, "2·N·d_ff·4", during="request"
        ),
    ]


def _writer(
    model: ModelShape, config: AdapleConfig, layers: tuple[int, ...], load: EditLoad
) -> list[Need]:
    """Statistics and earlier keys all the time; the rest while a fit or the statistics run.

    Solving holds, at its highest, C, γK₁K₁ᵀ and their sum, or C, the sum and its Cholesky factor:
    three matrices of d_ff² fp64 (`adaple.covariance.system`, `adaple.solve`). With
    `covariance=accumulate`, ΣKτKτᵀ of all layers exist throughout the fit, and while one is made,
    the stacked keys in fp32 and two copies in fp64.
    """
    count, edits, square = len(layers), load.num_edits, model.d_ff**2
    found = [
        Need("statistics E[kkᵀ]", count * square * FP64, "L·d_ff²·8"),
        Need(
            "statistics pass",
            count * square * FP64 + square * (FP32 + FP64),
            "L·d_ff²·8 + d_ff²·12",
            during="statistics",
        ),
        Need("reading cached statistics", 2 * square * FP64, "2·d_ff²·8", "host", during="start"),
    ]
    if config.covariance == "accumulate":
        found += [
            Need("keys of earlier edits", count * edits * model.d_ff * FP32, "L·N·d_ff·4", "host"),
            Need("Gram matrices of a fit", count * square * FP64, "L·d_ff²·8", "host", "fit"),
            Need("making a Gram matrix", edits * model.d_ff * 20, "N·d_ff·20", "host", "fit"),
        ]
    if config.optimise == "layers":
        metrics = count * model.d**2
        found += [
            Need("roots of Fisher matrices", metrics * FP32, "L·d²·4"),
            Need("Fisher matrices of text", metrics * FP64, "L·d²·8", during="statistics"),
        ]
    return [
        *found,
        Need("solving a layer", 3 * square * FP64, "3·d_ff²·8", during="fit"),
        Need(
            "weights during a fit",
            len(layers) * model.matrix_numbers * model.element_bytes
            + 2 * model.matrix_numbers * FP32,
            "L·d·d_ff·b + 2·d·d_ff·4",
            during="fit",
        ),
        *_targets(model, config, layers, load),
    ]


def _first(config: AdapleConfig, layers: tuple[int, ...]) -> int:
    """The first block through which the targets' optimisation passes."""
    return layers[0] if config.optimise == "layers" else layers[-1]


def _rows(config: AdapleConfig, load: EditLoad) -> tuple[int, int]:
    """Rows of the targets' problem with a target, and rows of its KL term."""
    return load.batch_edits * num_contexts(config), load.batch_edits if config.kl_weight else 0


def _targets(
    model: ModelShape, config: AdapleConfig, layers: tuple[int, ...], load: EditLoad
) -> list[Need]:
    """What is optimised, and what a step keeps for its backward pass.

    With `optimise=top` that is Adam's values and moments of δ^a and δ^m.

    Every edit has a row for each context and one for KL (`adaple.targets.TargetProblem`). Logits
    are held in the model's dtype, in fp32, and as log-probabilities.
    """
    rows, kl_rows = _rows(config, load)
    scored = rows * load.target_tokens + kl_rows
    own, formula = (2 if config.attention_delta else 1), "3·2·u·d·4"
    if config.optimise == "layers":  # values, changes and gradients, without Adam's moments
        own, formula = len(layers), "3·L·u·d·4"
    state = 3 * own * load.batch_edits * model.d * FP32
    logits = scored * (model.element_bytes + 2 * FP32) + 3 * kl_rows * FP32
    return [
        Need("targets' optimiser", state, formula, during="fit"),
        Need(
            "targets' activations",
            model.saved_bytes(rows + kl_rows, load.text_tokens, _first(config, layers)),
            "kept by the blocks from the last (optimise=layers: the first) edited one on, for "
            "u(contexts + 1) rows of T tokens",
            during="fit",
            is_estimate=True,
        ),
        Need(
            "targets' logits",
            logits * model.num_embeddings,
            "V·(n(b + 8) + 12·u), n = u·contexts·t + u",
            during="fit",
            is_estimate=True,
        ),
    ]


def _store(
    model: ModelShape, config: AdapleConfig, layers: tuple[int, ...], load: EditLoad
) -> list[Need]:
    """Artifacts with factors and gains, memories with keys, and the cached statistics."""
    count, edits, commits = len(layers), load.num_edits, load.num_commits(load.batch_edits)
    return [
        Need(
            "factors and gains",
            count * edits * (model.d + model.d_ff + 1) * FP32,
            "L·N(d + d_ff + 1)·4",
            "disk",
        ),
        Need("memories: keys", count * edits * model.d_ff * FP32, "L·N·d_ff·4", "disk"),
        Need("facts in headers", edits * _METADATA_BYTES, "N·71", "disk", is_estimate=True),
        header_store(2 * commits, _HEADER_BYTES),
    ]


def _work(
    model: ModelShape, config: AdapleConfig, layers: tuple[int, ...], load: EditLoad
) -> list[Work]:
    """The statistics, a fit, and a prompt's token; a frozen block costs as much again backwards."""
    square, edits, batch = model.d_ff**2, load.num_edits, load.batch_edits
    tokens = config.covariance_samples * model.d_ff
    rows, kl_rows = _rows(config, load)
    per_block = model.num_block_parameters // model.num_layers
    upper = per_block * (model.num_layers - _first(config, layers))
    scored = rows * load.target_tokens + kl_rows
    step = 4 * (
        (rows + kl_rows) * load.text_tokens * upper + scored * model.d * model.num_embeddings
    )
    fisher = config.metric_tokens if config.optimise == "layers" else 0
    return [
        Work(
            "statistics pass, once per LLM",
            tokens * (2 * model.num_block_parameters + 2 * len(layers) * square),
            "n(2·P_blocks + 2·L·d_ff²), n = samples·d_ff tokens",
        ),
        Work(
            "Fisher matrices, once per LLM",
            6 * fisher * (model.num_block_parameters + model.d * model.num_embeddings),
            "6·n(P_blocks + d·V), n = metric_tokens; none with optimise=top",
        ),
        Work(
            "targets of a fit, at most",
            config.steps * step,
            "steps·4(rows·T·P_upper + n·d·V)",
        ),
        Work(
            "solving a fit",
            len(layers) * (model.d_ff**3 // 3 + 4 * square * batch + 2 * square * edits),
            "L(d_ff³/3 + 4·d_ff²·u + 2·d_ff²·N)",
        ),
        Work("attribution of a prompt's token", 2 * model.d_ff * edits, "2·d_ff·N"),
    ]
