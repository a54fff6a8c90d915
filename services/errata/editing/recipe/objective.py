"""One step's loss: what a batch of facts asks of keys, queries, sentinel and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from errata.editing.causal_lm import CausalLM
from errata.editing.prompts import tokenise
from errata.editing.recipe.examples import Draw
from errata.editing.recipe.lane_model import LaneModel, knowledge
from errata.editing.recipe.losses import (
    Texts,
    answer_logits,
    answer_loss,
    contrastive,
    locality_loss,
)
from errata.editing.recipe.training_config import TrainingConfig

Part = Literal["all", "retriever", "prompts"]
LOSSES = ("neighbour", "sentinel", "outside", "reliability", "generality", "locality")


class Bank:
    """Keys of the latest facts, as further wrong candidates.

    Attributes:
        keys: (n, d_r), without gradient.
        subjects: (n,) int64.
    """

    def __init__(self, size: int, d_r: int, device: torch.device) -> None:
        """Empty.

        Args:
            size: most keys that are kept; the oldest go first.
            d_r: their width.
            device: where they lie.
        """
        self._size = size
        self.keys = torch.zeros(0, d_r, device=device)
        self.subjects = torch.zeros(0, dtype=torch.int64, device=device)

    def add(self, keys: Tensor, subjects: Tensor) -> None:
        """Adds a batch; keys of subjects that are known take their places."""
        stays = ~torch.isin(self.subjects, subjects)
        start = max(0, int(stays.sum()) + len(keys) - self._size)
        self.keys = torch.cat([self.keys[stays][start:], keys.detach().float()])[: self._size]
        self.subjects = torch.cat([self.subjects[stays][start:], subjects])[: self._size]


def losses(
    model: LaneModel,
    llm: CausalLM,
    draws: Sequence[Draw],
    bank: Bank,
    config: TrainingConfig,
    scale: Tensor,
    part: Part = "all",
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of a batch of b facts; `sentinel` and `outside` are one loss in the paper.

    Candidates are the b keys, the sentinel's key at b, and the bank's behind it.

    Args:
        model: in training mode.
        llm: frozen.
        draws: b facts.
        bank: keys of earlier facts.
        config: settings.
        scale: of the scores, a scalar.
        part: the first three losses, which concern the retriever; the last three, which concern
            MLP_P, and leave the keys as they are; or all of them.

    Returns:
        Scalars by name of `LOSSES`, weighted, and the b keys.
    """
    b = len(draws)
    facts = [draw.example for draw in draws]
    if part == "prompts":
        with torch.no_grad():
            keys = model.keys([knowledge(fact.prompt, fact.target) for fact in facts])
        return _answers(model, llm, draws, keys, config), keys
    near = model.encoder([knowledge(f.prompt, f.target) for f in facts] + [f.prompt for f in facts])
    far = model.encoder([d.rephrase for d in draws] + [d.locality[0] for d in draws])
    keys = model.key_mlp(near[:b])
    own = model.query_mlp(torch.cat([near[b:], far[:b]]))  # (2b, d_r): prompts, rephrases
    outside = model.query_mlp(far[b:])
    subjects = torch.tensor([fact.subject_id for fact in facts], device=keys.device)
    found = _retrieval(model, keys, own, outside, subjects, bank, config, scale)
    if part == "all":
        found |= _answers(model, llm, draws, keys, config)
    return found, keys


def _retrieval(
    model: LaneModel,
    keys: Tensor,
    own: Tensor,
    outside: Tensor,
    subjects: Tensor,
    bank: Bank,
    config: TrainingConfig,
    scale: Tensor,
) -> dict[str, Tensor]:
    b, device = len(keys), keys.device
    candidates = torch.cat([keys, model.sentinel_key()[None], bank.keys])
    same = subjects[:, None] == bank.subjects
    hidden = torch.cat([torch.zeros(b, b + 1, dtype=torch.bool, device=device), same], dim=1)
    without_own = hidden.clone()
    without_own[:, :b].fill_diagonal_(True)
    index = torch.arange(b, device=device)
    to_key, to_sentinel = torch.arange(2 * b, device=device).split(b)
    if config.sides == "both":
        to_key = to_sentinel = torch.cat([to_key, to_sentinel])
    else:
        swap = torch.rand(b, device=device) < 0.5
        to_key, to_sentinel = (
            torch.where(swap, to_sentinel, to_key),
            torch.where(swap, to_key, to_sentinel),
        )
    times = len(to_key) // b
    sentinel = torch.full((times * b,), b, device=device)

    def loss(queries: Tensor, wanted: Tensor, hidden: Tensor | None) -> Tensor:
        return contrastive(
            queries, candidates, wanted, scale=scale, hidden=hidden, hinge=config.hinge
        )

    return {
        "neighbour": loss(own[to_key], index.repeat(times), hidden.repeat(times, 1)),
        "sentinel": loss(own[to_sentinel], sentinel, without_own.repeat(times, 1)),
        "outside": loss(outside, sentinel[:b], None),
    }


def _answers(
    model: LaneModel, llm: CausalLM, draws: Sequence[Draw], keys: Tensor, config: TrainingConfig
) -> dict[str, Tensor]:
    """Losses of the LLM's answers with the facts' own prompts in front."""
    facts = [draw.example for draw in draws]
    targets = model.target_embeddings(llm, [(fact.prompt, fact.target) for fact in facts])
    prompts, after = model.prompts(keys, targets), model.shape.after
    found: dict[str, Tensor] = {}
    for name, questions in (
        ("reliability", [fact.prompt for fact in facts]),
        ("generality", [draw.rephrase for draw in draws]),
    ):
        rows = [tokenise(llm, q, f.target) for q, f in zip(questions, facts, strict=True)]
        texts = Texts.of(llm, rows)
        logits = answer_logits(llm, texts, prompts, after)
        found[name] = answer_loss(logits, texts.labels, config.hinge)
    texts = Texts.of(llm, [tokenise(llm, *draw.locality) for draw in draws])
    with torch.no_grad():
        base = answer_logits(llm, texts, None, after)
    stays = locality_loss(base, answer_logits(llm, texts, prompts, after))
    found["locality"] = config.locality_weight * stays
    return found
