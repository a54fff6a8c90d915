"""Where meta-training starts: a retriever that already finds like by like. Ours.

The paper starts from random MLPs and can afford 150,000 steps. Here the first step already ranks by
similarity: pooled features are standardised (their common part says nothing), MLP_Q is MLP_K's copy
(equal projections keep inner products), the residual part is small, the sentinel is made of
embedded tokens, and scores are scaled so that the softmax can tell candidates apart. Prompts start
as copies of the target's tokens, and what MLP_P adds to them is small.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from errata.editing.recipe.examples import Example
from errata.editing.recipe.lane_model import LaneModel, Representation, knowledge

_NUM_EXAMPLES = 256
_NUM_LIKES = 40
_ROWS = 512  # compared at once with all others
_RESIDUAL = 0.1
_LEAST_DEVIATION = 0.3  # of the mean one
_SHARPNESS = 20.0  # scale of a cosine; as contrastive encoders are trained with


@torch.no_grad()
def start_retriever(model: LaneModel, examples: Sequence[Example]) -> float:
    """Sets MLP_K, MLP_Q and sentinel by what the untrained lane model's encoder makes of examples.

    Args:
        model: untrained; changed.
        examples: of training; the first ones are read.

    Returns:
        The scale of scores at which a softmax over candidates is about as sharp as it should be.
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
    keys = model.key_mlp(pooled)
    return _SHARPNESS / float(keys.square().sum(-1).mean())


@torch.no_grad()
def start_prompts(model: LaneModel) -> None:
    """Makes MLP_P's first prompts copies of the target's tokens, if it sees any."""
    if model.shape.num_target:
        model.prompt_mlp.second.weight.mul_(_RESIDUAL)
        model.prompt_mlp.second.bias.zero_()


@torch.no_grad()
def likes_of(model: LaneModel, examples: Sequence[Example]) -> list[list[int]]:
    """For each example, the numbers of others whose keys have the highest cosine with its own."""
    statements = [knowledge(example.prompt, example.target) for example in examples]
    keys = torch.nn.functional.normalize(model.key_mlp(model.encoder.in_parts(statements)), dim=1)
    k = min(_NUM_LIKES + 1, len(examples))
    nearest = torch.cat([(part @ keys.T).topk(k).indices for part in keys.split(_ROWS)])
    return [[j for j in row if j != i] for i, row in enumerate(nearest.tolist())]


def _standardise(mlp: Representation, pooled: torch.Tensor) -> None:
    """Folds (x − mean) / deviation into W₁ and b₁: the architecture stays the published one."""
    first, second = mlp.first, mlp.second
    mean, deviation = pooled.mean(0), pooled.std(0)
    # A feature that hardly varies yet, such as an untrained pooler's, must not be blown up.
    deviation = deviation.clamp(min=_LEAST_DEVIATION * float(deviation.mean()))
    first.weight.copy_(torch.randn_like(first.weight) / first.in_features**0.5 / deviation)
    first.bias.copy_(-first.weight @ mean)
    second.weight.mul_(_RESIDUAL)
    second.bias.zero_()
