"""One step's loss: what a batch of facts asks of keys, queries, sentinel and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise_all
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.examples import Sample
from errata.editing.retriever.lane_model import LaneModel, knowledge
from errata.editing.retriever.losses import (
    Texts,
    answer_logits,
    answer_loss,
    contrastive,
    locality_loss,
)
from errata.editing.retriever.training_config import TrainingConfig

Part = Literal["all", "retriever", "prompts"]
_ROWS_AT_ONCE = 20  # texts of like length, for padding costs as much as text
LOSSES = ("neighbour", "sentinel", "outside", "reliability", "generality", "locality")


@dataclass(frozen=True, eq=False, slots=True)
class Pooled:
    """What a frozen encoder makes of many facts: x of statements, prompts and so on.

    Attributes:
        statements, prompts, rephrases, outside: (n, 4·width) fp32; a rephrase and a locality prompt
            of each fact.
        subjects: (n,) int64.
    """

    statements: Tensor
    prompts: Tensor
    rephrases: Tensor
    outside: Tensor
    subjects: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, encoder: Encoder, samples: Sequence[Sample]) -> Pooled:
        """Encodes facts, as they were drawn."""
        facts = [sample.example for sample in samples]
        subjects = torch.tensor([fact.subject_id for fact in facts], device=encoder.device)
        return cls(
            encoder.in_parts([knowledge(fact.prompt, fact.target) for fact in facts]),
            encoder.in_parts([fact.prompt for fact in facts]),
            encoder.in_parts([sample.rephrase for sample in samples]),
            encoder.in_parts([sample.locality[0] for sample in samples]),
            subjects,
        )


def scope_losses(
    model: LaneModel,
    pooled: Pooled,
    rows: Tensor,
    num_asked: int,
    config: TrainingConfig,
    scale: Tensor,
) -> dict[str, Tensor]:
    """The retriever's losses among thousands of keys, while the encoder stays as it is.

    In a batch the sentinel holds against a few keys only; when it serves, against all.

    Args:
        model: in training mode.
        pooled: of the facts of training.
        rows: (m,) int64, the candidates.
        num_asked: how many of them, from the first on, are asked about.
        config: settings.
        scale: of the scores, a scalar.
    """
    asked = rows[:num_asked]
    keys = model.key_mlp(pooled.statements[rows])
    own = model.query_mlp(torch.cat([pooled.prompts[asked], pooled.rephrases[asked]]))
    outside = model.query_mlp(pooled.outside[asked])
    return _retrieval(model, keys, own, outside, pooled.subjects[rows], config, scale)


def losses(
    model: LaneModel,
    llm: CausalLM,
    samples: Sequence[Sample],
    config: TrainingConfig,
    scale: Tensor,
    part: Part = "all",
) -> dict[str, Tensor]:
    """The losses of a batch of b facts; `sentinel` and `outside` are one loss in the paper.

    Args:
        model: in training mode.
        llm: frozen.
        samples: b facts.
        config: settings.
        scale: of the scores, a scalar.
        part: the first three losses, which concern the retriever; the last three, which concern
            MLP_P, and leave the keys as they are; or all of them.

    Returns:
        Scalars by name of `LOSSES`, weighted; without `locality` if its weight is 0.
    """
    b = len(samples)
    facts = [sample.example for sample in samples]
    if part == "prompts":
        with torch.no_grad():
            keys = model.keys([knowledge(fact.prompt, fact.target) for fact in facts])
        return _answers(model, llm, samples, keys, config)
    near = model.encoder([knowledge(f.prompt, f.target) for f in facts] + [f.prompt for f in facts])
    far = model.encoder([d.rephrase for d in samples] + [d.locality[0] for d in samples])
    keys = model.key_mlp(near[:b])
    own = model.query_mlp(torch.cat([near[b:], far[:b]]))  # (2b, d_r): prompts, rephrases
    outside = model.query_mlp(far[b:])
    subjects = torch.tensor([fact.subject_id for fact in facts], device=keys.device)
    found = _retrieval(model, keys, own, outside, subjects, config, scale)
    if part == "all":
        found |= _answers(model, llm, samples, keys, config)
    return found


def _retrieval(
    model: LaneModel,
    keys: Tensor,
    own: Tensor,
    outside: Tensor,
    subjects: Tensor,
    config: TrainingConfig,
    scale: Tensor,
) -> dict[str, Tensor]:
    """Candidates are m keys, then the sentinel's; the first b ≤ m facts are asked about.

    Another key of the same subject is no wrong candidate: it takes no part.
    """
    b, m, device = len(outside), len(keys), keys.device
    candidates = torch.cat([keys, model.sentinel_key()[None]])
    hidden = torch.zeros(b, m + 1, dtype=torch.bool, device=device)
    hidden[:, :m] = subjects[:b, None] == subjects
    without_own = hidden.clone()
    hidden[:, :m].fill_diagonal_(False)
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
    sentinel = torch.full((times * b,), m, device=device)

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
    model: LaneModel, llm: CausalLM, samples: Sequence[Sample], keys: Tensor, config: TrainingConfig
) -> dict[str, Tensor]:
    """Losses of the LLM's answers with the facts' own prompts in front."""
    facts = [sample.example for sample in samples]
    targets = model.target_embeddings(llm, [(fact.prompt, fact.target) for fact in facts])
    prompts, shape = model.prompts(keys, targets), model.shape
    by_kind = {
        "reliability": range(0, len(facts), config.own_prompt_every),
        "generality": range(len(facts)),
    }
    texts_of = {
        "reliability": [fact.prompt for fact in facts],
        "generality": [sample.rephrase for sample in samples],
    }
    asked = [(kind, n) for kind, chosen in by_kind.items() for n in chosen]
    rows = tokenise_all(llm, [(texts_of[kind][n], facts[n].target) for kind, n in asked])
    lessons = [(kind, n, row) for (kind, n), row in zip(asked, rows, strict=True)]
    lessons.sort(key=lambda lesson: len(lesson[2].ids))
    logits, labels, kinds = [], [], []
    for start in range(0, len(lessons), _ROWS_AT_ONCE):
        part = lessons[start : start + _ROWS_AT_ONCE]
        texts = Texts.of(llm, [row for _, _, row in part])
        owner = torch.tensor([fact for _, fact, _ in part], device=keys.device)
        logits.append(answer_logits(llm, texts, prompts[owner], shape.after, shape.deep))
        labels.append(texts.labels)
        kinds += [part[n][0] for n in texts.rows.tolist()]
    all_logits, all_labels = torch.cat(logits), torch.cat(labels)
    found: dict[str, Tensor] = {}
    for kind in by_kind:
        places = torch.tensor([k == kind for k in kinds], device=keys.device)
        found[kind] = answer_loss(all_logits[places], all_labels[places], config.hinge)
    if not config.locality_weight:
        return found
    texts = Texts.of(llm, tokenise_all(llm, [sample.locality for sample in samples]))
    with torch.no_grad():
        base = answer_logits(llm, texts, None, shape.after)
    prompted = answer_logits(llm, texts, prompts, shape.after, shape.deep)
    stays = locality_loss(base, prompted)
    found["locality"] = config.locality_weight * stays
    return found
