"""Initialisation of a lane model: a retriever that ranks by similarity from the first step. Ours.

The paper starts from random MLPs and trains for 150,000 steps. Here, pooled features are
standardised, because their common part carries no information; MLP_Q is a copy of MLP_K, because
equal projections preserve inner products; the residual part is small; the sentinel consists of
embedded tokens; and scores are scaled so that the softmax separates the candidates. Continuous
prompts start as copies of the target's tokens, to which MLP_P adds little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from errata.editing.model.causal_lm import CausalLM, Widths
from errata.editing.model.prompts import tokenise
from errata.editing.model.replay import enter
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.examples import Example
from errata.editing.retriever.gate_model import GateModel
from errata.editing.retriever.heads import LaneModelShape, Representation
from errata.editing.retriever.lane_model import LaneModel, knowledge
from errata.editing.retriever.training_config import TrainingConfig
from errata.errors import InvalidRequestError

_NUM_EXAMPLES = 256
_NUM_NEIGHBOURS = 40
_NUM_SPREAD_ROWS, _SPREAD_LENGTH = 8, 32
_ROWS = 512  # compared with all others in one product
_RESIDUAL = 0.1
_LEAST_DEVIATION = 0.3  # relative to the mean deviation
_SHARPNESS = 20.0  # scale of a cosine, as is common in training contrastive encoders


def new_lane_model(
    llm: CausalLM,
    encoder: str | Path | None,
    config: TrainingConfig,
    retriever: GateModel | None = None,
) -> LaneModel:
    """An untrained lane model for an LLM.

    Args:
        llm: unedited.
        encoder: folder or hub id; None creates a small encoder with the LLM's tokenizer.
        config: of the training; its seed determines the random weights.
        retriever: for `stages="prompts"`, a gate or lane model whose encoder, MLP_K, MLP_Q and
            sentinel are reused, with its frames; it also determines `d_r`, `num_sentinel` and
            `max_tokens`.

    Raises:
        ModelNotFoundError, UnsupportedModelError: the encoder cannot be used.
        InvalidRequestError: a retriever is missing, or the stages do not use one.
    """
    if (retriever is not None) != (config.stages == "prompts"):
        raise InvalidRequestError(
            "stages 'prompts' requires a retriever, and no other stages use one.",
            field="retriever",
        )
    torch.manual_seed(config.seed)
    if retriever is not None:
        made = retriever.encoder
    elif encoder is None:
        made = Encoder.small(llm, config.max_tokens, width=config.width, depth=config.depth)
    else:
        made = Encoder.load(encoder, config.max_tokens)
    after = place_behind_bos(llm) if config.placement == "after_bos" else 0
    shape = shape_of(config, llm, max_tokens=made.max_tokens, after=after)
    if retriever is not None:
        known = retriever.sizes
        shape = replace(shape, d_r=known.d_r, num_sentinel=known.num_sentinel)
    model = LaneModel(made, shape, llm.digest)
    if retriever is not None:
        model.frames, model.learned = retriever.frames, retriever.learned
        model.key_mlp, model.query_mlp = retriever.key_mlp, retriever.query_mlp
        model.sentinel, model.calibration = retriever.sentinel, retriever.calibration
    model.prompt_mlp.scale.copy_(_spreads(llm, shape.deep)[:, None, None])
    return model.to(llm.device)


def shape_of(config: TrainingConfig, llm: Widths, *, max_tokens: int, after: int) -> LaneModelShape:
    """The sizes of the lane model that a training makes for an LLM.

    Args:
        config: of the training.
        llm: with its number of layers and its width.
        max_tokens: length of the longest text that the encoder reads.
        after: as in `LaneModelShape`.
    """
    return LaneModelShape(
        d_r=config.d_r,
        num_prompt=config.num_prompt,
        deep=_spread_out(config.num_deep, llm.num_layers),
        num_target=config.num_target,
        by_token=config.by_token,
        num_sentinel=config.num_sentinel,
        after=after,
        d=llm.d,
        max_tokens=max_tokens,
    )


def place_behind_bos(llm: CausalLM) -> int:
    """`LaneModelShape.after` that puts continuous prompts after the tokenizer's BOS token: 0 or 1.

    Raises:
        InvalidRequestError: the tokenizer prepends more than one special token.
    """
    special = set(llm.tokenizer.all_special_ids)
    ids = tokenise(llm, "a").ids
    count = next((n for n, token in enumerate(ids) if token not in special), len(ids))
    if count > 1:
        raise InvalidRequestError(
            f"the tokenizer prepends {count} special tokens to a text; place prompts before them.",
            field="placement",
        )
    return count


def _spread_out(number: int, depth: int) -> tuple[int, ...]:
    """`number` evenly spaced layers after the first; fewer if the LLM has fewer."""
    places = (round(depth * (n + 1) / (number + 1)) for n in range(number))
    return tuple(sorted({place for place in places if 0 < place < depth}))


@torch.no_grad()
def _spreads(llm: CausalLM, layers: Sequence[int]) -> Tensor:
    """Standard deviations of token embeddings and of the inputs of these blocks, (1 + layers)."""
    # The module's output, which a prompt replaces; Gemma's module scales its weight.
    embeddings = llm.embeddings(torch.arange(llm.num_embeddings, device=llm.device)).float()
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(llm.num_embeddings, (_NUM_SPREAD_ROWS, _SPREAD_LENGTH), generator=rng)
    ids, mask = ids.to(llm.device), torch.ones_like(ids, device=llm.device)
    found = [embeddings.std()]
    for layer in layers:
        # The first token is the attention sink; its norm is of another magnitude.
        found.append(enter(llm, ids, mask, block=layer).hidden[:, 1:].float().std())
    return torch.stack(found)


@torch.no_grad()
def initialise_retriever(model: GateModel, examples: Sequence[Example]) -> float:
    """Initialises MLP_K, MLP_Q and the sentinel from the encoder's pooled vectors of examples.

    Args:
        model: untrained; changed in place.
        examples: of training; only the first ones are read.

    Returns:
        The scale of scores at which a softmax over candidates has a suitable temperature.
    """
    model.eval()
    texts = [
        text
        for example in examples[:_NUM_EXAMPLES]
        for text in (knowledge(example.prompt, example.target), example.rephrases[0])
    ]
    pooled = model.encoder.in_parts(texts)
    _standardise(model.key_mlp, pooled)
    ids = torch.randint(model.encoder.tokenizer.get_vocab_size(), (1, len(model.sentinel)))
    model.sentinel.copy_(model.encoder.model.embeddings(input_ids=ids.to(pooled.device))[0])
    model.query_mlp.load_state_dict(model.key_mlp.state_dict())
    return scale_of(model.key_mlp(pooled))


def scale_of(keys: Tensor) -> float:
    """The scale of scores at which a softmax over keys (n, d_r) has a suitable temperature."""
    return _SHARPNESS / float(keys.square().sum(-1).mean())


@torch.no_grad()
def initialise_prompts(model: LaneModel) -> None:
    """Initialises MLP_P to copy the target's tokens, if it reads any."""
    if model.shape.num_target:
        model.prompt_mlp.second.weight.mul_(_RESIDUAL)
        model.prompt_mlp.second.bias.zero_()


