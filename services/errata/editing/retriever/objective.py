"""The loss of one training step, for keys, queries, sentinel and continuous prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from errata.editing.chat import in_alternating_forms
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
_ROWS_AT_ONCE = 20  # texts of similar length, because padding costs as much as text
LOSSES = ("neighbour", "sentinel", "outside", "reliability", "generality", "locality")


@dataclass(frozen=True, eq=False, slots=True)
class PooledFacts:
    """Pooled vectors x of many facts, from a frozen encoder.

    Attributes:
        statements, prompts, rephrases, outside: (n, 4·width) fp32; `outside` are locality prompts.
        subjects: (n,) int64.
    """

    statements: Tensor
    prompts: Tensor
    rephrases: Tensor
    outside: Tensor
    subjects: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, encoder: Encoder, samples: Sequence[Sample]) -> PooledFacts:
        """Encodes the texts of samples."""
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
    pooled: PooledFacts,
    rows: Tensor,
    num_asked: int,
    config: TrainingConfig,
    scale: Tensor,
) -> dict[str, Tensor]:
    """The retriever's losses over thousands of keys, with a frozen encoder.

    In an ordinary batch, the sentinel competes with a few keys; in serving, with all of them.

    Args:
        model: in training mode.
        pooled: of the training facts.
        rows: (m,) int64, indices of the candidates.
        num_asked: the number of candidates whose prompts are queries, from the first on.
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
    """The losses of a batch of b facts; the paper counts `sentinel` and `outside` as one loss.

    Args:
        model: in training mode.
        llm: frozen.
        samples: b facts.
        config: settings.
        scale: of the scores, a scalar.
        part: `retriever`, the first three of `LOSSES`; `prompts`, the last three, which train MLP_P
            on constant keys; or `all`.

    Returns:
        Scalars by name of `LOSSES`, weighted; without `locality` if its weight is 0.
    """
    b = len(samples)
    facts = [sample.example for sample in samples]
    if part == "prompts":
        with torch.no_grad():
            keys = model.keys_for_prompts([(fact.prompt, fact.target) for fact in facts])
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
    """Candidates are m keys and the sentinel's key; queries belong to the first b ≤ m facts.

    Another key of the same subject is excluded, because it is not a wrong candidate.
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

    # Equations 14 and 15 divide by b, not by the number of queries.
    weight = times if config.terms == "each" else 1
    return {
        "neighbour": weight * loss(own[to_key], index.repeat(times), hidden.repeat(times, 1)),
        "sentinel": weight * loss(own[to_sentinel], sentinel, without_own.repeat(times, 1)),
        "outside": loss(outside, sentinel[:b], None),
    }


def _answers(
    model: LaneModel, llm: CausalLM, samples: Sequence[Sample], keys: Tensor, config: TrainingConfig
) -> dict[str, Tensor]:
    """Losses of the LLM's answers after the facts' own continuous prompts."""
    facts = [(sample.example.prompt, sample.example.target) for sample in samples]
    prompts = model.prompts(keys, model.target_embeddings(llm, facts))
    found = _target_losses(model, llm, samples, prompts, config)
    if config.locality_weight:
        shape = model.shape
        texts = Texts.of(
            llm, tokenise_all(llm, [sample.locality for sample in samples]), shape.after
        )
        with torch.no_grad():
            base = answer_logits(llm, texts, None)
        prompted = answer_logits(llm, texts, prompts, shape.deep)
        counted = texts if config.terms == "each" else None
        found["locality"] = config.locality_weight * locality_loss(base, prompted, counted)
    return found


def _target_losses(
    model: LaneModel,
    llm: CausalLM,
    samples: Sequence[Sample],
    prompts: Tensor,
    config: TrainingConfig,
) -> dict[str, Tensor]:
    """`reliability` on the facts' own prompts, `generality` on their rephrases.

    A model with a chat template is asked every second question in a conversation.
    """
    shape = model.shape
    own = range(0, len(samples), config.own_prompt_every)
    questions = [
        *(("reliability", n, samples[n].example.prompt) for n in own),
        *(("generality", n, sample.rephrase) for n, sample in enumerate(samples)),
    ]
    asked = in_alternating_forms([text for _, _, text in questions], chats=llm.has_chat_template)
    tokenised = tokenise_all(
        llm,
        [
            (prompt, samples[n].example.target)
            for prompt, (_, n, _) in zip(asked, questions, strict=True)
        ],
    )
    rows = [(kind, n, row) for (kind, n, _), row in zip(questions, tokenised, strict=True)]
    rows.sort(key=lambda row: len(row[2].ids))
    logits, labels, kinds = [], [], []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        texts = Texts.of(llm, [row for _, _, row in part], shape.after)
        fact = torch.tensor([n for _, n, _ in part], device=prompts.device)
        logits.append(answer_logits(llm, texts, prompts[fact], shape.deep))
        labels.append(texts.labels)
        kinds += [part[n][0] for n in texts.rows.tolist()]
    all_logits, all_labels = torch.cat(logits), torch.cat(labels)
    found: dict[str, Tensor] = {}
    for kind in ("reliability", "generality"):
        places = torch.tensor([k == kind for k in kinds], device=prompts.device)
        number = sum(asked_kind == kind for asked_kind, _, _ in questions)
        number_or_none = number if config.terms == "each" else None
        chosen = all_logits[places], all_labels[places]
        found[kind] = answer_loss(*chosen, config.hinge, number_or_none)
    return found