@torch.no_grad()
def neighbours_of(model: LaneModel, examples: Sequence[Example]) -> list[list[int]]:
    """For each example, the indices of the examples whose keys are nearest by cosine."""
    statements = [knowledge(example.prompt, example.target) for example in examples]
    keys = torch.nn.functional.normalize(model.key_mlp(model.encoder.in_parts(statements)), dim=1)
    k = min(_NUM_NEIGHBOURS + 1, len(examples))
    nearest = torch.cat([(part @ keys.T).topk(k).indices for part in keys.split(_ROWS)])
    return [[j for j in row if j != i] for i, row in enumerate(nearest.tolist())]


def _standardise(mlp: Representation, pooled: Tensor) -> None:
    """Folds (x − mean) / deviation into W₁ and b₁; the architecture remains as published."""
    first, second = mlp.first, mlp.second
    mean, deviation = pooled.mean(0), pooled.std(0)
    # Do not amplify a feature that hardly varies yet, such as that of an untrained pooler.
    deviation = deviation.clamp(min=_LEAST_DEVIATION * float(deviation.mean()))
    first.weight.copy_(torch.randn_like(first.weight) / first.in_features**0.5 / deviation)
    first.bias.copy_(-first.weight @ mean)
    second.weight.mul_(_RESIDUAL)
    second.bias.zero_()
